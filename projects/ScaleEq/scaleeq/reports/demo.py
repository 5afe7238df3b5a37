"""A page to try a model: drop a photo, see the prediction, the branches' scales, and what equalizing them changes.

    look = Demo(cfg, "model_final.pth")
    build_page(look, title="camvid/uper_r18").launch()       a gradio page

Of a model without scale equalizers a copy gets them, with the statistics of that one photo, each Fusion after those
that run before it: so the second picture is of a model that was not trained for what it sees. It shows how much a
trained model rests on its scales, not what training with equalizers would give.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleeq.engine import CfgNode, MetadataCatalog
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import DEAD, fusions_of, is_calibrated
from scaleeq.extras import require
from scaleeq.probes.scales import Record, Recorder
from scaleeq.records import Json, JsonView
from scaleeq.training.testing import build_predictor

from .html import fragment
from .pictures.drawing import fitted, resize_image
from .pictures.sheets import Classes, Seen, overlay
from .pictures.sources import ModelPredictions
from .scales_verdict import title_of

if TYPE_CHECKING:
    import gradio

MAX_SIDE = 1024  # pixels; larger photos are reduced
MAX_CLASSES = 12  # of the legend
CSS = (
    "footer { display: none !important; } "
    ".gradio-container { width: 100% !important; max-width: 72rem !important; margin: auto; }"
)


@dataclass(frozen=True)
class Answer:
    """What the page shows of a photo.

    prediction, equalized: (H, W, 3) uint8; equalized is None where the model has its equalizers already. scales: the
    record of the Fusions' branches. changed: the share of pixels, in percent, whose class equalizing changes.
    """

    seen: Seen
    prediction: np.ndarray
    equalized: np.ndarray | None
    scales: Record
    changed: float = 0.0


class Demo:
    """A model with its weights, asked for one photo after another."""

    def __init__(self, cfg: CfgNode, weights: str, *, dataset_name: str = "", scope: str = "head") -> None:
        """
        dataset_name: whose classes the labels are; "": of DATASETS.TEST or TRAIN, the first.
        scope: which Fusions are equalized, as MODEL.SCALE_EQUALIZER.SCOPE.
        ValueError: a model without Fusions; what ModelPredictions refuses.
        """
        # Asked for its features, it keeps its equalizers as they are, not folded into weights.
        self.look = ModelPredictions(cfg, weights, dataset_name=dataset_name, kinds=["features"])
        self.look.kinds = frozenset()
        self.classes: Classes = self.look.classes
        self.is_equalized = bool(fusions_of(self.look.model))
        self._cfg, self._scope = cfg, scope
        name = dataset_name or next(iter((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)), "")
        self._flip_pairs = MetadataCatalog.get(name).get("flip_pairs", ())

    def __call__(self, photo: np.ndarray) -> Answer:
        """photo: (H, W, 3) uint8 in RGB."""
        size = photo.shape[0], photo.shape[1]
        if max(size) > MAX_SIDE:
            photo = resize_image(photo, fitted(size, MAX_SIDE))
        photo = np.ascontiguousarray(photo)
        seen, scales = self._measured(self.look, photo)
        picture = overlay(seen, self.classes)
        if self.is_equalized:
            return Answer(seen, picture, None, scales)
        other = self._equalized(photo)
        changed, after = self._measured(other, photo)
        merged = {name: _merged(record, after.get(name, {})) for name, record in scales.items()}
        share = 0.0
        if seen.prediction is not None and changed.prediction is not None:
            share = 100 * float((seen.prediction != changed.prediction).mean())
        return Answer(seen, picture, overlay(changed, self.classes), merged, share)

    def title_of(self, fusion: str) -> str:
        """A Fusion's name for people."""
        return title_of(fusion, self.look.model)

    @staticmethod
    def _measured(look: ModelPredictions, photo: np.ndarray) -> tuple[Seen, Record]:
        with Recorder(look.model) as recorder:
            seen = look({"file_name": "the photo", "image_id": "photo", "read_image": lambda: photo})
        return seen, recorder.finish()

    def _equalized(self, photo: np.ndarray) -> ModelPredictions:
        """A copy whose equalizers have the statistics that the model, as it runs, shows of the photo."""
        look = copy.copy(self.look)
        look.model = copy.deepcopy(self.look.model)
        equalize_fusions(look.model, EqualizerSpec(implementation="module"), self._scope)
        look.model.eval()
        look.predictor = build_predictor(self._cfg, look.model, flip_pairs=self._flip_pairs)
        for name, fusion in fusions_of(look.model).items():
            _, record = self._measured(look, photo)
            branches = record.get(name, {}).get("branches", {})
            largest = max((numbers["std"] for numbers in branches.values()), default=0.0)
            for branch, equalizer in fusion.equalizer_of.items():
                numbers = branches.get(branch, {"mean": 0.0, "std": 1.0})
                std = numbers["std"] if numbers["std"] > DEAD * largest else 1.0
                equalizer.set_statistics(torch.tensor(numbers["mean"]), torch.tensor(std), 1)
            assert is_calibrated(fusion)
        return look


