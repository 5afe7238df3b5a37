"""Picture files of every coding: what is read, to the digit, or refused by name.

Oracles: for images of 8 bits what Pillow's convert("RGB") makes of the same file; for 16-bit grey Pillow's reading of
the same values as 16-bit RGB; for labels the values that were written, by writers of this folder.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from scaleeq.data.picture_file import read_header, read_values
from scaleeq.data.reading import read_image, read_instances, read_labels
from tests.data.coded_pictures import (
    COLOUR,
    COLOUR_ALPHA,
    GREY_ALPHA,
    PALETTE,
    packed,
    palette_chunk,
    write_png,
    write_tiff,
)

RNG = np.random.default_rng(0)
DEEP = np.array([[0, 255, 256, 1000], [4095, 32767, 32768, 65535]], np.uint16)
COLOURS = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def image(path) -> np.ndarray:
    return read_image({"file_name": str(path)})


def labels(path, num_classes: int | None = None) -> np.ndarray:
    return read_labels({"file_name": "image.png", "sem_seg_file_name": str(path)}, num_classes=num_classes)


# ---------------------------------------------------------------------------------------------------- images


def deep_png(path) -> None:
    write_png(path, DEEP, 16)


def deep_png_with_alpha(path) -> None:
    write_png(path, np.dstack([DEEP, DEEP[::-1]]), 16, GREY_ALPHA)


def deep_rgba(path) -> None:
    write_png(path, np.dstack([DEEP] * 3 + [DEEP[::-1]]), 16, COLOUR_ALPHA)


def deep_tiff(path) -> None:
    write_tiff(path, DEEP.tobytes(), DEEP.shape, (16,))


def deep_big_endian_tiff(path) -> None:
    Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes()).save(path, "TIFF")


def deep_pgm(path) -> None:
    path.write_bytes(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())


@pytest.mark.parametrize(
    "write",
    [deep_png, deep_png_with_alpha, deep_rgba, deep_tiff, deep_big_endian_tiff, deep_pgm],
    ids=lambda f: f.__name__,
)
def test_deep_grey_is_read_as_deep_rgb(tmp_path, write):
    rgb = write_png(tmp_path / "rgb.png", np.dstack([DEEP] * 3), 16, COLOUR)
    expected = np.array(Image.open(rgb).convert("RGB"))
    write(tmp_path / "grey")
    np.testing.assert_array_equal(image(tmp_path / "grey"), expected)
    assert len(np.unique(expected)) > 4 and read_header(str(tmp_path / "grey")).bits == 16


def test_twelve_bits_are_scaled_as_twelve(tmp_path):
    values = np.array([[0, 15, 16, 4095]], np.uint16)
    path = write_tiff(tmp_path / "a.tif", packed(values, 12), values.shape, (12,))
    assert image(path)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_deep_images_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(image(tmp_path / "a.png")[..., 0], np.rot90(DEEP >> 8, -1))


def transparent_palette(path) -> None:
    Image.fromarray(COLOURS).quantize(8).save(path, "PNG", transparency=bytes([0, 99, 255]))


def inverted_cmyk(path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(path, "JPEG")


@pytest.mark.parametrize(
    "write",
    [
        *[
            pytest.param(
                lambda path, m=mode, f=form: Image.fromarray(COLOURS).convert(m).save(path, f), id=f"{mode} {form}"
            )
            for mode, form in [
                *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
                *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")],
                *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
                *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
                *[(mode, "BMP") for mode in ("1", "L", "P", "RGB")],
                ("P", "GIF"),
                ("RGB", "PPM"),
            ]
        ],
        transparent_palette,
        lambda path: write_png(path, np.arange(8).reshape(2, 4) % 4, 2),
        lambda path: write_png(path, np.arange(8).reshape(2, 4), 4),
        lambda path: write_png(path, np.arange(8).reshape(2, 4), 4, PALETTE, palette_chunk(16)),
    ],
)
def test_eight_bits_are_pillows(tmp_path, write):
    write(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.array(Image.open(tmp_path / "a").convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(image(tmp_path / "a"), expected)


def test_colours_below_alpha_stay(tmp_path):
    Image.fromarray(np.dstack([COLOURS, np.zeros((6, 8), np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(image(tmp_path / "a.png"), COLOURS)


def test_lab_has_the_colours_of_srgb(tmp_path):
    rgb = Image.fromarray(np.full((2, 2, 3), (200, 30, 90), np.uint8))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(rgb, to_lab).save(tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").mode == "LAB"
    assert np.abs(image(tmp_path / "a.tif").astype(int) - (200, 30, 90)).max() <= 3


def pages(path, **options) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: Image.fromarray(np.ones((2, 2), np.float32)).save(path, "TIFF"),
            r"float values of mode F.*8 bits",
        ),
        (
            lambda path: Image.fromarray(np.ones((2, 2), np.int32)).save(path, "TIFF"),
            r"integer values of mode I.*8 bits",
        ),
        (lambda path: path.write_bytes(b"Pf 1 1 -1.0\n" + np.float32(1).tobytes()), r"float values of mode F"),
        (lambda path: write_tiff(path, DEEP.tobytes(), DEEP.shape, (16,), format=2), r"integer values.*I;16S"),
        (lambda path: write_tiff(path, DEEP.tobytes(), DEEP.shape, (16,), photometric=0), r"from white to black.*PNG"),
        (lambda path: write_tiff(path, b"\1\2", (1, 2), (8,), format=2), r"with a sign.*PNG"),
        (lambda path: pages(path, format="GIF"), "holds 2 pictures"),
        (lambda path: pages(path, format="PNG"), "holds 2 pictures"),
        (lambda path: pages(path, format="WEBP"), "holds 2 pictures"),
        (lambda path: pages(path, format="TIFF"), "holds 2 pictures.*a file of its own"),
    ],
)
def test_what_no_image_can_be_made_of_is_refused(tmp_path, write, message):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a .*{message}"):
        image(tmp_path / "a")


def test_smaller_copies_in_a_tiff_are_no_pictures_of_their_own(tmp_path):
    """As satellites' images have them: pages that say so of themselves (NewSubfileType 1)."""
    small = Image.fromarray(COLOURS[::2, ::2].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(COLOURS).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert Image.open(tmp_path / "a.tif").n_frames == 2
    np.testing.assert_array_equal(image(tmp_path / "a.tif"), COLOURS)


def test_a_camera_s_second_picture_is_passed_over(tmp_path):
    pages(tmp_path / "a.jpg", format="MPO")
    assert Image.open(tmp_path / "a.jpg").n_frames == 2
    np.testing.assert_array_equal(image(tmp_path / "a.jpg"), np.array(Image.open(tmp_path / "a.jpg")))


# ---------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("coding", ["grey PNG", "palette PNG", "TIFF", "PGM"])
def test_labels_are_the_stored_values(tmp_path, coding, bits):
    most = min(255, (1 << bits) - 1)
    values = np.resize(np.arange(most + 1), (5, 64)).astype(np.uint16)
    if coding == "palette PNG":
        if bits == 16:
            return  # there is none
        write_png(tmp_path / "a", values, bits, PALETTE, palette_chunk(1 << bits))
    elif coding == "grey PNG":
        write_png(tmp_path / "a", values, bits)
    elif coding == "TIFF":
        write_tiff(tmp_path / "a", values.tobytes() if bits == 16 else packed(values, bits), values.shape, (bits,))
    else:
        largest = (1 << bits) - 1
        (tmp_path / "a").write_bytes(b"P5 64 5 %d\n" % largest + values.astype(">u2" if bits == 16 else "u1").tobytes())
    read = labels(tmp_path / "a")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("largest", [2, 3, 7, 18, 100, 254, 300, 4095])
def test_labels_of_a_pgm_that_says_its_largest_value(tmp_path, largest):
    values = np.arange(min(largest, 255) + 1)
    kind = ">u2" if largest > 255 else "u1"
    (tmp_path / "a").write_bytes(b"P5 %d 1 %d\n" % (len(values), largest) + values.astype(kind).tobytes())
    assert labels(tmp_path / "a")[0].tolist() == values.tolist()


def test_white_of_one_bit_is_class_1_of_two_and_nothing_of_more(tmp_path):
    write_png(tmp_path / "a.png", np.array([[0, 1, 1, 0]]), 1)
    assert labels(tmp_path / "a.png", 2).tolist() == [[0, 1, 1, 0]]
    with pytest.raises(ValueError, match=r"a.png are black and white.*class 1 or 255.*3 classes: write.*8 bits"):
        labels(tmp_path / "a.png", 3)
    write_png(tmp_path / "black.png", np.zeros((1, 4)), 1)
    assert labels(tmp_path / "black.png", 3).tolist() == [[0, 0, 0, 0]]
    write_png(tmp_path / "palette.png", np.array([[0, 1, 1, 0]]), 1, PALETTE, palette_chunk(2))
    assert labels(tmp_path / "palette.png", 3).tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_whole_numbers_of_other_types_are_labels(tmp_path, dtype):
    Image.fromarray(np.array([[0, 3, 255]], dtype)).save(tmp_path / "a.tif")
    assert labels(tmp_path / "a.tif", 4).tolist() == [[0, 3, 255]]


def write_values(values: list, dtype: type):
    return lambda path: Image.fromarray(np.array([values], dtype)).save(path, "TIFF")


def jpeg(path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, "JPEG")


def grey_bmp_of_four_bits(path) -> None:
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(16))
    head = np.array([40, 8, 1, 4 << 16 | 1, 0, 4, 0, 0, 16, 0], "<u4").tobytes()
    path.write_bytes(
        b"BM" + np.array([122, 0, 118], "<u4").tobytes() + head + palette + bytes([0x01, 0x23, 0x45, 0x67])
    )


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_values([0, 0.99, 2], np.float32), r"mode F.*1 values that are no whole numbers, the first is 0.99"),
        (write_values([0, np.nan, np.nan], np.float32), r"2 values that are no whole numbers, the first is nan"),
        (write_values([np.inf, 1, 2], np.float32), r"no whole numbers, the first is inf"),
        (write_values([0, -1, 2], np.float32), r"from -1 to 2.*0..255"),
        (write_values([0, -1, 2], np.int32), r"from -1 to 2.*0..255"),
        (write_values([0, 256, 2], np.float32), r"from 0 to 256.*0..255"),
        (write_values([0, 1e30, 2], np.float32), r"the first is 1e\+30"),
        (jpeg, r"are a JPEG.*PNG"),
        (grey_bmp_of_four_bits, r"BMP.*PNG"),
        (lambda path: write_tiff(path, b"\0\xfe", (1, 2), (8,), photometric=0), r"white to black.*L;I.*PNG"),
        (lambda path: write_tiff(path, b"\x80", (1, 2), (1,), photometric=0), r"white to black.*1;I.*PNG"),
        (lambda path: path.write_bytes(b"P4 8 1\n\x0f"), r"white to black.*1;I"),
        (lambda path: write_tiff(path, bytes(4), (1, 2), (8, 8), extra=0), r"second channel.*LX"),
        (lambda path: write_tiff(path, b"\1\xff", (1, 2), (8,), format=2), r"with a sign"),
        (lambda path: Image.new("LA", (2, 2)).save(path, "PNG"), r"2 channels \(mode LA\)"),
        (lambda path: pages(path, format="TIFF"), "holds 2 pictures"),
    ],
)
def test_values_that_may_mean_something_else_are_no_labels(tmp_path, write, message):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a .*{message}"):
        labels(tmp_path / "a")


@pytest.mark.parametrize(("values", "dtype"), [([0, 26001.5], np.float32), ([-1, 26001], np.int32), ([1, 2], np.uint8)])
def test_instances_are_whole_numbers_of_more_than_8_bits(tmp_path, values, dtype):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"instances .*a.tif"):
        read_instances({"instance_file_name": str(tmp_path / "a.tif")})


def test_the_header_alone(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((2, 4)), 4)
    header = read_header(str(tmp_path / "a.png"))
    assert (header.mode, header.bits, header.orientation, header.lossy) == ("L", 4, 1, False)
    values, same = read_values(str(tmp_path / "a.png"), what="labels")
    assert same == header and values.shape == (2, 4)
