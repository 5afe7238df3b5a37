"""What the console shows of a run, and that log.txt has the rest."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from scaleeq.engine import EventStorage, EventWriter
from scaleeq.training.console_log import LONG, FirstLine, ProgressBar, console_handlers, first_lines

ROOT = Path(__file__).parents[2]
SHORT = ["toy/fpn", "SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
SHORT += ["DATASETS.TEST", "[]", "INPUT.CROP.ENABLED", "False", "SEED", "1"]


def run(folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scaleeq", "train", *SHORT, "OUTPUT_DIR", str(folder)]
    return subprocess.run(command, env=environment, cwd=ROOT, timeout=200, check=True, **options)


def test_a_long_record_is_its_first_line():
    record = logging.makeLogRecord({"msg": "Model:\n" + "\n".join(map(str, range(LONG)))})
    assert FirstLine(logging.Formatter("%(message)s")).format(record) == f"Model: ({LONG} lines in log.txt)"
    record.msg = "Model:\n" + "\n".join(map(str, range(LONG - 1)))
    assert FirstLine(logging.Formatter("%(message)s")).format(record) == record.msg


def test_formatters_come_back():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter := logging.Formatter("%(message)s"))
    logger = logging.getLogger("scaleeq.test_console_log")
    logger.addHandler(handler)
    try:
        with pytest.raises(RuntimeError), first_lines():
            assert isinstance(handler.formatter, FirstLine) and handler in console_handlers()
            raise RuntimeError
        assert handler.formatter is formatter
    finally:
        logger.removeHandler(handler)


def test_the_console_is_short_and_the_file_is_whole(tmp_path):
    done = run(tmp_path, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert next(at for at, line in enumerate(lines) if " iter: 2 " in line) <= 25, done.stdout
    assert "\x1b[?25l" not in done.stderr and "it/s" not in done.stderr
    text = (tmp_path / "log.txt").read_text()
    assert len(text.splitlines()) > 200 and "(backbone): TimmBackbone(" in text and "WARMUP_FACTOR" in text
    for cut in re.findall(r"\((\d+) lines in log.txt\)", done.stdout):
        assert int(cut) >= LONG


def test_the_bar_leaves_no_trace(capsys):
    with EventStorage(2) as storage:
        storage.put_scalar("total_loss", 0.5)
        bar = ProgressBar(8, instead_of=EventWriter())
        bar.write()
        bar.close()
    lines = capsys.readouterr().err.split("\r")
    assert "loss=0.5" in lines[-3] and lines[-2:] == [" " * len(lines[-3]), ""]


@pytest.mark.slow
def test_a_terminal_has_a_bar_instead_of_lines(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # 40 lines of 120 characters
    run(tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # the terminal is gone with its last writer
        pass
    text = shown.decode()
    assert re.search(r" 3/3 \[\S+<\S+, .*loss=[\d.]+, lr=", text), text
    assert " iter: 2 " not in text and " iter: 2 " in (tmp_path / "log.txt").read_text()
