"""The check of data sets by name: findings, class shares, sizes; as text for people, as a dict for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from scaleeq.data.check.checking import Totals, read_all, sample_evenly
from scaleeq.data.check.findings import Finding, by_importance, findings_of
from scaleeq.data.check.splits import find_leak, find_orphans, find_passed_over, other_side
from scaleeq.data.coco_file import CocoMistakes
from scaleeq.data.folder import find_dataset
from scaleeq.data.maps import KEYS as MAP_KEYS
from scaleeq.data.sets.catalog import IGNORE_LABEL, Record
from scaleeq.data.sets.listing import MissingFilesError
from scaleeq.data.sets.voc2012 import voc_color
from scaleeq.engine import DatasetCatalog

DEFAULT_SAMPLE = 200
ALL = 1 << 62
SHEET_IMAGES = 8
MISTAKES_SHOWN = 12
RECORD_FILES = ("file_name", "sem_seg_file_name", *(f"{key}_file_name" for key in MAP_KEYS))


@dataclass
class Report:
    """What is to be said about one data set.

    size: number of its images. records: those that were read.
    """

    name: str
    size: int = 0
    classes: list[str] = field(default_factory=list)
    colors: list[tuple[int, int, int]] = field(default_factory=list)
    ignore_label: int = IGNORE_LABEL
    records: list[Record] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_fault]

    def text(self) -> str:
        """All of it for a terminal, most important first."""
        notes = len(self.findings) - len(self.faults)
        verdict = ", ".join(
            f"{count or 'no'} {word}{'' if count == 1 else 's'}"
            for count, word in ((len(self.faults), "fault"), (notes, "note"))
        )
        parts = [f"{self.name}: {self.totals.read} of {self.size} images read, {verdict}"]
        parts += [finding.text() for finding in self.findings]
        if self.totals.shapes:
            parts.append(self._sizes_text())
        if self.totals.with_labels:
            parts.append(self._classes_text())
        elif (
            self.totals.read
            and not self.totals.maps
            and not self.totals.num_objects
            and not any(finding.is_fault for finding in self.findings)
        ):
            parts.append("No labels: a split for a test server.")
        if self.totals.num_objects:
            counted = self.totals
            parts.append(
                f"objects: {counted.num_objects} in {counted.with_objects} images, {counted.num_crowds} of them crowds"
                + (f"; {counted.with_panoptic} images with panoptic segments" if counted.with_panoptic else "")
            )
        if self.totals.maps:
            counts = ", ".join(f"{key} of {count} images" for key, count in self.totals.maps.items())
            parts.append(f"other tasks: {counts}; images without a map are void in it")
        return "\n\n".join(parts) + "\n"

    def to_dict(self) -> dict[str, object]:
        """The same for json: shares in 0..1, sizes in pixels."""
        heights_widths = self._sizes()
        return {
            "name": self.name,
            "images": self.size,
            "read": self.totals.read,
            "findings": [{"fault": finding.is_fault, **asdict(finding)} for finding in self.findings],
            "classes": [
                {"label": label, "name": name, "pixel_share": share, "images": images}
                for label, name, share, images in self._class_rows()
            ],
            "height_px": heights_widths[0] if heights_widths else None,
            "width_px": heights_widths[1] if heights_widths else None,
            "channels": dict(self.totals.channels),
            "maps": dict(self.totals.maps),
        }

    def _class_rows(self) -> list[tuple[int, str, float, int]]:
        """Label, name, share of all pixels, number of images; void last, and before it what no class declares."""
        pixels = self.totals.pixels
        # Void is last, and labels without a class are before it.
        names = dict(enumerate(self.classes))
        names |= {int(label): "(no class)" for label in np.flatnonzero(pixels) if label not in names}
        names.pop(self.ignore_label, None)
        names[self.ignore_label] = "(void)"
        total = max(1, int(pixels.sum()))
        return [(label, name, pixels[label] / total, int(self.totals.images[label])) for label, name in names.items()]

    def _classes_text(self) -> str:
        rows = [
            (label, name, f"{100 * share:.2f}", images, f"{100 * images / self.totals.with_labels:.1f}")
            for label, name, share, images in self._class_rows()
        ]
        align = ("right", "left", "right", "right", "right")
        return tabulate(
            rows,
            headers=("label", "class", "% of pixels", "images", "% of images"),
            colalign=align,
            disable_numparse=True,
        )

    def _sizes(self) -> list[dict[str, float]]:
        """min, median and max of height and width; empty where no image was read."""
        if not self.totals.shapes:
            return []
        sides = np.array(list(self.totals.shapes.elements())).T
        return [{"min": int(side.min()), "median": float(np.median(side)), "max": int(side.max())} for side in sides]

    def _sizes_text(self) -> str:
        channels = Counter(self.totals.channels).most_common()
        lines = [
            f"{what}: {side['min']} / {side['median']:g} / {side['max']} px (min / median / max)"
            for what, side in zip(("height", "width "), self._sizes(), strict=True)
        ]
        return "\n".join([*lines, "mode  : " + ", ".join(f"{mode} {count}" for mode, count in channels)])


def check_datasets(
    names: Sequence[str], *, sample: int = DEFAULT_SAMPLE, workers: int | None = None, seed: int = 0
) -> list[Report]:
    """Check each data set, and what training and testing share.

    names: as names_of gives them. sample: images of each that are read, spread evenly; ALL: every one.
    workers: processes; None: one a core; 0: none but this one.
    """
    reports, compared = [], set()
    for name in names:
        report = check_dataset(name, sample=sample, workers=workers, seed=seed)
        # A pair of training and test is compared once.
        for other in other_side(name, names) if report.records else ():
            if (other, name) not in compared:
                compared.add((name, other))
                report.findings += _leak(report, other)
        report.findings = by_importance(report.findings)
        reports.append(report)
    return reports


def check_dataset(name: str, *, sample: int = DEFAULT_SAMPLE, workers: int | None = None, seed: int = 0) -> Report:
    """Check one data set by itself; see check_datasets."""
    report = Report(name)
    try:
        _describe(report, find_dataset(name))
        records = DatasetCatalog.get(name)
    except MissingFilesError as error:  # what is there is checked all the same
        report.findings.append(Finding("incomplete", len(error.missing), str(error), error.missing))
        records = error.records
    except CocoMistakes as error:
        shown = [f"{error.path}: {problem}" for problem in error.problems[:MISTAKES_SHOWN]]
        report.findings.append(Finding("wrong annotations", len(error.problems), "\n".join(shown)))
        return report
    except (OSError, ValueError) as error:
        report.findings.append(Finding("not loaded", 1, str(error)))
        return report
    # Look at the files.
    report.size = len(records)
    report.records = [records[index] for index in sample_evenly(len(records), sample, seed)]
    report.totals = read_all(
        report.records,
        num_classes=len(report.classes),
        ignore_label=report.ignore_label,
        workers=workers,
        title=name,
    )
    # Say what is wrong with them.
    report.findings += [*find_orphans(records), *find_passed_over(records)]
    report.findings += findings_of(
        report.totals,
        classes=report.classes,
        ignore_label=report.ignore_label,
        complete=len(report.records) == len(records),
    )
    report.findings = by_importance(report.findings)
    return report


def _describe(report: Report, metadata: Any) -> None:
    """Classes, colours and ignore label; ValueError: it is no data set for semantic segmentation."""
    classes = metadata.get("stuff_classes")
    is_known = metadata.get("thing_classes") or metadata.get("registered_by") == "scaleeq"  # of other tasks
    if not classes and not is_known:
        raise ValueError(f"{report.name} has no stuff_classes in its metadata: is it one for semantic segmentation?")
    report.classes = list(classes or ())
    report.colors = list(metadata.get("stuff_colors") or (voc_color(label + 1) for label in range(len(report.classes))))
    report.ignore_label = metadata.get("ignore_label", IGNORE_LABEL)


def _leak(report: Report, other: str) -> list[Finding]:
    try:
        find_dataset(other)
        others = DatasetCatalog.get(other)
    except MissingFilesError as error:
        others = error.records
    except (OSError, ValueError):  # a split that is not on this disk
        return []
    return find_leak(report.records, others, other)


def draw_sheets(reports: Sequence[Report], path: Path) -> list[Path]:
    """A contact sheet of each data set that could be read; returns the files, numbered where there are several.

    Shown are the first file of each kind of complaint, then images spread evenly.
    """
    from .contact_sheet import draw_contact_sheet  # with torch, which a check alone does without

    drawable = [report for report in reports if report.records]
    paths = []
    for index, report in enumerate(drawable):
        target = path if len(drawable) == 1 else path.with_name(f"{path.stem}_{index + 1}{path.suffix}")
        draw_contact_sheet(
            _chosen(report),
            target,
            classes=report.classes,
            colors=report.colors,
            ignore_label=report.ignore_label,
            title=report.name,
        )
        paths.append(target)
    return paths


def _chosen(report: Report) -> list[Record]:
    """At most SHEET_IMAGES records for the contact sheet."""
    by_file = {record[key]: record for record in report.records for key in RECORD_FILES if key in record}
    # One of each complaint first, then some that are spread evenly.
    chosen = [by_file[finding.files[0]] for finding in report.findings if finding.files and finding.files[0] in by_file]
    spread = [report.records[index] for index in sample_evenly(len(report.records), SHEET_IMAGES)]
    unique = {record["file_name"]: record for record in [*chosen, *spread]}
    return list(unique.values())[:SHEET_IMAGES]
