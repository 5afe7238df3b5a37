"""A model as its caller goes on with it: built, then equalized."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from scaleeq.equalization import EqualizerSpec, equalize_fusions

Model = TypeVar("Model", bound=nn.Module)


def equalized(model: Model, spec: EqualizerSpec | None = None, scope: str = "all", **values: object) -> Model:
    """The same object, with the equalizers of a spec, or of its values; as it was where there are neither."""
    if spec is not None or values:
        equalize_fusions(model, spec or EqualizerSpec(**values), scope)  # type: ignore[arg-type]
    return model
