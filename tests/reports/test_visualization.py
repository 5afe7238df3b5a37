"""Sheets, checked by pixels. Oracles: counts in plain numpy, the model's own output, closed forms, html.parser."""

from __future__ import annotations

import html.parser
import urllib.parse

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.data import read_labels
from scaleeq.data.sets.toy import CLASSES as TOY_CLASSES
from scaleeq.data.sets.toy import COLORS
from scaleeq.engine import DatasetCatalog
from scaleeq.pictures import VOID_COLOR, colorize, write_labels
from scaleeq.reports.pictures import sheets
from scaleeq.reports.pictures.drawing import (
    ARROWS,
    VOID_GREY,
    WRONG_COLOR,
    arrow_scale,
    error_map,
    fitted,
    heat_ends,
    paint_arrows,
    paint_heat,
)
from scaleeq.reports.pictures.evaluation import evaluation_sheets
from scaleeq.reports.pictures.layout import Panel, Section, draw_sheet, shortened
from scaleeq.reports.pictures.sheets import (
    Classes,
    Seen,
    legend,
    mean_offsets,
    overview_sheet,
    prediction_panels,
    prediction_sheet,
    score,
    visible_map,
    without_common,
)
from scaleeq.reports.pictures.sources import (
    ModelPredictions,
    StoredPredictions,
    dataset_images,
    picture_files,
    visible_share,
)
from scaleeq.reports.pictures.writing import write_sheets
from scaleeq.training.examples import Example
from scaleeq.training.testing import Evaluation
from tests.reports.visualization_data import photos, saved_model
from tests.training.tiny import TEST_SET, tiny_config

CLASSES = Classes(["sky", "road", "car"], [(10, 20, 30), (40, 250, 60), (70, 80, 90)])


