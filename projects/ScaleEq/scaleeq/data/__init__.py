"""Data sets, augmentation, mapper and loaders. Importing it registers the names of all data sets, and
how Detectron2's own readers read their files."""

from scaleeq.engine import register_path_handler

from .classes_file import read_classes
from .detectron2_files import RecordFileHandler
from .folder import find_dataset
from .loading import build_test_loader, build_train_loader
from .mapper import SegmentationMapper
from .reading import read_image, read_labels
from .sets import ade20k, camvid, cityscapes, coco_stuff, lip, pascal_context, toy, voc2012
from .sets.catalog import IGNORE_LABEL, datasets_root, register_dataset

__all__ = [
    "IGNORE_LABEL",
    "SegmentationMapper",
    "ade20k",
    "build_test_loader",
    "build_train_loader",
    "camvid",
    "cityscapes",
    "coco_stuff",
    "datasets_root",
    "find_dataset",
    "lip",
    "pascal_context",
    "read_classes",
    "read_image",
    "read_labels",
    "register_dataset",
    "toy",
    "voc2012",
]

register_path_handler(RecordFileHandler())
