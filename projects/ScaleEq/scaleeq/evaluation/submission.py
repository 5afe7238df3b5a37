"""Archives for test servers: ADE20K, Cityscapes, PASCAL VOC 2012 and LIP.

Sources: the submission sections of the benchmarks' sites and development kits (CSAILVision/sceneparsing,
cityscapesscripts, VOC2012's devkit, LIP's challenge); no archive of ours has been sent to one yet. Where a server
leaves a choice:

- VOC's results are in comp6_test_cls, "any training data but the test set", because a backbone that saw ImageNet (or
  SBD, or COCO) is outside of comp5, "VOC's own data alone".
- Pictures of ADE20K, Cityscapes and LIP lie flat in the archive; Cityscapes' are found by their names in any folder.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from scaleeq.engine import MetadataCatalog, comm
from scaleeq.files import replacing
from scaleeq.pictures import write_labels

from .cityscapes import LABEL_IDS
from .parts import Sample

DAY_ONE = (1980, 1, 1, 0, 0, 0)  # zip's first moment: the same files make the same archive, whenever it is made

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Server:
    """What a benchmark's server takes.

    values: what stands for each label in a picture.
    folder: of the pictures in the archive. archive: its suffix.
    palette: whether pictures are palette ones, in the data set's colours.
    size: height and width that a picture must have; None: those of its image.
    """

    values: tuple[int, ...]
    folder: str = ""
    archive: str = ".zip"
    palette: bool = False
    size: tuple[int, int] | None = None


SERVERS = {
    "ade20k": Server(values=tuple(range(1, 151))),
    "cityscapes": Server(values=LABEL_IDS, size=(1024, 2048)),
    "lip": Server(values=tuple(range(20))),
    "voc2012": Server(
        values=tuple(range(21)),
        folder="results/VOC2012/Segmentation/comp6_test_cls/",
        archive=".tar.gz",
        palette=True,
    ),
}


class SubmissionFiles:
    """Pictures as a server takes them, and at the end their archive."""

    def __init__(self, dataset_name: str, output_dir: str | Path) -> None:
        """
        dataset_name: its metadata's family names the server.
        output_dir: pictures go into its submission/, the archive beside that.
        ValueError: no server for that family, or other classes than the server's.
        """
        metadata = MetadataCatalog.get(dataset_name)
        family = metadata.get("family", "")
        if family not in SERVERS:
            raise ValueError(
                f"TEST.OUTPUT asks for a submission, but {dataset_name} has no test server; those of {sorted(SERVERS)} "
                "have one. 'labels' writes label pictures for any data set"
            )
        self.server = SERVERS[family]
        if len(metadata.stuff_classes) != len(self.server.values):
            raise ValueError(
                f"{dataset_name} has {len(metadata.stuff_classes)} classes, the server of {family} takes "
                f"{len(self.server.values)}"
            )
        self.dataset_name = dataset_name
        self.folder = Path(output_dir) / "submission"
        self.archive = Path(output_dir) / f"submission{self.server.archive}"
        self._colors: Sequence[Sequence[int]] = metadata.stuff_colors if self.server.palette else ()
        self._table = np.zeros(256, np.uint8)
        self._table[: len(self.server.values)] = self.server.values

    def write(self, name: str, labels: np.ndarray, sample: Sample) -> None:
        """Write the picture of an image. name: as the image's, without suffix. labels: (H, W) uint8."""
        if self.server.size not in (None, labels.shape):
            raise ValueError(
                f"the prediction of {name} is {labels.shape} (height, width), the server of {self.dataset_name} takes "
                f"{self.server.size}; are these the original images?"
            )
        write_labels(self.folder / self._member(name), cv2.LUT(labels, self._table), self._colors)

    def finish(self, names: Sequence[str], missing: Sequence[str]) -> None:
        """Make the archive, on the main process, of the pictures that all processes have written.

        names: of these. missing: names of the data set that nobody has written. ValueError: there are any.
        """
        if missing:
            raise ValueError(
                f"no archive for the server: {len(missing)} of the {len(names) + len(missing)} images of "
                f"{self.dataset_name} have no prediction, the first is {missing[0]}; evaluate all of them"
            )
        if comm.is_main_process():
            write_archive(self.archive, {member: self.folder / member for member in sorted(map(self._member, names))})
            logger.info("%d pictures for the server of %s in %s", len(names), self.dataset_name, self.archive)

    def _member(self, name: str) -> str:
        return f"{self.server.folder}{os.path.basename(name)}.png"


def write_archive(path: Path, members: Mapping[str, Path]) -> None:
    """Write a .zip or .tar.gz, whole or not at all; the same bytes for the same files.

    members: name in the archive -> file, in the archive's order. Pictures are compressed already: a zip stores them.
    """
    with replacing(path) as part:
        if path.suffix == ".zip":
            _write_zip(part, members)
        else:
            _write_tar(part, members)


def _write_zip(path: Path, members: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, file in members.items():
            info = zipfile.ZipInfo(name, DAY_ONE)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, file.read_bytes())


def _write_tar(path: Path, members: Mapping[str, Path]) -> None:
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, member in members.items():
            content = member.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
