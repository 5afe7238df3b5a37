"""Models by name: which there are, which have weights, and one with its weights, as a plain module.

    list_models("*uper*")
    model = load_model("camvid/uper_r18+scale_equalizer", weights="output/camvid/model_final.pth")

zoo.json says which names have weights that can be had without training: files that come with the package, in weights/,
or that a URL has. `python -m evidence.released_weights` makes such a file and its entry. A name's entry:

    {"camvid/uper_r18": {"weights": "https://... or a path beside the table", "sha256": "<64 digits>",
                         "measured": {"sem_seg/mIoU": 56.2}, "evidence": "docs/results/camvid_uper_r18.json"}}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scaleeq.choices import one_of
from scaleeq.config.parts import list_configs

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.model import ScaleEqSegmentor, Segmentation

TABLE = Path(__file__).with_name("zoo.json")


class Entry(NamedTuple):
    """Weights of a name. weights: a URL, or a file. measured: metric -> its value; evidence: the file that says so."""

    weights: str
    sha256: str
    measured: Mapping[str, float]
    evidence: str = ""


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a pattern such as "*uper*", sorted; each is a config's, and may take +overlays."""
    return list_configs(pattern)


def read_table(path: Path = TABLE) -> dict[str, Entry]:
    """Name -> its weights. ValueError, with the name and the key: a table that says something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a table is name -> entry")
    return {name: _entry(f"{path}: {name}", fields, path.parent) for name, fields in content.items()}


def _entry(where: str, fields: object, folder: Path) -> Entry:
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is {fields!r}; give {', '.join(Entry._fields)}")
    for key in fields:
        one_of(key, Entry._fields, key=f"a key of {where}")
    weights, sha256, measured = (fields.get(key) for key in ("weights", "sha256", "measured"))
    if not isinstance(weights, str) or not weights:
        raise ValueError(f"{where}: weights is {weights!r}; give a URL, or a file beside the table")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{where}: sha256 is {sha256!r}; give the 64 digits of the file's")
    is_metric = isinstance(measured, dict) and all(type(value) in (int, float) for value in measured.values())
    if not is_metric or not measured:
        raise ValueError(f"{where}: measured is {measured!r}; give metric -> number")
    return Entry(
        weights if "://" in weights else str(folder / weights), sha256, measured, str(fields.get("evidence", ""))
    )


def load_model(name: str, weights: str = "", *, table: Path = TABLE) -> Segmentation:
    """The model of a name, or of a config's file, with its weights, in eval mode on the CPU.

    Normalized images (N, 3, H, W) -> logits (N, num_classes, H, W), as create_model's; of several tasks, task -> map.
    Auxiliary heads are left out; equalizers are there, or folded, as the file has them.

    Args:
        name: of list_models, or a path, each with +overlays; a run's config.yaml, for example.
        weights: a checkpoint of `scaleeq train`, or a state dict of such a model, as torch.save writes it; empty: those
            of the table.
        table: name -> weights.

    Raises:
        FileNotFoundError: no such name or file.
        ValueError: a name without weights; a file that is broken, or does not fit in every tensor.
    """
    # Here, because a list of names needs no torch.
    from scaleeq.engine import load_config
    from scaleeq.model import Segmentation

    cfg = load_config(name)
    file = Path(weights or released_weights(name, table))
    if not file.is_file():
        raise FileNotFoundError(f"weights: there is no file {file}")
    model = _loaded(built(cfg, name), file)
    return Segmentation.of(model).eval()


def built(cfg: CfgNode, name: str) -> ScaleEqSegmentor:
    """A config's model on the CPU, with random weights. ValueError, with the config's name: the model of another."""
    from scaleeq.console import quiet
    from scaleeq.engine import build_model
    from scaleeq.model import ScaleEqSegmentor
    from scaleeq.segmentor import without_pretrained

    cfg = without_pretrained(cfg)
    cfg.MODEL.DEVICE = "cpu"
    with quiet():
        model = build_model(cfg)
    if not isinstance(model, ScaleEqSegmentor):
        raise ValueError(f"MODEL.META_ARCHITECTURE of {name} is {cfg.MODEL.META_ARCHITECTURE!r}; load_model gives ours")
    return model


def weights_of(name: str, cfg: CfgNode, weights: str = "") -> str:
    """The file of a config's weights: the one that is given, MODEL.WEIGHTS, or those of its name in the table.

    ValueError: there is none.
    """
    if found := weights or cfg.MODEL.WEIGHTS:
        return str(found)
    if name in read_table():
        return released_weights(name)
    raise ValueError(f"--weights FILE is missing, and {without_weights(name)}")


def without_weights(name: str) -> str:
    """How to come by weights of a name, or of a config's file, that has none."""
    return f"{name} has no weights yet: train it (scaleeq train {name}), or convert a peer's (docs/converters.md)"


def released_weights(name: str, table: Path = TABLE) -> str:
    """The file of a name's weights in the table, after a look at its sha256."""
    from scaleeq.engine import DetectionCheckpointer

    entry = read_table(table).get(name)
    if entry is None:
        raise ValueError(f"{without_weights(name)}; then load_model({name!r}, weights='model_final.pth')")
    file = Path(entry.weights)
    if "://" in entry.weights:
        from torch import nn

        file = Path(DetectionCheckpointer(nn.Identity()).path_manager.get_local_path(entry.weights))
    if not file.is_file():
        raise FileNotFoundError(f"the weights of {name}: there is no file {file}")
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != entry.sha256:
        raise ValueError(
            f"the weights of {name}, {file}, have the sha256 {found}, not {entry.sha256}; fetch them again"
        )
    return str(file)


def _loaded(model: ScaleEqSegmentor, file: Path) -> ScaleEqSegmentor:
    """The model with a file's weights; what the file does not have of training, the model has not either."""
    from torch import nn

    from scaleeq.engine import SafeCheckpointer
    from scaleeq.engine.checkpoint_file import read_checkpoint
    from scaleeq.equalization import other_equalizers

    names = set(read_checkpoint(file, mapped=True)["model"])
    if not any(name.startswith("aux_") for name in names):
        model.aux_heads, model.aux_losses = nn.ModuleDict(), nn.ModuleDict()
    if not any(".equalizers." in name for name in names):
        model = folded_as_a_file(model)
    SafeCheckpointer(model, other_model=other_equalizers).load_weights(str(file))
    return model


def folded_as_a_file(model: ScaleEqSegmentor) -> ScaleEqSegmentor:
    """The model with the modules, not the numbers, that folding its equalizers leaves: for a file of such weights."""
    import torch

    from scaleeq.equalization import fold_equalizers
    from scaleeq.equalization.calibration import fusions_of

    equalized = [fusion for fusion in fusions_of(model).values() if fusion.equalizers]
    for equalizer in (equalizer for fusion in equalized for equalizer in fusion.equalizers.values()):
        mean, std = torch.full_like(equalizer.mean, 0.5), torch.ones_like(equalizer.std)  # any statistics
        equalizer.set_statistics(mean, std, 1)
    return fold_equalizers(model) if equalized else model
