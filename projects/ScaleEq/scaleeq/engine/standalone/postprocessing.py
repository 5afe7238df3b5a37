"""From logits of the padded input to logits of the original image.

Source: Detectron2's modeling/postprocessing.py. Deviations: only the semantic half is here.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """result: (C, H, W), logits of the padded input -> (C, output_height, output_width), logits of the image.

    img_size: (h, w) of the input before padding. Cuts the padding off, then resizes (bilinear, half-pixel centres).
    """
    height, width = img_size[0], img_size[1]
    unpadded = result[:, :height, :width].unsqueeze(0)
    return F.interpolate(unpadded, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
