"""RecordFile: a path of a record, with what a reader of ours needs to know to read it as it is meant."""

from __future__ import annotations

from typing import Literal, SupportsIndex

from scaleeq.records import Record

PREFIX = "scaleeq-record://"


class RecordFile(str):
    """A path, a string like any other for everybody, that knows how its picture is read.

    Detectron2's own readers do not know that CamVid's 11 is void, that ADE20K starts at 1, or that a palette picture
    holds indexes (they make grey levels of its colours). They open every path through iopath's PathManager, which asks
    the path for its prefix: this one has PREFIX, so that the handler of detectron2_files reads it, and nothing of
    Detectron2 is changed. Whoever opens it as a file gets the file.

    record: what read_image or read_labels reads: a file and its label_map, or a function. what: which of the two.
    """

    record: Record
    what: Literal["image", "labels"]

    def __new__(cls, path: str, record: Record, what: Literal["image", "labels"]) -> RecordFile:
        made = super().__new__(cls, path)
        made.record, made.what = record, what
        return made

    def __getnewargs__(self) -> tuple[str, Record, str]:  # type: ignore[override]
        """For pickle, which carries records to the loaders' workers."""
        return str(self), self.record, self.what

    def startswith(self, prefix: str | tuple[str, ...], /, *bounds: SupportsIndex | None) -> bool:
        return prefix == PREFIX or super().startswith(prefix, *bounds)


def with_label_file(record: Record) -> Record:
    """The same record, whose "sem_seg_file_name" knows the record's label_map."""
    path = record.get("sem_seg_file_name")
    if path is None or isinstance(path, RecordFile):
        return record
    read_by: Record = {key: record[key] for key in ("sem_seg_file_name", "label_map") if key in record}
    return {**record, "sem_seg_file_name": RecordFile(str(path), read_by, "labels")}
