"""Dicts whose keys are stated where they are made, not by a type. Needs the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = dict[str, Any]
FieldsView = Mapping[str, Any]  # the same, which its reader leaves as it is

Json = Fields  # an object of a JSON or YAML file, as read or as it will be written
JsonView = FieldsView

# One image of a data set, with Detectron2's keys (file_name, sem_seg_file_name, height, width, image_id); or a sample,
# which is such a record read: "image" (3, H, W), and a target for each task. "read", in place of files: a
# functools.partial that takes nothing more, () -> image (H, W, 3) uint8 in RGB, labels (H, W) uint8; its keywords tell
# one image from another.
Record = Fields
RecordView = FieldsView
Output = Fields  # what a model finds in one image: task -> its map, or what else it predicts
