"""A narrow model with weights, and photos of a user."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from scaleeq.training import Trainer
from tests.training.tiny import tiny_config


def saved_model(tmp_path, **changes):
    """A config and the weights of a fresh narrow model, its offsets and gates not constant."""
    cfg = tiny_config(tmp_path, **changes)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    for name, parameter in model.named_parameters():
        if ".predictor." in name or ".gate." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    return cfg, str(tmp_path / "model.pth")


def photos(folder) -> None:
    """Pictures of three sizes, of odd names, and a file that is cut off."""
    rng = np.random.default_rng(0)
    (folder / "in here").mkdir(parents=True)
    for name, size in {"a#1.png": (40, 70), "in here/b.JPG": (64, 33), "in here/b.png": (90, 20)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a#1.png").read_bytes()[:100])
    (folder / "notes.txt").touch()
