"""A directory of data sets of one's own, for a test."""

from __future__ import annotations

import pytest

from scaleeq.engine import DatasetCatalog, MetadataCatalog


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty $DETECTRON2_DATASETS; the folders that are named below it are forgotten afterwards."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
