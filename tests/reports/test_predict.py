"""`scaleeq predict`: masks, overlays, thumbnails, videos, models of other libraries. Oracles: OpenCV reads what was
written, the libraries' own forward."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq import console
from scaleeq.commands import predict
from scaleeq.pictures import blend
from scaleeq.reports.pictures import other_models, progress
from scaleeq.reports.pictures.layout import draw_sheet
from scaleeq.reports.pictures.other_models import OtherPredictions
from scaleeq.reports.pictures.sheets import Classes, Seen, prediction_sections
from scaleeq.reports.pictures.video import write_video
from scaleeq.reports.pictures.writing import write_sheets
from tests.reports.visualization_data import photos, saved_model
from tests.training.tiny import TEST_SET

CLASSES = Classes(["dark", "light"], [(10, 20, 30), (40, 250, 60)])


def call(words: str) -> int:
    return predict.run(predict.parse(predict.parser(), words.split()))


def by_light(record) -> Seen:
    """Labels of a picture without a model: whether a pixel is light."""
    image = record["read_image"]()
    return Seen(image, (image.mean(axis=2) > 127).astype(np.uint8))


def film(path: Path, num_frames: int = 6, size: tuple[int, int] = (48, 64)) -> None:
    """A film whose light square wanders."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, size[::-1])
    for number in range(num_frames):
        frame = np.full((*size, 3), 20, np.uint8)
        frame[8:32, 8 * number : 8 * number + 16] = 230
        writer.write(frame)
    writer.release()


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    return frames


# --- videos ---


def test_a_video_has_the_prediction_over_each_frame(tmp_path):
    film(tmp_path / "in.mp4")
    told = write_video(str(tmp_path / "in.mp4"), by_light, CLASSES, tmp_path / "out" / "in.mp4", masks=tmp_path / "m")
    sources, drawn = frames_of(tmp_path / "in.mp4"), frames_of(tmp_path / "out" / "in.mp4")
    assert told == "" and len(drawn) == len(sources) == 6
    for source, frame in zip(sources, drawn, strict=True):
        expected = blend(source, (source.mean(axis=2) > 127).astype(np.uint8), CLASSES.colors)
        assert np.abs(frame.astype(int) - expected).mean() < 6, "a lossy codec"
    assert [file.name for file in sorted((tmp_path / "m").iterdir())] == [f"{number:06}.png" for number in range(6)]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["in.mp4"], "no parts are left"


def test_so_many_frames(tmp_path):
    film(tmp_path / "in.mp4")
    assert not write_video(str(tmp_path / "in.mp4"), by_light, CLASSES, tmp_path / "out.mp4", num_frames=2)
    assert len(frames_of(tmp_path / "out.mp4")) == 2


def test_a_failure_leaves_the_film_of_before(tmp_path):
    film(tmp_path / "in.mp4")
    (tmp_path / "out.mp4").write_text("of before")

    def fails(record):
        raise FloatingPointError("scores are not finite")

    with pytest.raises(FloatingPointError):
        write_video(str(tmp_path / "in.mp4"), fails, CLASSES, tmp_path / "out.mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "of before"


def test_broken_videos_and_absent_webcams_are_a_line_each(tmp_path, capfd, caplog):
    cfg, weights = saved_model(tmp_path, MODEL__TIMM__NAME="test_resnet")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    film(tmp_path / "good.mp4", 3)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:300])
    words = f"{tmp_path}/empty.mp4 {tmp_path}/cut.mp4 {tmp_path}/good.mp4 97"
    code = call(
        f"{tmp_path}/config.yaml {words} --weights {weights} --output {tmp_path}/out --frames 2 MODEL.DEVICE cpu"
    )
    assert code == 1
    assert [re.sub(r".*/", "", record.getMessage()) for record in caplog.records if record.levelname == "ERROR"] == [
        "empty.mp4: it is not a video that OpenCV can read",
        "cut.mp4: it is not a video that OpenCV can read",
        "97: it is not the number of a webcam",
    ]
    captured = capfd.readouterr()
    assert "moov atom" not in captured.err and "good.mp4: " in captured.out
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["good.mp4"]
    assert len(frames_of(tmp_path / "out" / "videos" / "good.mp4")) == 2


# --- pictures ---


def test_masks_overlays_and_thumbnails(tmp_path, capsys):
    cfg, weights = saved_model(tmp_path, MODEL__TIMM__NAME="test_resnet")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    photos(tmp_path / "photos")
    common = f"{tmp_path}/config.yaml --weights {weights} --output {tmp_path}/out MODEL.DEVICE cpu"
    assert call(f"{common.split()[0]} {tmp_path}/photos --masks --overlays {' '.join(common.split()[1:])}") == 1
    assert "3 of 4 images drawn" in capsys.readouterr().out
    out = tmp_path / "out"
    assert not (out / "sheets").exists()
    with Image.open(out / "masks" / "a#1.png") as mask, Image.open(out / "overlays" / "a#1.png") as over:
        with Image.open(tmp_path / "photos" / "a#1.png") as photo:
            palette = np.reshape(mask.getpalette(), (-1, 3))
            expected = blend(np.asarray(photo), np.asarray(mask), palette[: cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES])
        assert np.array_equal(np.asarray(over), expected)
    page = (out / "index.html").read_text()
    assert 'src="thumbs/a%231.jpg"' in page and 'href="#image-1"' in page
    assert "lowest IoU first" not in page, "photos have no truth"


