"""From folders to numbers, words, tables and the page. Oracles: numbers worked by hand, scipy, Python's HTML parser."""

from __future__ import annotations

import base64
import csv
import json
import locale
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from markdown_it import MarkdownIt
from scipy import stats

from scaleeq.engine import load_config
from scaleeq.experiments import runs, summary
from scaleeq.experiments.runs import changed_keys, curve, finish_run, read_metrics, read_run, thinned
from scaleeq.experiments.summary import question, summarize_comparison
from scaleeq.reports.comparison_drawing import band, draw_curves, draw_differences
from scaleeq.reports.comparison_page import page, write_report
from scaleeq.reports.comparison_tables import HEADERS, comparison_table, markdown, verdicts
from scaleeq.reports.style import CALLED, MEAN, ONE_SEED
from tests.experiments.folders import write_comparison, write_run

VALUES = {
    "off": [50.0, 51.0, 49.0, 50.5],
    "equalized": [52.0, 53.1, 51.0, 52.4],  # + 2.0 2.1 2.0 1.9
    "wide": [51.0, 50.0, 49.5, 50.5],  # + 1.0 -1.0 0.5 0.0
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return summarize_comparison(*write_comparison(tmp_path_factory.mktemp("comparison"), VALUES))


def test_numbers_by_hand(content):
    assert content["missing"] == [] and content["engines"] == ["standalone 0.6"]
    assert content["variants"]["off"]["mean"] == 50.125
    equalized, wide = content["comparisons"]["equalized"], content["comparisons"]["wide"]
    assert equalized["mean"] == pytest.approx(2.0) and wide["mean"] == pytest.approx(0.125)
    assert list(equalized["by_seed"].values()) == pytest.approx([2.0, 2.1, 2.0, 1.9])
    assert [equalized[key] for key in ("higher", "lower", "ties", "called")] == [4, 0, 0, True]
    assert [wide[key] for key in ("higher", "lower", "ties", "called")] == [2, 1, 1, False]
    p = stats.ttest_rel(VALUES["equalized"], VALUES["off"]).pvalue
    assert equalized["p_holm"] == pytest.approx(2 * p) and equalized["called_holm"]
    assert content["variants"]["wide"]["differs_in"]["MODEL.PYRAMID.CHANNELS"] == 96
    run = content["variants"]["wide"]["runs"]["2"]
    assert run["curve"] == [(19, 24.75), (39, 49.5)] and run["loss"] == [(19, 2.0), (39, 1.0)]


def test_a_difference_is_called_where_its_interval_does(content):
    words = verdicts(content)
    assert "sem_seg/mIoU is higher (+2.00, 95 % interval +1.87 to +2.13, 4 seeds)" in words["equalized"]
    assert "It holds after Holm's adjustment for 2 comparisons" in words["equalized"]
    assert "no difference can be called (+0.12" in words["wide"] and "Seeds to detect" in words["wide"]


def test_what_does_not_survive_the_number_of_comparisons_is_told(tmp_path):
    values = {**VALUES, "equalized": [50.2, 51.9, 49.8, 51.8]}  # p = 0.04 or so
    content = summarize_comparison(*write_comparison(tmp_path, values))
    compared = content["comparisons"]["equalized"]
    assert compared["called"] and 0.025 < compared["p_t"] < 0.05
    assert "It does not hold after Holm's adjustment" in verdicts(content)["equalized"]


def test_missing_runs_are_named_and_pairs_need_both(tmp_path):
    values = {"off": [50.0, None, 49.0, 50.5], "equalized": [52.0, 53.0, 51.0, None], "wide": [None, None, None, 51.0]}
    content = summarize_comparison(*write_comparison(tmp_path, values))
    assert content["missing"] == ["off, seed 1", "equalized, seed 3", "wide, seed 0", "wide, seed 1", "wide, seed 2"]
    assert content["comparisons"]["equalized"]["by_seed"] == {"0": 2.0, "2": 2.0}
    words = verdicts(content)
    assert content["comparisons"]["wide"]["called_holm"] is False, "one seed calls nothing"
    assert "2 seeds" in words["equalized"] and "nothing can be called from one seed (+0.50)" in words["wide"]
    nothing = summarize_comparison(*write_comparison(tmp_path / "b", dict.fromkeys(VALUES, [None] * 4)))
    assert "not run" in verdicts(nothing)["wide"] and "Not run." in page(nothing)


def test_equal_numbers_are_said_to_be_equal(tmp_path):
    content = summarize_comparison(*write_comparison(tmp_path, {**VALUES, "wide": VALUES["off"]}))
    assert "The numbers are the same for every seed." in verdicts(content)["wide"]


def test_a_package_that_is_not_there_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "PACKAGES", ("numpy", "no-package-of-this-name"))
    versions = summarize_comparison(*write_comparison(tmp_path, VALUES))["versions"]
    assert versions["numpy"] == np.__version__ and versions["no-package-of-this-name"] == "not installed"


