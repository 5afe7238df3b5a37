"""Saving and loading of a model and what trains it.

Source: Detectron2's checkpoint/detection_checkpoint.py; the work is fvcore's Checkpointer's, as there.
Deviations: only files that torch.save wrote; Detectron2's also reads pickles of other frameworks and matches their
names by heuristics, which is refused here.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from . import comm


class DetectionCheckpointer(Checkpointer):
    """Files `<name>.pth` = {"model": state dict, <checkpointable>: its state, ...}, and the name of the last one."""

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        """save_to_disk: None means that only the main process writes."""
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:  # type: ignore[override]
        """A plain state dict counts as {"model": it}."""
        if filename.endswith((".pkl", ".pyth")):
            raise ValueError(f"{filename}: pickles and pycls files are read with Detectron2 only; convert it to .pth")
        loaded = super()._load_file(filename)
        if "model" not in loaded:
            loaded = {"model": loaded}
        if loaded.get("matching_heuristics", False):
            raise ValueError(f"{filename} wants its names matched by heuristics, which only Detectron2 does")
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> object:
        """As fvcore's; the model's own pixel_mean and pixel_std may be missing, they come from the config."""
        incompatible = super()._load_model(checkpoint)
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        return incompatible
