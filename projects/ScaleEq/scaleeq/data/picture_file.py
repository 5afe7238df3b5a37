"""Picture files, opened in one place: images, labels, instances, stored predictions and what the checks look at.

What a file's values mean depends on how they are coded, and a decoder may change them on the way: Pillow spreads grey
of 1, 2 and 4 bits over 0..255, and cuts off at 255 what it turns from 16 bits into colours. Here an image is what
people see, in 8 bits a channel, and any other picture is the values as they are stored. What could be read in two ways
is refused, with the file's name.

| coding | as an image | as labels |
|---|---|---|
| 8 bits: grey, palette, RGB, CMYK, YCbCr, LAB, HSV | RGB; alpha is dropped, the colours below it stay | grey or index |
| 1, 2, 4 bits: grey | spread over 0..255 | the stored value |
| 12, 16 bits: grey | the upper 8 bits, as Pillow reads 16-bit RGB | the stored value |
| 32 bits, float or integer; 16 bits with a sign | refused: nothing says what is black and white | whole numbers alone |
| grey stored from white to black (TIFF, PBM) | as it is seen | refused |
| JPEG, AVIF | RGB | refused: compression changes labels |
| several pictures of their own (GIF, APNG, TIFF) | refused | refused |
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

MAX_PIXELS = 1 << 31  # what OpenCV can address; 6 GiB as RGB
MAX_TEXT_BYTES = 1 << 30  # of a PNG's comments and colour profile
# Above it a picture's size is compared with its file's before memory is taken: a damaged header may say anything.
LARGE_PIXELS = 1 << 27
# Bytes that a byte of a file can become: none more where nothing is compressed, 1032 by deflate.
EXPANSION = {"raw": 1.0, "zip": 1032.0}
EXPANSION_OF_OTHERS = 50_000.0  # zstd makes one of 30,000 equal ones
LOSSY_FORMATS = ("JPEG", "MPO", "AVIF")
INVERTED_OR_TWO_CHANNELS = ("I", "IR", "X")  # how Pillow's name of the coding of one channel of 1 to 8 bits ends then
STEPS_BETWEEN_MODES = {"La": "LA", "RGBa": "RGBA"}  # on the way to RGB, where Pillow knows no direct one
PHOTOMETRIC, SAMPLE_FORMAT, PAGE_KIND = 262, 339, 254  # TIFF's tags
SMALLER_COPY_OR_MASK = 1 | 4  # bits of PAGE_KIND
# How files begin that are no pictures to Pillow, or not to the one that is installed.
_UNKNOWN_TIFF = "a TIFF that Pillow does not know (several channels of more than 8 bits?), or a damaged one"
NOT_READ_HERE = {
    b"II": _UNKNOWN_TIFF,
    b"MM": _UNKNOWN_TIFF,
    b"ftyp": "HEIC or AVIF, which this Pillow does not read",
    b"RIFF": "WebP, which this Pillow does not read, or a damaged one",
    b"\x93NUMPY": "an array of numpy",
    b"\x89HDF": "an HDF5 file",
}


class UnusablePictureError(ValueError):
    """A file that can be decoded, but whose values do not say what is asked for; the message names it."""


@dataclass(frozen=True)
class Header:
    """How a picture is coded.

    mode: as Pillow names it. bits: of a stored value. orientation: EXIF's, 1: upright. lossy: its values have changed.
    """

    mode: str
    bits: int
    orientation: int
    lossy: bool


def read_header(path: str) -> Header:
    """How the picture is coded. Raises as open_picture does."""
    with open_picture(path) as file:
        return _header(file)


def read_size(path: str) -> tuple[int, int]:
    """Height and width of the picture as it is stored, from its header. Raises as open_picture does."""
    with open_picture(path) as file:
        return file.height, file.width


def read_rgb(path: str) -> np.ndarray:
    """The picture as people see it: (H, W, 3) uint8, upright.

    UnusablePictureError: float or 32-bit values, or several pictures. OSError: as open_picture raises it.
    """
    with open_picture(path) as file:
        _check_coding(file, path)
        bits = _bits(file)
        if file.mode in ("I", "F") and bits != 16:
            raise UnusablePictureError(
                f"the image {path} has {_in_words(file)}, and nothing says which of them are black and white: write it "
                "with 8 bits a channel (0..255) or 16 (0..65535)"
            )
        if bits in (12, 16) and file.mode.startswith("I"):
            grey = (np.array(_upright(file)) >> (bits - 8)).astype(np.uint8)
            return cv2.merge([grey] * 3)
        return np.array(_to_rgb(_upright(file)))


def read_values(path: str, *, what: str) -> tuple[np.ndarray, Header]:
    """The values as they are stored, upright: (H, W) of an integer type, or (H, W, C) as they are.

    what: "labels" or "instances", for messages.

    UnusablePictureError: values that are no whole numbers, that compression has changed, or that are stored from white
    to black; or several pictures. OSError: as open_picture raises it.
    """
    with open_picture(path) as file:
        # Refuse changed values.
        _check_coding(file, path)
        raw, spread = _raw_mode(file), _spread(file)
        header = _header(file)  # looks for EXIF, for which a PNG is decoded
        if header.lossy:
            raise UnusablePictureError(
                f"the {what} {path} are a {file.format}, whose compression changes values at every border: write PNG, "
                "from the original ones"
            )
        if file.mode in ("1", "L", "P") and raw.endswith(INVERTED_OR_TWO_CHANNELS):
            raise UnusablePictureError(
                f"the {what} {path} are stored from white to black, or with a second channel ({raw}), so that what "
                "programs read differs: write them as PNG, grey or palette, 8 bits"
            )
        values = np.array(_upright(file))
    # Undo the spreading.
    if values.ndim != 2:
        return values, header
    if spread is not None:
        stored, decoded = spread
        return np.rint(values * (stored / decoded)).astype(np.int32 if stored > 255 else np.uint8), header
    # Whole numbers alone.
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN is no whole number either
            whole = values.astype(np.int64)
        broken = values != whole
        if broken.any():
            raise UnusablePictureError(
                f"the {what} {path} (mode {header.mode}) hold {np.count_nonzero(broken)} values that are no whole "
                f"numbers, the first is {values[broken][0]:g}: write the indexes themselves, with 8 bits"
            )
        return whole, header
    return values.astype(np.uint8) if values.dtype == bool else values, header


def require_file(path: str) -> None:
    """Whatever is no regular file is refused before it is opened: reading a named pipe would wait for ever.

    FileNotFoundError: there is nothing; OSError: it is something else.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}; is the copy of the data set complete?") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
        kind = next((words for is_kind, words in kinds.items() if is_kind(mode)), "a device")
        raise OSError(f"{path} cannot be read: it is {kind}, not a file. Put a picture there, or take it away")