def test_files_of_a_report(tmp_path, content):
    paths = write_report(content, tmp_path)
    assert [path.name for path in paths] == [f"comparison.{kind}" for kind in ("json", "md", "html", "csv", "tex")]
    assert json.loads(paths[0].read_text())["comparisons"]["wide"]["mean"] == 0.125
    text = paths[1].read_text()
    assert comparison_table(content) in text and "`wide`" in text and content["file_sha256"][:12] in text
    assert paths[2].read_text() == page(content), "the same page every time"
    rows = {row["variant"]: row for row in csv.DictReader(paths[3].read_text().splitlines())}
    assert float(rows["wide"]["difference"]) == content["comparisons"]["wide"]["mean"] and rows["off"]["low"] == ""
    assert r"equalized & 4 & 52.12 & 0.88 & off & +2.00 & +1.87 to +2.13" in paths[4].read_text()
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert {name.rpartition(".")[2] for name in names} == {"svg", "png", "pdf"}
    assert {name.rpartition(".")[0] for name in names} >= {"differences_sem_seg_mIoU", "loss"}
    row = next(line for line in text.splitlines() if line.startswith("| equalized"))
    assert [cell.strip() for cell in row.split("|")[1:8]] == [
        "equalized", "4", "52.12", "0.88", "off", "+2.00", "+1.87 to +2.13",
    ]  # fmt: skip