def two_maps(size=(50, 70)) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth with void, of three classes."""
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), size, p=[0.2, 0.5, 0.2, 0.1])
    prediction = np.where(rng.random(size) < 0.7, truth % 3, 1).astype(np.uint8)
    return prediction, truth


def count(picture: np.ndarray, color) -> int:
    return int((picture == np.array(color, np.uint8)).all(axis=-1).sum())


# --- pixels ---


def test_labels_and_errors_have_exact_colours_and_counts():
    prediction, truth = two_maps()
    seen = Seen(np.zeros((50, 70, 3), np.uint8), prediction, truth)
    image, true, predicted, errors = (panel.picture for panel in prediction_panels(seen, CLASSES))
    factor = 640 // 70
    assert image.shape == (50 * factor, 70 * factor, 3)
    for y, x in ((0, 0), (49, 69), (23, 41)):
        for panel, labels in ((true, truth), (predicted, prediction)):
            color = VOID_COLOR if labels[y, x] == 255 else CLASSES.colors[labels[y, x]]
            block = panel[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            assert (block == np.array(color)).all()
    wrong, void = int(((prediction != truth) & (truth != 255)).sum()), int((truth == 255).sum())
    assert np.bincount(error_map(prediction, truth, 255).ravel()).tolist() == [truth.size - wrong - void, wrong, void]
    assert count(errors, WRONG_COLOR) == wrong * factor**2
    assert count(errors, (VOID_GREY,) * 3) == void * factor**2
    sheet = prediction_sheet("x", seen, CLASSES)
    assert count(sheet, WRONG_COLOR) == wrong * factor**2
    assert count(sheet, CLASSES.colors[1]) > ((truth == 1).sum() + (prediction == 1).sum()) * factor**2, (
        "and the legend"
    )


def test_right_pixels_are_darker_than_void():
    white = Seen(np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    assert prediction_panels(white, CLASSES)[3].picture.max() < VOID_GREY


def test_large_pictures_are_reduced_without_new_labels():
    prediction, truth = two_maps((1000, 2000))
    panels = prediction_panels(Seen(np.zeros((1000, 2000, 3), np.uint8), prediction, truth), CLASSES)
    assert {panel.picture.shape for panel in panels} == {(320, 640, 3)}
    colours = {tuple(color) for color in panels[1].picture.reshape(-1, 3).tolist()}
    assert colours == {*CLASSES.colors, VOID_COLOR}


def test_sizes():
    assert fitted((50, 70), 640) == (450, 630)
    assert fitted((640, 3), 640) == (640, 3)
    assert fitted((1024, 2048), 640) == (320, 640)
    assert fitted((5000, 3), 640) == (640, 1)


def test_a_sheet_pastes_panels_as_they_are():
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (40, width, 3), np.uint8) for width in (230, 210, 250)]
    sheet = draw_sheet("title", [Section([Panel(picture, "t", (0.0, 1.0)) for picture in pictures], columns=2)])
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (2, 20))
    for picture in pictures:
        at = np.argwhere((windows == picture[:2, :20, 0]).all(axis=(2, 3)))
        assert len(at) == 1
        top, left = at[0]
        np.testing.assert_array_equal(sheet[top : top + 40, left : left + picture.shape[1]], picture)
    assert all(count(sheet, color) for color in ((68, 1, 84), (253, 231, 37))), "a bar from low to high, in viridis"


def test_heat_and_arrows():
    values = np.tile(np.linspace(2, 5, 100), (4, 1))
    assert heat_ends(values) == pytest.approx((2, 5), abs=0.05)
    heat = paint_heat(values, (2, 5)).astype(int)
    assert heat[0, 0].tolist() == [68, 1, 84] and heat[0, -1].tolist() == [253, 231, 37]  # the ends of viridis
    ends = heat_ends(np.full((3, 3), 0.1) + np.eye(3) * 1e-9)
    assert ends[0] == ends[1], "rounding is not drawn as structure"
    assert len(np.unique(paint_heat(np.full((3, 3), 0.1), ends).reshape(-1, 3), axis=0)) == 1

    to_the_right = np.zeros((2, 200, 200))
    assert arrow_scale(to_the_right) == 0
    to_the_right[1, 100:110, 100:110] = 50
    drawn = paint_arrows(np.zeros((200, 200, 3), np.uint8), to_the_right, 1.0).any(axis=-1)
    rows, columns = np.nonzero(drawn)
    assert columns.min() >= 99 and 150 <= columns.max() <= 162 and np.ptp(rows) < 30


def test_arrows_are_as_many_along_the_longer_side():
    """Down everywhere: each arrow is a column of pixels of its own."""
    down = np.zeros((2, 40, 40 * ARROWS))
    down[0] = 5
    drawn = paint_arrows(np.zeros((*down.shape[1:], 3), np.uint8), down, 1.0).any(axis=(0, 2))
    starts = np.count_nonzero(drawn[1:] & ~drawn[:-1]) + drawn[0]
    assert starts == ARROWS


# --- scores, legend, names ---


def test_score_equals_a_direct_count():
    prediction, truth = two_maps()
    seen = Seen(np.zeros((50, 70, 3), np.uint8), prediction, truth)
    valid = truth != 255
    pairs = [(prediction == label, truth == label) for label in range(3)]
    ious = [(predicted & true).sum() / ((predicted | true) & valid).sum() for predicted, true in pairs]
    result = score(seen, CLASSES)
    assert result is not None
    assert result.mean_iou == pytest.approx(100 * np.mean(ious), abs=1e-9)
    assert result.pixel_accuracy == pytest.approx(100 * (prediction == truth)[valid].mean(), abs=1e-9)
    only_void = Seen(seen.image, prediction, np.full_like(truth, 255))
    assert str(score(only_void, CLASSES)) == "mIoU -, accuracy -"
    assert score(Seen(seen.image, prediction), CLASSES) is None


def test_legend_lists_what_occurs_by_area():
    truth = np.array([[2] * 6 + [255] * 4], np.uint8)
    prediction = np.array([[2] * 5 + [0] * 5], np.uint8)
    table = legend([Seen(np.zeros((1, 10, 3), np.uint8), prediction, truth)], CLASSES)
    assert [row[0] for row in table.rows] == ["car", "sky", "void"], "road occurs nowhere"
    assert table.rows[0] == ("car", "60.0", "50.0")
    assert list(table.colors) == [(70, 80, 90), (10, 20, 30), VOID_COLOR]


def test_names():
    assert without_common(["a.b.p2.gate", "a.b.p3.gate"]) == (
        "Names are a.b.*.gate.",
        {"a.b.p2.gate": "p2", "a.b.p3.gate": "p3"},
    )
    assert without_common(["a.b"]) == ("Names are a.*.", {"a.b": "b"})
    assert without_common([]) == ("", {})
    assert without_common(["x", "x.y"]) == ("", {"x": "x", "x.y": "x.y"})
    assert shortened("short", 200) == "short"
    long = shortened("begin" + "x" * 200 + "end", 150)
    assert long.startswith("begin") and long.endswith("end") and "…" in long


# --- maps ---


def test_padding_is_measured_at_the_backbone():
    model = torch.nn.Module()
    model.backbone = torch.nn.Identity()
    with visible_share(model, torch.zeros(3, 40, 70)) as shares:
        model.backbone(torch.zeros(1, 3, 64, 96))
        assert shares == [40 / 64, 70 / 96]
    model.backbone(torch.zeros(1, 3, 80, 140))
    assert shares == [40 / 64, 70 / 96], "another image's forward is not looked at"


def test_padding_is_not_shown():
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    shown = visible_map(values, (0.5, 0.75), (4, 6))[0]
    expected = values[0, 0, :2, :3].repeat_interleave(2, 0).repeat_interleave(2, 1)
    np.testing.assert_array_equal(shown, expected.numpy())


def test_mean_offsets_against_a_loop():
    torch.manual_seed(0)
    offset, mask = torch.randn(1, 2 * 2 * 9, 3, 4), torch.rand(1, 2 * 9, 3, 4)
    mean = mean_offsets(offset, mask)
    for axis in (0, 1):
        total = sum(offset[0, 2 * tap + axis] * mask[0, tap] for tap in range(18))
        torch.testing.assert_close(mean[0, axis], total / mask[0].sum(0))


def test_arrows_are_offsets_in_pixels_of_the_picture(monkeypatch):
    """The lower half of the map is padding: its 4 rows are twice the picture's height, its 8 columns the width."""
    drawn = []
    monkeypatch.setattr(sheets, "paint_arrows", lambda picture, offsets, scale: drawn.append(offsets) or picture)
    one_map = torch.rand(1, 1, 4, 8)
    offset = torch.tensor([1.0, 3.0]).repeat(9).reshape(1, 18, 1, 1).expand(1, 18, 4, 8)
    maps = {"t.before": one_map, "t.after": one_map, "t.offset": offset, "t.mask": torch.ones(1, 9, 4, 8)}
    seen = Seen(np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8), maps=maps, visible=(0.5, 1.0))
    sheets.alignment_sheet("image", seen)
    height, width = drawn[0].shape[1:]
    np.testing.assert_allclose(drawn[0][0], height / 2, rtol=1e-6)
    np.testing.assert_allclose(drawn[0][1], 3 * width / 8, rtol=1e-6)


