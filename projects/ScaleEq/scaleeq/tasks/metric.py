"""What a metric is called, its unit and which way is better; and the one metric that stands for all of an evaluation.

By it a training keeps its best weights and stops early, and a comparison compares.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is counted in, which values it can have, and which of them are better.

    name: as in metrics.json, with the group of results that it is in; "" in a task's own table. unit: "" where it has
    none. highest: the lowest is 0.
    """

    name: str = ""
    unit: str = ""
    higher_is_better: bool = True
    highest: float = math.inf

    @property
    def worst(self) -> float:
        """What every value is better than."""
        return -math.inf if self.higher_is_better else math.inf

    def is_better(self, value: float, than: float) -> bool:
        """Whether it really is, not as good; NaN never is."""
        return value > than if self.higher_is_better else value < than

    def of_first(self, datasets: Sequence[str]) -> Metric:
        """The metric of the first data set, by its name in metrics.json: of several, results are kept apart."""
        return dataclasses.replace(self, name=f"{datasets[0]}/{self.name}") if len(datasets) > 1 else self


HEADLINE = Metric(name="sem_seg/mIoU", unit="%", highest=100.0)
"""That of semantic segmentation, by which runs are compared unless a comparison says otherwise."""
