"""The pictures that a training shows of its evaluations: the sheets of their examples, in place of plain ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from scaleeq.engine import MetadataCatalog

from .sheets import Classes, Seen, overview_sheet


class Example(Protocol):
    """An image of an evaluation: (H, W, 3) uint8 RGB; prediction, truth: (H, W) uint8; truth None: there is none."""

    @property
    def file_name(self) -> str: ...
    @property
    def image(self) -> np.ndarray: ...
    @property
    def prediction(self) -> np.ndarray: ...
    @property
    def truth(self) -> np.ndarray | None: ...


class HasExamples(Protocol):
    """An evaluation that kept some of its images: name of a data set -> those."""

    @property
    def examples(self) -> Mapping[str, Sequence[Example]]: ...


def evaluation_sheets(evaluation: HasExamples) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8, a sheet for each data set: image, truth, prediction and errors, with a legend."""
    sheets = {}
    for name, examples in evaluation.examples.items():
        seen = {Path(each.file_name).name: Seen(each.image, each.prediction, each.truth) for each in examples}
        metadata = MetadataCatalog.get(name)
        if seen and metadata.get("stuff_colors"):  # a data set of another project may have none
            sheets[f"predictions/{name}"] = overview_sheet(name, seen, Classes.of(metadata))
    return sheets
