"""The pages: one shell, nothing from elsewhere, words stay words. Oracles: Python's HTML parser, WCAG's contrast."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import jinja2
import pytest

from scaleeq.experiments.summary import summarize_comparison
from scaleeq.reports import comparison_page, scales_page
from scaleeq.reports.html import render
from scaleeq.reports.pictures.writing import Entry
from scaleeq.reports.pictures.writing import page as pictures_page
from scaleeq.reports.style import SERIES
from tests.experiments.folders import write_comparison

HOSTILE = """<script>alert("1")</script> \"' onload='x' {{ 7 * 7 }} </style></title> & &lt; <img src=http://a.b>"""
VALUES = {"off": [50.0, 51.0, 49.0, 50.5], "equalized": [52.0, 53.1, 51.0, 52.4], "wide": [51.0, 50.0, 49.5, None]}
NAMES = ("scales", "comparison", "pictures")


def scales() -> str:
    branch = {"std": 0.5, "source_std": 0.6, "std_predicted": 0.4, "weight_gradient": 1.0, "energy_share": 0.5}
    fusion = {
        "title": HOSTILE, "verdict": HOSTILE, "effect": True, "widths": {HOSTILE: 8, "p3": 8},
        "transfers": {HOSTILE: HOSTILE, "p3": "none"}, "equalized": None,
        "raw": {"branches": {HOSTILE: branch, "p3": branch}, "spread": 1.2},
    }  # fmt: skip
    about = {
        "model": HOSTILE, "config": HOSTILE, "weights": HOSTILE, "batches": 1, "batch": 4, "datasets": [HOSTILE],
        "sizes": [[64, 64]], "optimizer": HOSTILE, "versions": {"torch": HOSTILE}, "not_equalized_because": HOSTILE,
    }  # fmt: skip
    return scales_page.page({"about": about, "fusions": {HOSTILE: fusion}})


def comparison(folder) -> str:
    content = summarize_comparison(*write_comparison(folder, VALUES))
    names = {"off": "off", "equalized": HOSTILE, "wide": "wide"}
    for part in ("variants", "comparisons"):
        content[part] = {names[name]: value for name, value in content[part].items()}
    content["variants"][HOSTILE]["differs_in"] = {HOSTILE: HOSTILE}
    words = dict.fromkeys(("name", "comment", "metric", "file"), HOSTILE)
    return comparison_page.page({**content, **words, "missing": [HOSTILE], "versions": {"torch": HOSTILE}})


def pictures() -> str:
    entry = Entry(HOSTILE, HOSTILE, {f"sheets/{HOSTILE}.png": (30, 20)})
    return pictures_page(HOSTILE, [entry], {"a": HOSTILE})


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("comparison")
    return {"scales": scales(), "comparison": comparison(folder), "pictures": pictures()}


class Parsed(HTMLParser):
    """Tags in order with their attributes, and the words in each kind of element; what is opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: dict[str, str] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.words[inside] = self.words.get(inside, "") + data


@pytest.mark.parametrize("name", NAMES)
def test_hostile_words_are_shown_as_they_are(pages, name):
    parsed = Parsed(pages[name])
    assert {tag for tag, _ in parsed.tags} <= {
        "html", "head", "meta", "title", "link", "style", "body", "h1", "h2", "p", "ul", "li", "a", "section", "div",
        "span", "i", "b", "small", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "footer",
        "figure", "figcaption", "strong", "img", "article", "wbr",
    }  # fmt: skip
    assert {key for _, attrs in parsed.tags for key in attrs} <= {
        "lang", "charset", "name", "content", "rel", "href", "id", "class", "style", "title", "alt", "src", "loading",
        "width", "height",
    }  # fmt: skip
    assert HOSTILE in parsed.words["title"] and HOSTILE in parsed.words["h1"]
    assert "49" not in parsed.words["h1"], "words are no template"
    assert sum(words.count(HOSTILE) for words in parsed.words.values()) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_page_loads_nothing_from_elsewhere(pages, name):
    text = pages[name]
    own = ("data:", "sheets/") if name == "pictures" else ("data:", "#")
    for tag, attrs in Parsed(text).tags:
        for key in ("src", "href"):
            assert (attrs.get(key) or "data:").startswith(own), (tag, attrs)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_all_pages_have_one_shell(pages):
    heads = [re.sub(r"<title>.*?</title>\n", "", text[: text.index("<body>")], flags=re.S) for text in pages.values()]
    assert heads[0] == heads[1] == heads[2] and 'content="width=device-width, initial-scale=1"' in heads[0]
    assert "@media (max-width" in heads[0] and "color-scheme: light dark" in heads[0]


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_are_legible_in_the_light_and_in_the_dark():
    """WCAG 2.1 asks for 4.5 to 1; links and alarms are words too."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    text = render("pictures.html", title="t", entries=[], faults=[])
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{.*?\}", text, re.S)]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    for scheme in schemes:
        for words in ("ink", "soft", "link", "alarm"):
            assert contrast(scheme[words], scheme["paper"]) >= 4.5, (words, scheme)
        for color in SERIES.values():
            assert contrast(color, scheme["paper"]) >= 2, "a bar's number stands beside it"


def test_a_value_that_a_template_misses_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="entries"):
        render("pictures.html", title="t", faults=[])