class Page(HTMLParser):
    """What a page is made of: open elements, pictures, text; and what it would load from elsewhere."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.loads, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[key] for key in ("src", "href") if key in values and not values[key].startswith("data:")]
        if tag == "img":
            self.pictures.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_for_every_screen(content):
    text = page(content)
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == [] and parsed.loads == [] and "<script" not in text
    assert 'name="viewport" content="width=device-width' in text
    assert "Question: <is> it & so?" in parsed.text, "escaped"
    assert len(parsed.pictures) == 3 and all(picture["alt"] for picture in parsed.pictures)
    for picture in parsed.pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        root = ElementTree.fromstring(base64.b64decode(data))
        assert root.tag.endswith("svg")
    assert not re.search(r"\bnan\b", parsed.text)


def test_the_axis_of_differences_names_their_metric(content):
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters as text, not as outlines
        words = list(ElementTree.fromstring(draw_differences(content)).itertext())
    assert "difference of sem_seg/mIoU" in words
    assert {"equalized", "wide", "against off"} <= set(words), "every row has its name"


def test_every_seed_is_a_dot_of_its_own_colour(content):
    """Not that of the mean, nor of its interval: one seed says little."""
    drawn = draw_differences(content)
    seeds = sum(len(compared["by_seed"]) for compared in content["comparisons"].values())
    assert len(re.findall(rf"<use [^>]*fill: {ONE_SEED}", drawn, re.IGNORECASE)) == seeds
    assert ONE_SEED not in (MEAN, CALLED)


def test_words_that_markdown_would_read(content):
    """Oracle: markdown-it-py, which finds one table of as many cells, words as they were written, and no tag."""
    name = "a|b <i>*x*</i> $y _z"
    variants = {name if key == "wide" else key: value for key, value in content["variants"].items()}
    variants[name] = {**variants[name], "differs_in": {"OUTPUT_DIR": "<b>|`x`"}}
    compared = {name if key == "wide" else key: value for key, value in content["comparisons"].items()}
    odd = {**content, "variants": variants, "comparisons": compared, "comment": "# Is it?\n- <b>", "metric": "*m*"}
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(odd))
    texts = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    assert name in texts and any(text.startswith(f"{name} against off: ") for text in texts)
    assert f"{name}: OUTPUT_DIR '<b>|`x`'" in texts and "# Is it?- <b>" in texts
    assert sum(token.type == "td_open" for token in tokens) == len(variants) * len(HEADERS)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"]
    assert not any(child.type == "html_inline" for token in tokens for child in token.children or ())
    assert "<i>" not in page(odd) and draw_curves(odd, "curve", "*m*").count("<svg") == 1


def test_band_of_curves_of_different_length():
    iterations, mean, least, most = band([[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 8.0), (3, 9.0)]])
    assert [list(values) for values in (iterations, mean, least, most)] == [[1, 2], [3, 6], [2, 4], [4, 8]]
    assert all(len(values) == 0 for values in band([]))


def test_a_comment_becomes_running_text():
    comment = "Question: one,\ntwo? Three\nmore.\n\nExpected: much\nof it.\nCommand: python x\nResults: not run."
    assert question(comment) == "Question: one, two? Three more.\n\nExpected: much of it."


# --- folders ---


def test_lines_after_a_resumption_replace_those_before(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"iteration": 9, "a": 1}\n{"iteration": 19, "a": 2}\n{"iteration": 29, "a": 3}\n'
        '{"iteration": 15, "resumed": true}\n{"iteration": 19, "a": 5}\n{"iteration": 19, "b": 6}\n{"iteration": 2'
    )
    assert read_metrics(path) == [{"iteration": 9, "a": 1}, {"iteration": 19, "a": 5, "b": 6}]
    assert read_metrics(tmp_path / "none") == []


def test_lines_that_are_not_whole_are_named_and_left_out(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    lines = [b'{"iteration": 9, "a": 1}', b'{"iteration": 19, "a"{"iteration": 29, "a": 3}', b"null", b'{"a": 1}']
    path.write_bytes(b"\n".join([*lines, b"\xff\xfe", b'{"iteration": 39, "a": NaN, "b": "text"}', b'{"iteration": 4']))
    rows = read_metrics(path)
    assert [row["iteration"] for row in rows] == [9, 39]
    assert curve(rows, "a") == [(9, 1)] and curve(rows, "b") == []
    for number, each in zip((2, 3, 4, 5, 7), caplog.records, strict=True):
        assert f"{path}: line {number} is not whole" in each.message


def test_metrics_are_read_as_they_were_written_in_any_locale(tmp_path):
    """Names of classes are not all ASCII; the locale of whoever reads them may be."""
    path, before = tmp_path / "metrics.json", locale.setlocale(locale.LC_CTYPE)
    path.write_text('{"iteration": 9, "sem_seg/IoU-Straße": 1}', encoding="utf-8")
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert read_metrics(path) == [{"iteration": 9, "sem_seg/IoU-Straße": 1}]
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_a_mark_that_cannot_be_read_is_told_with_the_way_out(tmp_path):
    write_run(tmp_path / "run", 50.0)
    (tmp_path / "run" / "run.json").write_text("")
    with pytest.raises(ValueError, match=r"run\.json cannot be read; delete it, and its run is taken up again"):
        read_run(tmp_path / "run", "sem_seg/mIoU")


def test_points_are_thinned_by_their_means():
    points = [(index, float(index)) for index in range(10)]
    assert thinned(points, 5) == [(1, 0.5), (3, 2.5), (5, 4.5), (7, 6.5), (9, 8.5)]
    assert thinned(points, 10) == points and thinned([], 5) == []


def test_a_metric_that_is_not_there_is_told_with_those_that_are(tmp_path):
    write_run(tmp_path / "run", 50.0)
    with pytest.raises(ValueError, match=r"no finite sem_seg/IoU.*set metric to one of sem_seg/mIoU"):
        read_run(tmp_path / "run", "sem_seg/IoU")
    assert read_run(tmp_path / "none", "sem_seg/mIoU") is None


def test_another_config_in_the_folder_is_seen(tmp_path):
    from scaleeq.experiments.plan import flat

    plan, output = write_comparison(tmp_path, VALUES)
    folder = output / "wide" / "seed_0"
    (folder / "config.yaml").write_text(plan.variants[2].load(0).dump())
    wanted = flat(plan.variants[2].load(0))
    assert changed_keys(folder, wanted) == {}, "OUTPUT_DIR does not count"
    assert changed_keys(folder, {**wanted, "SEED": 5}) == {"SEED": "0 -> 5"}
    (folder / "run.json").unlink()
    assert changed_keys(folder, {**wanted, "SEED": 5}) == {}, "nothing has been trained there"


@pytest.mark.parametrize("there", ["", "MODEL:\n  DEVICE: cpu\nSOL"])
def test_a_config_that_is_being_written_is_no_other_config(tmp_path, there):
    """As another caller's run, or a kill in that moment, leaves it to who looks."""
    (tmp_path / "model_0000001.pth").touch()
    (tmp_path / "config.yaml").write_text(there)
    assert changed_keys(tmp_path, {"MODEL.DEVICE": "cuda"}) == {}


def test_a_config_that_is_written_while_it_is_read_is_no_other_config(tmp_path, monkeypatch):
    (tmp_path / "model_0000001.pth").touch()
    (tmp_path / "config.yaml").write_text("SEED: 5\n")
    assert "SEED" in changed_keys(tmp_path, {"SEED": 0})

    def load(file):
        Path(file).write_text("")
        return load_config(file)

    monkeypatch.setattr(runs, "load_config", load)
    assert changed_keys(tmp_path, {"SEED": 0}) == {}


def test_a_finished_run_keeps_its_final_weights_alone(tmp_path):
    for name in ("model_0000199.pth", "model_final.pth", "model_best.pth"):
        (tmp_path / name).write_text("")
    finish_run(tmp_path, {"seconds": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_best.pth", "model_final.pth", "run.json"]