def test_only_gates_are_on_the_sheet_of_gates():
    """Neither the maps of an aligned transfer nor what has several channels."""
    image, labels = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8)
    gates = {"p2.gate": torch.rand(1, 1, 4, 8), "p3.gate": torch.rand(1, 1, 4, 8)}
    others = {"p2.mask": torch.rand(1, 1, 4, 8), "p4.gate": torch.rand(1, 3, 4, 8)}
    sheet = sheets.gates_sheet("image", Seen(image, labels, maps=gates))
    np.testing.assert_array_equal(sheets.gates_sheet("image", Seen(image, labels, maps=gates | others)), sheet)


# --- models ---

VARIANTS = {
    "alignment": {"MODEL__PYRAMID__NAME": "fapn"},
    "gates": {"MODEL__PYRAMID__TRANSFER": "gated"},
}


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.found += [value for key, value in attrs if tag in ("a", "img") and key in ("href", "src")]


@pytest.mark.parametrize("kind", VARIANTS)
def test_photos_of_any_size_one_of_them_broken(tmp_path, kind, caplog):
    cfg, weights = saved_model(tmp_path, MODEL__SEM_SEG_HEAD__NAME="SemanticFPNHead", **VARIANTS[kind])
    photos(tmp_path / "photos")
    output = tmp_path / "photos" / "out"
    images = picture_files([tmp_path / "photos"], leave_out=output)
    assert list(images) == ["a#1", "broken", "in here/b.JPG", "in here/b.png"]
    look = ModelPredictions(cfg, weights, kinds=[kind, "features"])
    faults = write_sheets(images, look, look.classes, output, kinds=[kind, "features"])
    assert picture_files([tmp_path / "photos"], leave_out=output) == images, "sheets are no photos"
    assert list(faults) == ["broken"] and "broken.png cannot be read" in caplog.text
    written = {str(path.relative_to(output)) for path in output.rglob("*.*g")}
    drawn = [name for name in images if name != "broken"]
    sheets_of = {f"{folder}/{name}.png" for folder in ("sheets", kind, "features") for name in drawn}
    assert written == sheets_of | {f"thumbs/{name}.jpg" for name in drawn}
    links = Links()
    links.feed((output / "index.html").read_text())
    assert {urllib.parse.unquote(link) for link in links.found if not link.startswith(("data:", "#"))} == written

    seen = look(images["a#1"])
    image = torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
    with torch.no_grad():
        expected = look.model([{"image": image}])[0]["sem_seg"].argmax(0)
    np.testing.assert_array_equal(seen.prediction, expected.numpy())
    sheet = np.asarray(Image.open(output / kind / "a#1.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100, "heat"


def test_a_model_without_gates_says_what_it_has(tmp_path):
    cfg, weights = saved_model(tmp_path)
    with pytest.raises(ValueError, match=r"no gates to draw.*GSTO.*it has features \(5: sem_seg_head.context"):
        ModelPredictions(cfg, weights, kinds=["gates"])
    with pytest.raises(ValueError, match="unknown maps heat; choose of gates, alignment, features"):
        ModelPredictions(cfg, weights, kinds=["heat"])
    with pytest.raises(ValueError, match="NUM_CLASSES is 8, but the data set camvid_sem_seg_val has 11"):
        ModelPredictions(cfg, weights, dataset_name="camvid_sem_seg_val")


def test_windows_are_used_for_predictions(tmp_path):
    cfg, weights = saved_model(tmp_path, TEST__SLIDE__WINDOW="[64, 64]")
    record = DatasetCatalog.get(TEST_SET)[0]
    look = ModelPredictions(cfg, weights, kinds=["features"])
    with torch.no_grad():
        expected = look.predictor([look.mapper(record)])[0]["sem_seg"].argmax(0).numpy()
    np.testing.assert_array_equal(look(record).prediction, expected)


# --- data sets ---


def test_images_of_a_data_set(tmp_path):
    tiny_config(tmp_path)
    every = list(dataset_images(TEST_SET))
    assert len(every) == 4
    assert list(dataset_images(TEST_SET, num=2)) == [every[0], every[2]]
    assert list(dataset_images(TEST_SET, num=9)) == every
    assert list(dataset_images(TEST_SET, only=[every[3], every[1]])) == [every[3], every[1]]
    with pytest.raises(ValueError, match=rf"{TEST_SET} has no image 0009x; near are 000"):
        dataset_images(TEST_SET, only=[every[0], "0009x"])
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        picture_files([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="there is no image"):
        picture_files([tmp_path])


def test_images_of_a_folder_that_nobody_has_named_before(tmp_path):
    photo = np.zeros((4, 6, 3), np.uint8)
    for folder, picture in (("images", photo), ("labels", photo[..., 0])):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert list(dataset_images(f"folder:{tmp_path}")) == ["a"]


def test_stored_predictions(tmp_path):
    tiny_config(tmp_path)
    images = dataset_images(TEST_SET, num=2)
    first, second = images
    truth = read_labels(images[first])
    write_labels(tmp_path / f"{first}.png", np.where(truth == 255, np.uint8(0), truth), COLORS)
    with pytest.raises(ValueError, match=f"missing.*{second}.png"):
        StoredPredictions(str(tmp_path), TEST_SET, images, all_images=False)
    write_labels(tmp_path / f"{second}.png", truth[:5])
    look = StoredPredictions(str(tmp_path), TEST_SET, images, all_images=False)
    faults = write_sheets(images, look, look.classes, tmp_path / "out")
    assert list(faults) == [second] and f"{second}.png is (5, {truth.shape[1]})" in faults[second]
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheets" / f"{first}.png"))
    assert count(sheet, WRONG_COLOR) == 0
    factor = 640 // max(truth.shape)
    label = int(np.bincount(truth.ravel()[truth.ravel() != 255]).argmax())
    panels = colorize(truth, COLORS, 255)
    assert count(sheet, COLORS[label]) >= 2 * factor**2 * count(panels, COLORS[label])
    assert "mIoU 100.0 %" in (tmp_path / "out" / "index.html").read_text()
    write_labels(tmp_path / f"{first}.png", np.full_like(truth, 255))
    with pytest.raises(ValueError, match=f"{first}.png holds 255, void, where the truth is a class"):
        look(images[first])


# --- evaluations ---


def test_the_sheets_of_an_evaluation(tmp_path):
    """What the training command shows: an overview sheet of its examples, for each data set that has some."""
    cfg = tiny_config(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    labels = rng.integers(0, 8, (40, 60), np.uint8)
    examples = [Example("folder/a.png", image, labels, 7 - labels), Example("folder/b.png", image, labels)]
    evaluation = Evaluation(cfg, examples={TEST_SET: examples, "other": []})
    (name,) = sheets_of = evaluation_sheets(evaluation)
    assert name == f"predictions/{TEST_SET}"
    seen = {"a.png": Seen(image, labels, 7 - labels), "b.png": Seen(image, labels)}
    classes = Classes(TOY_CLASSES, COLORS)
    assert np.array_equal(sheets_of[name], overview_sheet(TEST_SET, seen, classes))
