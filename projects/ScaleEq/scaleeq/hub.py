"""A model in the layout of Hugging Face's hub, config.json and model.safetensors: in a local folder or there.

    model = HubModel.load("camvid/uper_r18", "output/camvid/model_final.pth")      arguments of scaleeq.load_model
    model.save_pretrained("uper_r18")
    model.push_to_hub("NAME/uper_r18")                                             with an account there
    model = HubModel.from_pretrained("uper_r18")                                   or "NAME/uper_r18"

config.json holds the keys of MODEL and INPUT that differ from the defaults, MODEL.PIXEL_MEAN and PIXEL_STD among them,
by which images are normalized. Saving, loading and the model card are huggingface_hub's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from scaleeq.choices import flatten
from scaleeq.engine import load_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.model import Segmentation
from scaleeq.zoo import TABLE, built, folded_as_a_file, load_model

SECTIONS = ("MODEL", "INPUT")
OF_A_RUN = ("MODEL.WEIGHTS", "MODEL.DEVICE")


class HubModel(Segmentation, PyTorchModelHubMixin, library_name="scaleeq", tags=["image-segmentation"]):
    """Normalized images (N, 3, H, W) -> logits (N, num_classes, H, W), as create_model's; of several tasks, a dict.

    Args:
        keys: full key of a config -> value, where it is not the default.
        folded: whether the equalizers that they describe are folded into the weights.

    KeyError, ValueError: what the config refuses.
    """

    def __init__(self, keys: dict[str, object], folded: bool = False):
        cfg = load_config(None, [word for pair in keys.items() for word in pair])
        model = built(cfg, str(keys))
        super().__init__(**(folded_as_a_file(model) if folded else model).parts)

    @classmethod
    def load(cls, name: str, weights: str = "", *, table: Path = TABLE) -> HubModel:
        """The model of a name or of a config's file, with its weights, in eval mode. Arguments, errors: load_model."""
        keys, loaded = keys_of(name), load_model(name, weights, table=table)
        equalized = any(fusion.equalizers for fusion in fusions_of(loaded).values())
        model = cls(keys, folded=bool(keys.get("MODEL.SCALE_EQUALIZER.ENABLED")) and not equalized)
        model.load_state_dict(loaded.state_dict())
        return model.eval()

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **options: Any) -> HubModel:
        """The mixin's, with every tensor of the file needed and none left over."""
        return super()._from_pretrained(strict=strict, **options)


def keys_of(name: str) -> dict[str, object]:
    """Full key -> value, of the sections that a model is built from, where a config differs from the defaults."""
    defaults = dict(flatten(load_config(None)))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(load_config(name))
        if key.startswith(tuple(f"{section}." for section in SECTIONS))
        and key not in OF_A_RUN
        and value != defaults[key]
    }
