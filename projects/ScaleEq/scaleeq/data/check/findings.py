"""What the looks at a data set's files add up to: faults and notes, most important first, each with its way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap

import numpy as np

from ..reading import likely_cause
from ..sets.catalog import ONE_CLASS
from .axes import about_axes, agreement
from .checking import Totals

# The kinds of findings, most important first, and what is counted.
KINDS = {
    "not loaded": "data set that cannot be loaded",
    "wrong annotations": "annotations that cannot be meant",
    "incomplete": "files that are missing",
    "single class": "data set of one class",
    "unreadable image": "images that cannot be read",
    "no image": "files that do not hold one picture for people",
    "unreadable labels": "label files that cannot be read",
    "no labels": "label files that do not hold one class index a pixel",
    "undeclared": "label files with labels that are no class",
    "one class": "label files that hold one class or void, and nothing else",
    "starts at 1": "label files without label 0, though all other classes occur in them",
    "leak": "images that training and testing share",
    "objects": "images whose objects cannot be meant",
    "panoptic": "panoptic pictures that do not fit their segments or their image",
    "unreadable map": "files of depth, normals, edges, saliency or parts that cannot be read",
    "wrong map": "files of depth, normals, edges, saliency or parts whose values cannot be meant",
    "map size": "files of depth, normals, edges, saliency or parts of another size than their image",
    "mirrored": "images whose normals have an axis the other way round than their depth",
    "instances": "files of instances that cannot be used",
    "size": "label files of another size than their image",
    "interpolated": "label files that seem to be resized by interpolation",
    "lossy": "label files that are JPEGs",
    "orphan labels": "label files without an image",
    "dark image": "images whose values use little of their 16 bits",
    "unlike depth": "images whose normals are not those of their depth",
    "deep image": "images with more than 8 bits a channel, of which the upper 8 are read",
    "few bits": "label files of less than 8 bits a pixel",
    "turned image": "images that their EXIF orientation turns, and not their labels",
    "no area": "images with objects that have no area, which are left out",
    "all void": "label files that are void in every pixel",
    "empty map": "files of depth, normals, edges, saliency or parts in which nothing is known",
    "passed over": "files beside the images that are taken for no images",
    "never": "classes that never occur",
}
# These may be as they should: not a fault.
NOTES = (
    "unlike depth",
    "deep image",
    "few bits",
    "turned image",
    "no area",
    "all void",
    "empty map",
    "passed over",
    "never",
)
FILES_SHOWN = 3


@dataclass
class Finding:
    """count: how many files (or classes) it is about, `files` their names; advice: one of them in full, or all."""

    kind: str
    count: int
    advice: str
    files: list[str] = field(default_factory=list)

    @property
    def is_fault(self) -> bool:
        return self.kind not in NOTES

    def text(self) -> str:
        """Two or three lines: how many of what, the first names, what to do."""
        lines = [f"{'FAULT' if self.is_fault else 'note '}  {KINDS[self.kind]}: {self.count}"]
        if self.files and not (len(self.files) == 1 and self.files[0] in self.advice):
            more = f", and {len(self.files) - FILES_SHOWN} more" if len(self.files) > FILES_SHOWN else ""
            lines.append(f"       {', '.join(self.files[:FILES_SHOWN])}{more}")
        for line in self.advice.splitlines():
            # A line that is laid out already, a table of paths, stays as it is.
            wrapped = (
                [line] if line.startswith(" ") else wrap(line, 110, break_long_words=False, break_on_hyphens=False)
            )
            lines += [f"       {part}" for part in wrapped]
        return "\n".join(lines)


def by_importance(findings: Sequence[Finding]) -> list[Finding]:
    """Faults first, then notes, each in the order of KINDS."""
    return sorted(findings, key=lambda finding: (not finding.is_fault, list(KINDS).index(finding.kind)))


def findings_of(totals: Totals, *, classes: Sequence[str], ignore_label: int, complete: bool) -> list[Finding]:
    """What is wrong with the files that were read.

    complete: whether they are all of the data set's; of a sample, less can be said about rare classes.
    """
    grouped: dict[str, list[tuple[str, str]]] = {}
    for complaint in totals.complaints:
        grouped.setdefault(complaint.kind, []).append((complaint.file, complaint.message))
    findings = [Finding(kind, len(group), group[0][1], [file for file, _ in group]) for kind, group in grouped.items()]
    if (about := about_axes(agreement(totals.axes), totals.flipped)) is not None:
        findings.append(Finding(about[0], totals.compared, about[1]))
    for finding in findings:
        if finding.kind == "undeclared":
            finding.advice = _undeclared(totals, len(classes), ignore_label)
    if len(classes) == 1:
        findings.append(Finding("single class", 1, f"{classes[0]!r} is the only class: {ONE_CLASS}"))
    elif totals.with_labels and "undeclared" not in grouped:
        findings += _about_classes(totals, classes, ignore_label, complete)
    return findings


def _undeclared(totals: Totals, num_classes: int, ignore_label: int) -> str:
    """The cause as all files together suggest it."""
    present = np.flatnonzero(totals.pixels)
    undeclared = present[(present >= num_classes) & (present != ignore_label)].tolist()
    shown = ", ".join(
        f"{value} (in {totals.images[value]} of {totals.with_labels} label files)" for value in undeclared[:8]
    )
    more = ", ..." if len(undeclared) > 8 else ""
    return (
        f"Labels {shown}{more} are neither one of the {num_classes} classes (0..{num_classes - 1}) nor the ignore "
        f"label {ignore_label}.\n" + likely_cause(present.tolist(), undeclared, num_classes, ignore_label)
    )


def _about_classes(totals: Totals, classes: Sequence[str], ignore_label: int, complete: bool) -> list[Finding]:
    """What the classes that occur, and those that do not, say about the whole data set."""
    absent = [label for label in range(len(classes)) if not totals.pixels[label]]
    present = len(classes) - len(absent)
    findings = []
    if not absent:
        return []
    # One class alone.
    if present <= 1 and (complete or totals.with_labels >= 10):
        advice = "Are these the labels of this data set, and are its classes those of classes.txt or its table?"
        if totals.pixels[ignore_label]:
            advice = (
                f"{ignore_label} is void, which is neither learned nor scored: does it mean a class here, as in masks "
                f"of 0 and 255? Then write that class's index (0..{len(classes) - 1}) in its place"
            )
        findings.append(Finding("one class", totals.with_labels, advice))
    elif absent == [0] and len(classes) > 2:
        advice = (
            f"Class 0 is {classes[0]!r}. Do the labels start at 1? Then every class is one off: write them from 0 on, "
            "or give the data set's records a label_map"
        )
        findings.append(Finding("starts at 1", totals.with_labels, advice))
    # Classes that never occur.
    names = ", ".join(f"{label} {classes[label]}" for label in absent[:12]) + (", ..." if len(absent) > 12 else "")
    advice = names + ("" if complete else f"\nOf a sample of {totals.read} images; --all reads every one")
    if absent == [len(classes) - 1] and len(classes) > 2 and totals.pixels[ignore_label]:
        advice += "\nOnly the last class is missing: has 'minus one' been applied once more than needed?"
    return [*findings, Finding("never", len(absent), advice)]
