"""register_path_handler: how the engine's own readers open paths of a new kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iopath.common.file_io import PathHandler


def register_path_handler(handler: PathHandler) -> None:
    """Let Detectron2's PathManager open the prefixes of `handler`, one of iopath's; again: the later one holds.

    The standalone side has no readers of its own.
    """
    from . import NAME

    if NAME == "detectron2":
        from detectron2.utils.file_io import PathManager

        PathManager.register_handler(handler)
