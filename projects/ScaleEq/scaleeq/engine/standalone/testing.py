"""Print results and compare them with expected ones.

Source: the interface, log lines and exit status of Detectron2's `evaluation/testing.py`. Deviations: none known.
"""

from __future__ import annotations

import logging
import pprint
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log {task: {metric: score}} as comma-separated lines; metrics with "-" in their name (per class) are left out."""
    assert isinstance(results, Mapping) or not len(results), results
    logger = logging.getLogger(__name__)
    for task, metrics in results.items():
        if isinstance(metrics, Mapping):
            overall = {name: score for name, score in metrics.items() if "-" not in name}
            logger.info(f"copypaste: Task: {task}")
            logger.info("copypaste: " + ",".join(overall))
            logger.info("copypaste: " + ",".join(f"{score:.4f}" for score in overall.values()))
        else:
            logger.info(f"copypaste: {task}={metrics}")


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare with cfg.TEST.EXPECTED_RESULTS, [[task, metric, expected, tolerance], ...]; exit with 1 if they differ.

    A metric that is missing or not finite differs; a missing task raises KeyError.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not expected_results:
        return True
    ok = True
    for task, metric, expected, tolerance in expected_results:
        actual = results[task].get(metric)
        if actual is None or not np.isfinite(actual) or abs(actual - expected) > tolerance:
            ok = False
    logger = logging.getLogger(__name__)
    if not ok:
        logger.error("Result verification failed!")
        logger.error("Expected Results: " + str(expected_results))
        logger.error("Actual Results: " + pprint.pformat(results))
        sys.exit(1)
    logger.info("Results verification passed.")
    return ok


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}, to any depth."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": leaf for inner, leaf in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