def _merged(before: JsonView, after: JsonView) -> Json:
    """A Fusion's record with what equalizing makes of it."""
    equalized = {branch: numbers.get("std_equalized") for branch, numbers in after.get("branches", {}).items()}
    branches = {
        branch: dict(numbers) | ({} if equalized.get(branch) is None else {"std_equalized": equalized[branch]})
        for branch, numbers in before["branches"].items()
    }
    spread = {"spread_equalized": after["spread_equalized"]} if "spread_equalized" in after else {}
    return {**before, "branches": branches, **spread}


def scales_html(answer: Answer, demo: Demo) -> str:
    """The bars of all branches, the sentence above them and the legend of the classes, as HTML."""
    fusions = [
        {"title": demo.title_of(name), "record": record, "bars": _bars(record)}
        for name, record in answer.scales.items()
    ]
    return fragment(
        "demo.html", fusions=fusions, sentence=sentence(answer, demo), legend=_legend(answer.seen, demo.classes)
    )


def sentence(answer: Answer, demo: Demo) -> str:
    """What is to be seen, in words."""
    spreads = {name: record["spread"] for name, record in answer.scales.items() if "spread" in record}
    if not spreads:
        return "No Fusion of this model has run on the photo."
    name = max(spreads, key=spreads.__getitem__)
    after = answer.scales[name].get("spread_equalized")
    said = f"The branches of {demo.title_of(name)} differ by a factor of {spreads[name]:.1f} in scale"
    if answer.equalized is None:
        return (
            f"{said}; after the equalizers that this model was trained with, by {after:.1f}." if after else f"{said}."
        )
    by = f"; equalized, by {after:.1f}" if after else "; they are not in the scope of equalizers"
    if answer.seen.prediction is None:
        return f"{said}{by}. A model is equalized before it is trained."
    return (
        f"{said}{by}. Put into this trained model as it is, equalizers change {answer.changed:.1f} % of the pixels: a "
        "model is equalized before it is trained."
    )


def _bars(record: JsonView) -> list[Json]:
    """Of each branch: its name, its standard deviation before and after, and both as shares of the largest, percent."""
    branches = record["branches"]
    largest = {
        key: max((numbers.get(key, 0.0) for numbers in branches.values()), default=0.0)
        for key in ("std", "std_equalized")
    }
    return [
        {
            "branch": branch,
            "values": [
                (kind, numbers[key], 100 * numbers[key] / largest[key] if largest[key] else 0.0)
                for kind, key in (("as it is", "std"), ("equalized", "std_equalized"))
                if key in numbers
            ],
        }
        for branch, numbers in branches.items()
    ]


def _legend(seen: Seen, classes: Classes) -> list[tuple[str, str, float]]:
    """The classes that occur, by area: name, colour as CSS has it, percent of the pixels."""
    if seen.prediction is None:
        return []
    counts = np.bincount(seen.prediction.ravel(), minlength=256)
    order = [int(label) for label in np.argsort(-counts, kind="stable")[:MAX_CLASSES] if counts[label]]
    return [
        (classes.names[label], "rgb({}, {}, {})".format(*classes.colors[label]), 100 * counts[label] / counts.sum())
        for label in order
        if label < len(classes.names)
    ]


def build_page(demo: Demo, *, title: str) -> gradio.Blocks:
    """The gradio page, not launched yet. ImportError: gradio is not installed."""
    gr: Any = require("gradio", why="the page needs it: ")

    def answer(photo: np.ndarray | None) -> tuple[object, object, str]:
        if photo is None:
            return None, gr.update(value=None, visible=False), ""
        found = demo(photo)
        equalized = gr.update(value=found.equalized, visible=found.equalized is not None)
        return found.prediction, equalized, scales_html(found, demo)

    with gr.Blocks(title=f"ScaleEq: {title}", analytics_enabled=False) as page:
        gr.Markdown(
            f"# {title}\nDrop a photo: what the model sees, how far the scales of its branches differ, and what "
            "equalizing them changes."
        )
        with gr.Row():
            photo = gr.Image(label="photo", type="numpy", sources=["upload", "webcam", "clipboard"], elem_id="photo")
            shown: dict[str, object] = {
                "interactive": False,
                "buttons": ["download", "fullscreen"],
            }  # no button that uploads it
            prediction = gr.Image(label="prediction", elem_id="prediction", **shown)
            other = gr.Image(label="equalized", elem_id="equalized", visible=False, **shown)
        scales = gr.HTML(elem_id="scales", padding=False)
        photo.change(answer, photo, [prediction, other, scales], api_name="predict")
    return page


def launch(page: gradio.Blocks, *, host: str, port: int, block: bool = True) -> str:
    """Serve the page and return its address; nothing is loaded from elsewhere, and nothing sent there.

    port: 0: the first free one from 7860 on. block: until Ctrl-C.
    """
    gr: Any = require("gradio", why="the page needs it: ")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=not block,
        share=False,
        quiet=True,
        theme=theme,
        css=CSS,
        ssr_mode=False,
    )
    return str(address)
