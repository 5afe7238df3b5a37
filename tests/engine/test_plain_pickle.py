"""Arrays of a pickle, read without numpy's own names. Oracle: the arrays that Python's pickle wrote."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from scaleeq.engine.plain_pickle import read_plain_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", [np.zeros((0, 3), np.float32), np.arange(6, dtype=np.int64).reshape(2, 3)])
def test_an_array_is_read_whatever_its_size(protocol: int, array: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "array.pkl").write_bytes(pickle.dumps({"model": {"a": array}}, protocol=protocol))
    tensor = read_plain_pickle(tmp_path / "array.pkl")["model"]["a"]
    assert tensor.shape == array.shape and tensor.numpy().dtype == array.dtype
    assert tensor.tolist() == array.tolist()
