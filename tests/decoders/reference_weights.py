"""Weights and inputs that are functions of names and shapes: what a golden was recorded with can be made anywhere.

    values = default_rng(PCG64 seeded with crc32 of the name's bytes).standard_normal(shape)

and, by the end of the name:

    conv or linear weight (2 dimensions or more)   values * sqrt(2 / fan_in), fan_in = product of shape[1:]
    "running_mean"                                 0.1 * values
    "running_var"                                  0.5 + |values|
    other 1-dimensional "weight" (normalization)   1 + 0.1 * values
    "bias"                                         0.1 * values
    "num_batches_tracked"                          0

float32, computed in float64. The names are those of the recorded implementation, so a head with other names is loaded
by mapping: for each of its tensors, `reference_tensor(name in the recorded head, shape)`. The names of the recorded
heads, in order of definition, are in goldens/mmseg_heads.json under "state_dict":

    psp_modules.<i>.1.{conv,bn}     PPM branch of pool scale i: pool, conv 1x1, BN, ReLU
    bottleneck.{conv,bn}            PPM: conv 3x3 over [top level, branch 0, ..., branch 3]
    lateral_convs.<i>.{conv,bn}     FPN: 1x1 on res2, res3, res4
    fpn_convs.<i>.{conv,bn}         FPN: 3x3 on p2, p3, p4 (not on the top level, which is the PPM's output)
    fpn_bottleneck.{conv,bn}        final 3x3 over [p2, p3, p4, p5], all at stride 4
    conv_seg                        1x1 classifier with bias
    convs.<i>.{conv,bn}, conv_cat.{conv,bn}   FCNHead: convolutions; 3x3 over [input, last of them]; of several levels,
                                    convs.0 is 1x1 over all of them at the finest one's size
    image_pool.1.{conv,bn}          ASPP: conv 1x1 on the mean
    aspp_modules.<i>.{conv,bn}      ASPP: 1x1, then dilated 3x3; separable: {depthwise_conv,pointwise_conv}.{conv,bn}
    bottleneck.{conv,bn}            PSP: as PPM; ASPP: 3x3 over [image pool, aspp_modules]
    c1_bottleneck.{conv,bn}         separable ASPP: 1x1 on the low level
    sep_bottleneck.<i>.{depthwise_conv,pointwise_conv}.{conv,bn}   3x3 over [ASPP, low level], then 3x3
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch


def reference_tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The value of the parameter or buffer `name`."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.long)
    values = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(shape))
    if name.endswith("running_mean") or name.endswith("bias"):
        values = 0.1 * values
    elif name.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        values = values * math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def reference_state(names_and_shapes: Iterable[tuple[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
    """A state dict with the value of each name."""
    return {name: reference_tensor(name, shape) for name, shape in names_and_shapes}


def reference_inputs(channels: Sequence[int], sizes: Sequence[Sequence[int]], batch: int = 2) -> list[torch.Tensor]:
    """One feature map (batch, channels, H, W) for each level, standard normal, named "input.<level number>"."""
    shapes = [(batch, width, *size) for width, size in zip(channels, sizes, strict=True)]
    generators = [np.random.Generator(np.random.PCG64(zlib.crc32(f"input.{i}".encode()))) for i in range(len(shapes))]
    return [
        torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
        for generator, shape in zip(generators, shapes, strict=True)
    ]