def test_thumbnails_are_ordered_by_iou_without_scripts(tmp_path):
    truth = np.zeros((20, 30), np.uint8)
    truth[:, 15:] = 1
    wrong = {"good": 0, "bad": 12, "middling": 5, "unknown": 0}

    def look(record) -> Seen:
        name = record["image_id"]
        labels = truth.copy()
        labels[:, : wrong[name]] = 1
        return Seen(np.zeros((20, 30, 3), np.uint8), labels, None if name == "unknown" else truth)

    write_sheets({name: {"image_id": name} for name in wrong}, look, CLASSES, tmp_path)
    page = (tmp_path / "index.html").read_text()
    ranks = re.findall(r'--rank: (\d+)"><a href="#image-(\d)">', page)
    assert ranks == [("2", "1"), ("0", "2"), ("1", "3"), ("4", "4")] and "<script" not in page
    assert "lowest IoU first" in page and "#by-iou:checked ~ ul li { order: var(--rank); }" in page


@pytest.mark.parametrize("truth", [None, np.zeros((40, 60), np.uint8)])
def test_a_sheet_has_no_empty_quadrant(truth):
    seen = Seen(np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8), truth)
    (section,) = prediction_sections(seen, CLASSES)
    assert len(section.panels) % section.columns == 0
    assert draw_sheet("one", [section]).shape[1] > 600 * section.columns


def test_progress_is_told_off_a_terminal_too(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PERIOD", 0.0)
    assert list(progress.watched(range(3), 3, unit="images")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and re.fullmatch(r"1 of 3 images, .* s each, .* s left", lines[0])


# --- models of other libraries ---


def photo(path: Path) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(image).save(path)
    return image


def test_the_command_knows_the_libraries_without_loading_torch():
    assert predict.LIBRARIES == other_models.LIBRARIES


def test_transformers(tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="pip install 'scaleeq[models]' brings it")
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1] * 4}
    names = {0: "sky", 1: "road", 2: "car"}
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=8, id2label=names)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    image = photo(tmp_path / "a.png")
    look = OtherPredictions(f"transformers:{tmp_path}/model", device="cpu")
    assert list(look.classes.names) == ["sky", "road", "car"]
    with torch.no_grad():
        output = model(**processor(images=image, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[image.shape[:2]])
    seen = look({"file_name": str(tmp_path / "a.png")})
    assert np.array_equal(seen.prediction, expected.numpy())
    assert call(f"{tmp_path}/a.png --model transformers:{tmp_path}/model --output {tmp_path}/out") == 0
    assert "1 of 1 images drawn" in capsys.readouterr().out


def test_smp(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="pip install 'scaleeq[models]' brings it")
    torch.manual_seed(0)
    for count, names in ((1, ["background", "class 1"]), (3, ["class 0", "class 1", "class 2"])):
        model = smp.Unet("resnet18", encoder_weights=None, classes=count).eval()
        model.save_pretrained(str(tmp_path / f"unet{count}"))
        image = photo(tmp_path / "a.png")
        look = OtherPredictions(f"smp:{tmp_path}/unet{count}", device="cpu")
        assert list(look.classes.names) == names
        normalized = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        padded = np.zeros((64, 96, 3))
        padded[:50, :70] = normalized
        with torch.no_grad():
            logits = model(torch.from_numpy(padded).permute(2, 0, 1)[None].float())[0, :, :50, :70]
        expected = logits[0] > 0 if count == 1 else logits.argmax(0)
        agreeing = (look({"file_name": str(tmp_path / "a.png")}).prediction == expected.numpy()).mean()
        assert agreeing > 0.999, "but for ties of rounding"
    smp.Unet("resnet18", encoder_weights=None, classes=256).save_pretrained(str(tmp_path / "unet256"))
    with pytest.raises(ValueError, match="unet256 has 256 classes; label pictures have 255 at most"):
        OtherPredictions(f"smp:{tmp_path}/unet256", device="cpu")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png --model timm:x", "the library of --model LIBRARY:PLACE is 'timm'; choose one of"),
        ("a.png --model smp:", "give a folder, or a name on the hub, after smp:"),
        ("a.png --model smp:x --weights w", "--model is of another library: leave out"),
        ("--model smp:x", "either images and folders, or --dataset"),
        ("quickstart a.png --weights w --frames -1", "--frames is -1; it counts frames"),
        ("quickstart nowhere.mp4 --weights w", r"there is no file or folder nowhere\.mp4"),
    ],
)
def test_wrong_usage(monkeypatch, tmp_path, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    with pytest.raises(SystemExit) as error:
        console.run(lambda: call(line))
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_name_with_weights_needs_no_others(monkeypatch, tmp_path, capsys):
    """By a table that names this model's file."""
    import hashlib
    import json

    from scaleeq import zoo

    cfg, weights = saved_model(tmp_path, MODEL__TIMM__NAME="test_resnet")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    entry = {"weights": weights, "sha256": digest, "measured": {"sem_seg/mIoU": 1.0}}
    (tmp_path / "zoo.json").write_text(json.dumps({f"{tmp_path}/config.yaml": entry}))
    monkeypatch.setattr(zoo.read_table, "__defaults__", (tmp_path / "zoo.json",))
    monkeypatch.setattr(zoo.released_weights, "__defaults__", (tmp_path / "zoo.json",))
    words = f"{tmp_path}/config.yaml --dataset {TEST_SET} --num 1 --output {tmp_path}/out MODEL.DEVICE cpu"
    assert call(words) == 0
    assert "1 of 1 images drawn" in capsys.readouterr().out