@contextlib.contextmanager
def open_picture(path: str) -> Iterator[Image.Image]:
    """The picture, opened; whatever the block reads of it.

    OSError: not a picture, or not all of one; FileNotFoundError: none. Both name the file and say what to do.
    """
    require_file(path)
    try:
        with _LIMITS, Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise UnusablePictureError(
                    f"{path} is {file.height} x {file.width} pixels, more than the {MAX_PIXELS} that can be read at "
                    "once: cut it into tiles"
                )
            if not _can_be_in_its_file(file, path):
                raise OSError(f"it says that it is {file.height} x {file.width} pixels, more than its bytes can hold")
            yield file
    except UnusablePictureError:
        raise
    except MemoryError as error:
        raise OSError(f"{path} does not fit into memory: cut it into tiles, or use fewer workers") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise OSError(
            f"{path} cannot be read: {_what_is_wrong(path, error)}. Copy or unpack it again; "
            "scaleeq data check --all finds all such files"
        ) from error


def _can_be_in_its_file(file: Image.Image, path: str) -> bool:
    pixels = file.width * file.height
    if pixels <= LARGE_PIXELS:
        return True
    decoded_bytes = pixels * len(file.getbands()) * _bits(file) / 8
    return decoded_bytes <= EXPANSION.get(_tile(file)[0], EXPANSION_OF_OTHERS) * os.path.getsize(path)


def _what_is_wrong(path: str, error: BaseException) -> str:
    if not os.access(path, os.R_OK):
        return "this user may not read it"
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        return "it is empty (0 bytes)"
    if start.startswith(b"MATLAB"):
        return "it is a MATLAB file, which scaleeq data prepare converts"
    if isinstance(error, UnidentifiedImageError) and not start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        kind = next((kind for begin, kind in NOT_READ_HERE.items() if begin in (start[: len(begin)], start[4:8])), "")
        return f"it is {kind}: write PNG" if kind else f"it is not a picture, it starts with {start!r}"
    return f"it seems to be cut off or damaged ({error})"


