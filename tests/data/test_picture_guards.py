"""What Pillow's guards stop that is no attack, and files that are none: read, or told at once by name."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from scaleeq.data import picture_file
from scaleeq.data.picture_file import open_picture, read_rgb
from scaleeq.data.reading import read_image, read_labels
from tests.data.coded_pictures import GREY, chunk, write_png, write_tiff

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture
def ends_soon():
    """A test that waits for somebody who never writes is ended."""
    signal.alarm(10)
    yield
    signal.alarm(0)


def image(path) -> np.ndarray:
    return read_image({"file_name": str(path)})


def labels(path, num_classes: int | None = None) -> np.ndarray:
    return read_labels({"file_name": "image.png", "sem_seg_file_name": str(path)}, num_classes=num_classes)


@pytest.mark.parametrize("where", ["text", "profile", "many texts"])
def test_a_png_with_much_text_or_a_large_profile_is_read(tmp_path, monkeypatch, where):
    data = zlib.compress(bytes(3 << 20))
    chunks = {
        "text": [chunk(b"zTXt", b"Comment\0\0" + data)],
        "profile": [chunk(b"iCCP", b"Profile\0\0" + data)],
        "many texts": [chunk(b"tEXt", b"Comment%d\0" % number + bytes(1000)) for number in range(9)],
    }[where]
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 8000)  # of the process: 64 MiB unless it says otherwise
    values = np.array([[0, 1, 2, 3]])
    path = write_png(tmp_path / "a.png", values, 8, GREY, *chunks)
    with open(path, "rb") as file, pytest.raises(ValueError, match="MAX_TEXT"):
        Image.open(file)
    assert image(path)[..., 1].tolist() == labels(path).tolist() == values.tolist()


def test_a_picture_beyond_pillows_guard_is_read_and_the_guard_stays(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "b.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    guards = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(image(tmp_path / "a.png"), COLOURS)
        np.testing.assert_array_equal(labels(tmp_path / "b.tif"), COLOURS[..., 0])
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(OSError, match="empty"):
        image(tmp_path / "c.png")
    assert guards == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")


def test_the_guard_comes_back_when_the_last_of_several_threads_has_read(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    inside, done = threading.Event(), threading.Event()

    def read() -> None:
        with open_picture(str(tmp_path / "a.png")):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    inside.wait(10)
    read_rgb(str(tmp_path / "a.png"))
    assert Image.MAX_IMAGE_PIXELS is None
    done.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 20


def test_a_picture_that_nobody_can_hold_is_told_its_size(tmp_path):
    path = write_png(tmp_path / "a.png", np.zeros((1, 1)), 8)
    header = chunk(b"IHDR", (1 << 16).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
    path.write_bytes(path.read_bytes()[:8] + header + path.read_bytes()[8 + len(header) :])
    with pytest.raises(ValueError, match=r"a.png is 65536 x 65536 pixels.*tiles"):
        image(path)


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_a_header_that_lies_about_a_large_size_takes_no_memory(tmp_path, form):
    side = 40_000  # 1.5 GiB
    path = tmp_path / "a.png"
    if form == "TIFF":
        write_tiff(path, bytes(4000), (side, side), (8,))
    else:
        write_png(path, np.zeros((2, 2)), 8)
        header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
        path.write_bytes(path.read_bytes()[:8] + header + path.read_bytes()[8 + len(header) :])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match=r"a.png cannot be read.*40000 x 40000 pixels, more than its bytes"):
        image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_large_picture_of_one_colour_is_in_its_file(tmp_path, form, monkeypatch):
    """The most that can be compressed; large here are a thousand pixels."""
    monkeypatch.setattr(picture_file, "LARGE_PIXELS", 1000)
    Image.new("RGB", (2000, 1500), (3, 3, 3)).save(tmp_path / "a.png", form)
    assert image(tmp_path / "a.png").shape == (1500, 2000, 3)
    Image.new("1", (2000, 1500)).save(tmp_path / "b.png")
    assert labels(tmp_path / "b.png").shape == (1500, 2000)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "link to nothing"])
@pytest.mark.parametrize("read", [image, labels])
def test_what_is_no_file_is_told_at_once(tmp_path, kind, read, ends_soon, monkeypatch):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's name is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(tmp_path / "nothing")
    message = r"no file .*a.png" if kind == "link to nothing" else rf"a.png cannot.*{kind}.*not a file"
    with pytest.raises(OSError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"II*\0" + bytes(20), "TIFF that Pillow does not know.*write PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC.*write PNG"),
        (b"\x93NUMPY\x01\0" + bytes(20), "numpy.*write PNG"),
    ],
)
def test_pictures_of_other_programs_are_named(tmp_path, start, message):
    (tmp_path / "a.png").write_bytes(start)
    with pytest.raises(OSError, match=rf"a.png cannot be read: it is .*{message}"):
        image(tmp_path / "a.png")
