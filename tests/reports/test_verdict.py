"""What is said of a fusion, and the page that says it. Oracle: records with known ratios, written here."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from scaleeq.decoders.context import atrous_pooling, pyramid_pooling
from scaleeq.fusion import Branch, Concat, Fusion, Resize, Sum
from scaleeq.layers import ConvNormAct, SeparableBlock
from scaleeq.reports.scales_page import page, write_report
from scaleeq.reports.scales_verdict import FusionFacts, facts_of, verdict
from scaleeq.reports.style import SERIES

LEVELS = ("p2", "p3", "p4")
FACTS = FusionFacts("UPerHead, fusion", dict.fromkeys(LEVELS, 8), dict.fromkeys(LEVELS, "bilinear"), "", True)


def record(stds, gradients=(), *, sources=(), equalized=False) -> dict:
    branches = {}
    for index, std in enumerate(stds):
        numbers = {"std": std, "source_std": (sources or stds)[index], "energy_share": std**2 / sum(s**2 for s in stds)}
        numbers |= {"weight_gradient": gradients[index]} if gradients else {}
        numbers |= {"std_equalized": 1.0, "energy_share_equalized": 1 / len(stds)} if equalized else {}
        branches[f"p{2 + index}"] = numbers
    extra = {"spread_equalized": 1.0} if equalized else {}
    return {"branches": branches, "spread": max(stds) / min(stds), **extra}


def test_an_effect_is_told_in_numbers():
    raw = record([0.6, 0.5, 0.55], [2.0, 1.62, 1.98], sources=[0.6, 0.59, 0.61])
    after = record([0.6, 0.5, 0.55], [1.0, 0.96, 1.1], equalized=True)
    effect, text = verdict(FACTS, raw, after)
    assert effect and text == (
        "UPerHead, fusion: 20 % spread (made by the transfers); "
        "equalizing brings gradients from 0.81-0.99 to 0.96-1.10, closer together. "
        "Shares of the energy from 27 % to 39 %: little to gain."
    )
    apart = record([0.6, 0.5, 0.55], [1.0, 1.3, 1.6], equalized=True)
    assert verdict(FACTS, record([1.0, 0.5, 0.5], [1.0, 1.0, 1.2]), apart)[1] == (
        "UPerHead, fusion: 100 % spread (100 % before the transfers); "
        "equalizing brings gradients from 1.00-1.20 to 1.30-1.60, further apart. "
        "Shares of the energy from 17 % to 67 %: little to gain."
    )
    assert "not equalized: MODEL.SCALE_EQUALIZER.SCOPE 'head'" in verdict(FACTS, raw, None)[1]
    assert "not equalized: no weights. " in verdict(FACTS, raw, None, not_equalized="no weights")[1]
    assert "after its equalizers 0 %" in verdict(FACTS, after, after)[1]


def test_sums_are_told_by_their_shares_of_energy():
    facts = FusionFacts("FPN", {"a": 4, "b": 4}, {"a": "none", "b": "bilinear"}, "", has_weights=False)
    text = verdict(facts, record([2.0, 1.0]), record([2.0, 1.0], equalized=True))[1]
    assert (
        "equalizing brings its share of energy from 0.20-0.80 to 0.50. Shares of the energy from 20 % to 80 %" in text
    )
    assert text.endswith("little to gain, but in a sum without norms, where smaller initial weights do as much.")


@pytest.mark.parametrize(
    ("stds", "advised"),
    [
        ([10.0, 1.0, 1.0], "One source, p2, holds 98 % of the energy: equalize."),
        ([100.0, 1.0, 1.0], "One source, p2, holds 99.98 % of the energy: equalize."),
        ([1.0, 1.0, 0.05], "One source, p4, holds 0.12 % of the energy: equalize if it should count."),
        ([1.0, 0.5, 0.4], "Shares of the energy from 11 % to 71 %: little to gain."),
    ],
)
def test_advice_follows_the_shares_of_the_energy(stds, advised):
    assert verdict(FACTS, record(stds), None)[1].endswith(advised)


@pytest.mark.parametrize("gate", ["", "paper"])
def test_pyramid_pooling_is_left_as_it_is(gate):
    pooling = pyramid_pooling(8, 4, pool_scales=(1, 2), gate=gate)
    facts = facts_of("head.context", pooling, nn.Module())
    assert facts.pyramid_of == "input"
    shares = {"input": 0.97, "pool1": 0.02, "pool2": 0.01}
    numbers = {name: {"std": 1.0, "source_std": 1.0, "energy_share": share} for name, share in shares.items()}
    text = verdict(facts, {"branches": numbers, "spread": 2.0}, None)[1]
    assert text.endswith(
        "input holds 97 % of the energy, but the others are pooled copies of it: leave it; "
        "equalizing pyramid pooling cost points."
    )


def test_what_pools_elsewhere_is_no_pyramid_pooling():
    assert facts_of("head.context", atrous_pooling(8, 4), nn.Module()).pyramid_of == ""
    weights = nn.ModuleDict({"mean": nn.AdaptiveAvgPool2d(1), "conv": nn.Conv2d(8, 8, 1)})
    weighed = Branch(8, lateral=nn.Sequential(weights, nn.ReLU()))
    two = Fusion({"fine": weighed, "coarse": Branch(8)}, combine=Sum())
    assert facts_of("head.fusion", two, nn.Module()).pyramid_of == ""


@pytest.mark.parametrize("missing", ["weights", "before", "after", "none"])
def test_shares_of_energy_are_told_where_gradients_of_weights_are_missing(missing):
    facts = replace(FACTS, has_weights=missing != "weights")
    raw = record([2.0, 1.0], () if missing == "before" else [1.0, 3.0])
    after = record([2.0, 1.0], () if missing == "after" else [1.0, 2.0], equalized=True)
    text = verdict(facts, raw, after)[1]
    assert ("brings its share of energy from 0.20-0.80 to 0.50. " in text) == (missing != "none")
    assert ("closer together" in text) == (missing == "none")


def fusion(mix: nn.Module, transfer: str = "bilinear", **branches: Branch) -> Fusion:
    branches = branches or {"fine": Branch(4), "coarse": Branch(4, transfer=Resize(transfer))}
    return Fusion(branches, combine=Concat(), mix=mix)


@pytest.mark.parametrize(
    ("module", "stds", "because"),
    [
        (fusion(SeparableBlock(8, 4)), [1.0, 0.5], "a depthwise convolution keeps channels apart"),
        (fusion(ConvNormAct(8, 4), "nearest"), [1.0, 0.99], "(1 %), and its transfers (none, nearest)"),
        (fusion(ConvNormAct(8, 4)), [1.0, 0.96], "within 5 % of each other (4 %)"),
        (fusion(ConvNormAct(4, 4), only=Branch(4)), [1.0], "a single branch is in proportion with itself"),
    ],
)  # fmt: skip
def test_where_nothing_changes_the_reason_is_said(module, stds, because):
    effect, text = verdict(facts_of("head.fusion", module, nn.Module()), record(stds), None)
    assert not effect and "no effect here, because " in text and because in text


def test_titles_name_the_head():
    class Decoder(nn.Module):
        pass

    model = nn.Module()
    model.head = Decoder()
    facts = facts_of("head.merges.p2", Fusion({"a": Branch(2), "b": Branch(3)}, combine=Sum()), model)
    assert facts.title == "Decoder, merges p2" and facts.widths == {"a": 2, "b": 3} and not facts.has_weights


ABOUT = {
    "model": "UPerHead on <resnet18>", "config": "c.yaml", "weights": "initial", "batches": 2, "batch": 4,
    "datasets": ["toy"], "sizes": [[64, 64]], "optimizer": "SGD at 0.01", "versions": {"torch": torch.__version__},
    "not_equalized_because": "",
}  # fmt: skip


def content() -> dict:
    raw = record([0.6, 0.3, 0.55], [2.0, 1.0, 1.98], sources=[0.6, 0.6, 0.6])
    raw["branches"]["p3"]["std_predicted"] = 0.33
    after = record([0.6, 0.3, 0.55], [1.0, 0.9, 1.1], equalized=True)
    shown = {"title": FACTS.title, "widths": FACTS.widths, "transfers": FACTS.transfers, "raw": raw, "equalized": after}
    return {"about": ABOUT, "fusions": {"head.fusion": {**shown, "verdict": "<said>", "effect": True}}}


class Elements(HTMLParser):
    """Tags with their attributes, unclosed tags, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_loads_nothing():
    elements = Elements()
    elements.feed(page(content()))
    assert elements.open == [] and "<said>" in elements.text and "UPerHead on <resnet18>" in elements.text
    sources = [attrs.get("src") or attrs.get("href") for _, attrs in elements.tags]
    assert all(source.startswith(("data:", "#")) for source in sources if source)
    fills = [attrs["style"] for tag, attrs in elements.tags if attrs.get("class") == "fill"]
    widths = [float(style.split("width:")[1].split("%")[0]) for style in fills]
    # Each branch: std before and after of the largest 0.6, then gradients of the first branch's, the largest 1.1.
    expected = [94, 94, 94 / 1.1, 94 / 1.1, 94, 47, 47 / 1.1, 94 * 0.9 / 1.1, 94, 94 * 55 / 60, 94 * 0.99 / 1.1, 94]
    assert widths == pytest.approx(expected, abs=0.01)
    (mark,) = [attrs for _, attrs in elements.tags if attrs.get("class") == "mark"]
    assert mark["style"] == "left:51.70%"
    shares = (48, 12, 40)  # 0.6, 0.3 and 0.55 squared, of their sum
    assert all(f"{share} % of the energy" in elements.text for share in shares)