class _Limits:
    """Pillow's guards against forged files, lifted while any thread reads here; the process's own are put back.

    Images of satellites and of tissue are larger than what Pillow takes for an attack, and some programs write
    megabytes of text into a PNG.
    """

    def __init__(self) -> None:
        self.lock, self.readers = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.readers == 0:
                self.before = (
                    Image.MAX_IMAGE_PIXELS,
                    PngImagePlugin.MAX_TEXT_CHUNK,
                    PngImagePlugin.MAX_TEXT_MEMORY,
                )
                self._set(None, MAX_TEXT_BYTES, MAX_TEXT_BYTES)
            self.readers += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self._set(*self.before)

    @staticmethod
    def _set(pixels: int | None, chunk: int, memory: int) -> None:
        Image.MAX_IMAGE_PIXELS = pixels
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = chunk, memory


_LIMITS = _Limits()


def _header(file: Image.Image) -> Header:
    lossy = file.format in LOSSY_FORMATS or file.info.get("compression") == "jpeg"
    return Header(file.mode, _bits(file), int(file.getexif().get(ExifTags.Base.Orientation, 1)), lossy)


def _check_coding(file: Image.Image, path: str) -> None:
    """UnusablePictureError: several pictures, or values that Pillow decodes as if they meant something else."""
    frames = _num_pictures(file)
    if frames > 1:
        raise UnusablePictureError(
            f"{path} holds {frames} pictures (an animation, or pages), and nothing says which one is meant: write that "
            "one as a file of its own"
        )
    if file.format == "TIFF":
        tags = file.tag_v2  # type: ignore[attr-defined]
        signed = 2 in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)) and file.mode not in ("I", "F")
        if signed or (tags.get(PHOTOMETRIC) == 0 and file.mode.startswith(("I", "F"))):
            how = "with a sign" if signed else "from white to black"
            raise UnusablePictureError(f"{path} stores its values {how} (mode {file.mode}): write it as PNG")
    if file.format == "BMP" and file.mode in ("1", "L") and len(args := _tile(file)[1]) > 1:
        bits = 1 if file.mode == "1" else 8
        if args[1] != ((file.width * bits + 31) >> 3) & ~3:  # bytes of a row
            raise UnusablePictureError(f"{path} is a BMP whose palette of few greys Pillow misreads: write it as PNG")


def _num_pictures(file: Image.Image) -> int:
    """Pictures of their own: a photograph's preview, or a TIFF's smaller copies and masks, are none."""
    frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    if frames == 1 or file.format != "TIFF":
        return frames
    own = 1
    for page in range(1, frames):
        file.seek(page)
        own += not file.tag_v2.get(PAGE_KIND, 0) & SMALLER_COPY_OR_MASK  # type: ignore[attr-defined]
    file.seek(0)
    return own


def _tile(file: Image.Image) -> tuple[str, tuple]:
    """The decoder and its arguments, before anything is decoded; ("", ()) where the format has none."""
    if not isinstance(file, ImageFile.ImageFile) or not file.tile:
        return "", ()
    decoder, _, _, args = file.tile[0]
    return decoder, args if isinstance(args, tuple) else (args,)


def _raw_mode(file: Image.Image) -> str:
    """How one channel is stored, as Pillow names it: "L;4" of 4 bits, "L;I" from white to black."""
    _, args = _tile(file)
    if file.format not in ("PNG", "TIFF", "BMP", "PPM") or not args:
        return file.mode
    return str(args[0])


def _bits(file: Image.Image) -> int:
    """Of a stored value of one channel."""
    raw = _raw_mode(file)
    if ";16" in raw and not raw.endswith("S"):
        return 16
    if raw == "I;12":
        return 12
    if file.mode in ("I", "F"):
        return 16 if _tile(file)[0].startswith("ppm") else 32
    if file.mode == "1":
        return 1
    return next((bits for bits in (1, 2, 4) if f";{bits}" in raw), 8)


def _spread(file: Image.Image) -> tuple[int, int] | None:
    """The largest value that can be stored, and what the decoder makes of it; None: it changes nothing."""
    decoder, args = _tile(file)
    if decoder.startswith("ppm") and len(args) > 1:
        return (args[1], 255 if file.mode == "L" else 65535) if args[1] not in (255, 65535) else None
    if file.mode == "L" and (bits := _bits(file)) < 8:
        return (1 << bits) - 1, 255
    return None


def _in_words(file: Image.Image) -> str:
    return f"{'float' if file.mode == 'F' else 'integer'} values of mode {file.mode} ({_raw_mode(file)})"


def _to_rgb(file: Image.Image) -> Image.Image:
    if file.mode == "P" and "transparency" in file.info:
        file = file.convert("RGBA")  # without it, Pillow warns of every such file; the colours are the same
    if file.mode in STEPS_BETWEEN_MODES:
        file = file.convert(STEPS_BETWEEN_MODES[file.mode])
    return file.convert("RGB")


def _upright(file: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation; the file itself, not a copy, where it has none."""
    return file if file.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(file)
