"""Data sets, augmentation, mapper and loaders."""

from scaleeq.data import toy as _toy  # noqa: F401  (registers its names)
