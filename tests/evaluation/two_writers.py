"""One of two processes that write predictions together; run by test_writing.py with the rank and a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from scaleeq.engine import MetadataCatalog, comm, leave_job
from scaleeq.evaluation.writing import output_writers
from tests.evaluation.writing_data import output_of, predictions, registered


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with registered("voc2012") as name:
        num_classes = len(MetadataCatalog.get(name).stuff_classes)
        (writer,) = output_writers(["labels", "submission"], name, folder / "inference")
        for skipped in (2, 0):  # images that nobody writes
            writer.reset()
            for sample, labels in predictions(name)[skipped:][rank::2]:
                writer.process([sample], [output_of(labels, num_classes)])
            try:
                assert writer.evaluate() is None
                assert skipped == 0
            except ValueError as error:
                assert skipped == 2 and "2 of the 3 images" in str(error)
    leave_job(comm)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
