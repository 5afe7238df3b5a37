"""Data sets, augmentation, mapper and loaders. Importing it registers the names of all data sets, and
how Detectron2's own readers read their files."""

from scaleeq.engine import register_path_handler

from .classes_file import read_classes
from .detectron2_files import RecordFileHandler
from .folder import find_dataset
from .loading import build_test_loader, build_train_loader
from .mapper import SegmentationMapper
from .reading import read_image, read_labels
from .sets import (  # noqa: F401 (they register names)
    ade20k,
    camvid,
    cityscapes,
    coco,
    coco_stuff,
    dense,
    lip,
    pascal_context,
    toy,
    toy3d,
    voc2012,
    voc_objects,
)
from .sets.catalog import register_dataset

__all__ = [
    "SegmentationMapper",
    "build_test_loader",
    "build_train_loader",
    "find_dataset",
    "read_classes",
    "read_image",
    "read_labels",
    "register_dataset",
]

register_path_handler(RecordFileHandler())
