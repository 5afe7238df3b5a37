"""What models cost as tables in Markdown: parameters and multiply-adds, or times and memory."""

from __future__ import annotations

from collections.abc import Sequence

from scaleeq.markdown import code, grid
from scaleeq.probes.counting import KINDS, PARTS
from scaleeq.training.timing import KINDS as TIMED

from .html import Content


def count_table(records: Sequence[Content]) -> str:
    """Markdown of records with "config", "size" and what Count.as_dict gives: parameters in M, multiply-adds in G."""

    def cell(number: int, unit: float, digits: int) -> str:
        return f"{number / unit:.{digits}f}" if number else "-"

    parts = [part for part in PARTS if any(part in record["params_by_part"] for record in records)]
    rows = []
    for record in records:
        params, macs, kinds = (record[key] for key in ("params_by_part", "macs_by_part", "macs_by_kind"))
        cells = [code(record["config"], in_table=True), "x".join(map(str, record["size"]))]
        cells += [cell(number, 1e6, 2) for number in (record["params"], *(params.get(part, 0) for part in parts))]
        cells += [cell(number, 1e9, 1) for number in (record["macs"], *(macs.get(part, 0) for part in parts))]
        rows.append([*cells, *(cell(kinds[kind], 1e9, 1) for kind in KINDS[1:])])
    headers = ["config", "image", "params M", *parts, "multiply-adds G", *parts, *(f"of it {k}" for k in KINDS[1:])]
    return grid(rows, headers)


def time_table(records: Sequence[Content]) -> str:
    """Markdown of records with "config", "size" and what time_configs gives."""
    rows = [
        (
            code(record["config"], in_table=True),
            "x".join(map(str, record["size"])),
            *(
                text
                for kind in TIMED
                for text in (f"{1000 * record[f'{kind}_s']:.1f}", f"{record[f'{kind}_ratio']:.2f}")
            ),
            _cpu(record.get("training_cpu_ratio")),
            f"{record['images_per_s']:.1f}",
            "-" if record["peak_mib"] is None else f"{record['peak_mib']:.0f}",
        )
        for record in records
    ]
    headers = (
        "config", "image", "forward ms", "ratio", "training ms", "ratio", "of CPU time (quartiles)", "images/s",
        "peak MiB",
    )  # fmt: skip
    return grid(rows, headers)


def _cpu(ratio: Sequence[float] | None) -> str:
    """Of the lower quartile, the median and the upper quartile."""
    return "-" if ratio is None else f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})"
