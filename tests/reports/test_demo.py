"""`scaleeq demo`: what it says of a photo, and the page in a real browser, at the widths of a phone and of a desk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.commands import demo as command
from scaleeq.equalization.calibration import fusions_of
from scaleeq.reports.demo import Demo, build_page, launch, scales_html, sentence
from tests.reports.visualization_data import saved_model

SMALL = {"MODEL__TIMM__NAME": "test_resnet", "MODEL__SEM_SEG_HEAD__CONVS_DIM": 16}


def photo(size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A sky, a street and a car, more or less."""
    image = np.zeros((*size, 3), np.uint8)
    image[: size[0] // 2] = (150, 190, 240)
    image[size[0] // 2 :] = (90, 90, 95)
    image[size[0] // 2 : 3 * size[0] // 4, size[1] // 3 : size[1] // 2] = (200, 40, 30)
    return image


def demo_of(tmp_path: Path, **changes) -> Demo:
    cfg, weights = saved_model(tmp_path, **SMALL, **changes)
    return Demo(cfg, weights)


def test_equalizing_a_copy_makes_the_scales_equal(tmp_path):
    demo = demo_of(tmp_path)
    before = {name: value.clone() for name, value in demo.look.model.state_dict().items()}
    answer = demo(photo())
    assert answer.prediction.shape == answer.equalized.shape == (96, 128, 3)
    assert list(answer.scales) == list(fusions_of(demo.look.model, equalized=False))
    of_head = [record for record in answer.scales.values() if "spread_equalized" in record]
    assert of_head and all(record["spread_equalized"] == pytest.approx(1, abs=1e-3) for record in of_head)
    assert all(record["spread"] > 1 for record in of_head)
    after = demo.look.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert re.search(r"differ by a factor of .* equalized, by .* change .* % of the pixels", sentence(answer, demo))


def test_a_model_with_equalizers_shows_its_own(tmp_path):
    cfg, weights = saved_model(tmp_path, **SMALL, MODEL__SCALE_EQUALIZER__ENABLED=True)
    state = torch.load(weights, weights_only=True)
    for name, value in state["model"].items():
        if name.endswith(".num_images"):
            value.fill_(1)
        elif ".equalizers." in name and name.endswith(".std"):
            value.fill_(2.0)
    torch.save(state, weights)
    demo = Demo(cfg, weights)
    answer = demo(photo())
    assert demo.is_equalized and answer.equalized is None
    (record,) = [record for name, record in answer.scales.items() if name.endswith("head.fusion")]
    for numbers in record["branches"].values():
        assert numbers["std_equalized"] == pytest.approx(numbers["std"] / 2, rel=1e-4)
    assert "after the equalizers that this model was trained with" in sentence(answer, demo)


def test_the_words_of_classes_are_escaped(tmp_path):
    demo = demo_of(tmp_path)
    demo.classes = type(demo.classes)(["<b>sky"] * 8, demo.classes.colors)
    html = scales_html(demo(photo()), demo)
    assert "&lt;b&gt;sky" in html and "<b>sky" not in html
    assert html.count('class="bar"') >= 2 * html.count('class="branch"') - 8 and "src=" not in html


@pytest.mark.parametrize(
    ("line", "message"),
    [("a b --weights w", "give one NAME_OR_CONFIG; got a b"), ("quickstart --port 70000", "--port is 70000")],
)
def test_wrong_usage(line, message):
    with pytest.raises(ValueError, match=message):
        command.parse(command.parser(), line.split())


# --- in a browser ---


@pytest.fixture
def browser():
    """Chromium by playwright: one that is installed, or playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            found = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"needs a chromium: playwright install chromium, or apt install chromium ({str(error)[:60]})")
        yield found
        found.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(tmp_path, browser, width):
    pytest.importorskip("gradio", reason="pip install 'scaleeq[demo]' brings it")
    page = build_page(demo_of(tmp_path), title="toy/uper")
    address = launch(page, host="127.0.0.1", port=0, block=False)
    Image.fromarray(photo((480, 640))).save(tmp_path / "photo.png")
    elsewhere = []
    try:
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("request", lambda request: elsewhere.append(request.url) if "127.0.0.1" not in request.url else None)
        tab.goto(address)
        tab.set_input_files("#photo input[type=file]", str(tmp_path / "photo.png"))
        tab.wait_for_selector(".scaleeq-scales .bar", timeout=120_000)
        for part in ("#prediction img", "#equalized img"):
            tab.wait_for_selector(part, timeout=60_000)
            assert tab.eval_on_selector(part, "image => image.naturalWidth") == 640
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off at the side"
        assert "differ by a factor of" in tab.inner_text(".scaleeq-scales p")
        tab.screenshot(path=str(tmp_path / f"page_{width}.png"), full_page=True)
    finally:
        page.close()
    assert not [url for url in elsewhere if url.startswith("http")], "the page loads nothing from elsewhere"
