"""Registration: lazy, once, and never over somebody else's name."""

from __future__ import annotations

import os

import pytest

from scaleeq.data.sets.catalog import datasets_root, register_dataset
from scaleeq.engine import DatasetCatalog, MetadataCatalog


@pytest.fixture
def name():
    name = "scaleeq_test_only"
    yield name
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)


def test_files_are_looked_at_when_the_records_are_asked_for(name):
    calls = []
    register_dataset(name, lambda: calls.append(1) or [{"file_name": "a"}], classes=["one"], colors=[(1, 2, 3)])
    assert not calls
    assert DatasetCatalog.get(name) == [{"file_name": "a"}] and calls


def test_a_second_registration_changes_nothing(name):
    register_dataset(name, lambda: [{"file_name": "first"}], classes=["one"], colors=[(1, 2, 3)])
    register_dataset(name, lambda: [{"file_name": "second"}], classes=["one"], colors=[(1, 2, 3)])
    assert DatasetCatalog.get(name)[0]["file_name"] == "first"


def test_a_name_of_somebody_else_is_refused(name):
    DatasetCatalog.register(name, lambda: [])
    with pytest.raises(ValueError, match=f"{name}.*registered already"):
        register_dataset(name, lambda: [], classes=["one"], colors=[(1, 2, 3)])


def test_names_without_colours_are_refused(name):
    with pytest.raises(ValueError, match="2 class names but 1 colours"):
        register_dataset(name, lambda: [], classes=["one", "two"], colors=[(1, 2, 3)])


def test_root_follows_the_environment(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets_root() == "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/somewhere")
    assert datasets_root() == os.path.join(os.path.expanduser("~"), "somewhere")