@pytest.mark.parametrize(
    ("number", "said"), [(1, "64x64 pixels"), (3, "64x64, 65x64, 66x64 pixels"), (4, "66x64 ... pixels")]
)
def test_the_first_three_sizes_are_named(number, said):
    elements = Elements()
    elements.feed(page({**content(), "about": {**ABOUT, "sizes": [[64 + i, 64] for i in range(number)]}}))
    assert said in elements.text


@pytest.mark.parametrize("effect, said", [(True, "100 % spread"), (False, "no effect (100 % spread)")])
def test_the_summary_tells_spreads_without_an_effect_apart(effect, said):
    shown = content()
    shown["fusions"]["head.fusion"]["effect"] = effect
    elements = Elements()
    elements.feed(page(shown))
    assert f"UPerHead, fusion: {said}UPerHead, fusion" in elements.text.replace("\n", "")  # the next is its section


def test_the_report_is_written(tmp_path):
    paths = write_report(content(), tmp_path / "new")
    assert [path.name for path in paths] == [
        *(f"scales.{kind}" for kind in ("json", "html", "csv", "tex")),
        *(f"head.fusion.{kind}" for kind in ("svg", "png", "pdf")),
    ]
    rows = list(csv.DictReader(paths[2].read_text().splitlines()))
    numbers = content()["fusions"]["head.fusion"]["raw"]["branches"]
    assert [(row["branch"], float(row["raw_std"])) for row in rows] == [(b, each["std"]) for b, each in numbers.items()]
    assert paths[3].read_text().startswith("\\begin{tabular}{lrrrrrr}\n\\toprule\nfusion & branch & std before")
    assert paths[5].read_bytes()[:4] == b"\x89PNG" and paths[6].read_bytes()[:4] == b"%PDF"
    drawn = paths[4].read_text()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert all(f"fill: {color}" in drawn for color in SERIES.values()), "bars of every series"
