"""A comparison in words and as a Markdown table. A difference is called where its interval excludes 0, nowhere else."""

from __future__ import annotations

from tabulate import tabulate

from scaleeq.markdown import code, line, table, text
from scaleeq.tables import csv_text, latex

from .html import Content


def sections(content: Content) -> list[Content]:
    """The numbers of each metric: of the first one, which a comparison has beside all else, and of the others."""
    return [content, *content.get("more", [])]


def heading(section: Content) -> str:
    """ "depth/rmse, m, lower is better"; of one that a record of before has, its name alone."""
    unit = [section["unit"]] if section.get("unit") else []
    direction = [] if section.get("higher_is_better", True) else ["lower is better"]
    return ", ".join([section.get("title", section["metric"]), *unit, *direction])


def all_tables(content: Content, *, style: str = "github") -> str:
    """The table of each metric; with several, under its name."""
    parts = sections(content)
    if len(parts) == 1:
        return comparison_table(content, style=style)
    mark = "**" if style == "github" else ""
    return "\n\n".join(
        f"{mark}{text(heading(part)) if mark else heading(part)}{mark}\n\n{comparison_table(part, style=style)}"
        for part in parts
    )


def comparison_table(content: Content, *, style: str = "github") -> str:
    """Of one metric, a row a variant: its mean, and its difference to its baseline."""
    if style == "github":
        return table(rows(content), HEADERS)
    return tabulate(rows(content), headers=HEADERS, tablefmt=style, disable_numparse=True)


CSV_OF_VARIANT = ("n", "mean", "sd")
CSV_OF_COMPARISON = ("baseline", "mean", "low", "high", "higher", "lower", "ties", "p_t", "p_holm", "p_sign", "called")


def csv_table(content: Content) -> str:
    """Of each metric, a row a variant: the numbers of comparison.json, not rounded."""
    found = []
    for part in sections(content):
        for name, variant in part["variants"].items():
            if variant.get("has_metric", True):
                compared = part["comparisons"].get(name, {})
                own = [part.get("title", part["metric"]), part.get("unit", ""), name]
                own += [variant[key] for key in CSV_OF_VARIANT]
                found.append([*own, *(compared.get(key) for key in CSV_OF_COMPARISON)])
    of_comparison = ["difference" if key == "mean" else key for key in CSV_OF_COMPARISON]
    return csv_text(found, ["metric", "unit", "variant", *CSV_OF_VARIANT, *of_comparison])


def latex_table(content: Content) -> str:
    """The table of each metric, under a comment with its name where there are several."""
    parts = sections(content)
    names = [f"% {heading(part)}\n" if len(parts) > 1 else "" for part in parts]
    return "\n\n".join(name + latex(rows(part), HEADERS) for name, part in zip(names, parts, strict=True))


HEADERS = (
    "variant", "runs", "mean", "sd", "baseline", "difference", "95 % interval", "higher/lower/same", "p (t)",
    "p (Holm)", "p (sign)",
)  # fmt: skip


def rows(content: Content) -> list[tuple[str, ...]]:
    """The cells of the table; "-" where there is nothing to say. A variant without the metric has no row."""
    lines = []
    digits = decimals(content)
    for name, variant in content["variants"].items():
        if not variant.get("has_metric", True):
            continue
        line = (name, f"{variant['n']}", number(variant["mean"], digits), number(variant["sd"], digits))
        # The variant alone, then against its baseline.
        compared = content["comparisons"].get(name)
        if compared is None:
            lines.append((*line, *["-"] * 7))
            continue
        counts = [compared[key] for key in ("higher", "lower", "ties")]
        lines.append(
            (
                *line,
                compared["baseline"],
                number(compared["mean"], digits, sign=True),
                interval(compared, digits),
                "/".join(map(str, counts)) if sum(counts) else "-",
                *(p_value(compared[key]) for key in ("p_t", "p_holm", "p_sign")),
            )
        )
    return lines


def decimals(section: Content) -> int:
    """Of its numbers: three in metres and where there is no unit, as of 0.24; two in percent and degrees."""
    return 2 if section.get("unit", "%") in ("%", "degrees", "100 log(m)") else 3


def interval(compared: Content, digits: int = 2) -> str:
    """ "-1.00 to +2.00"; "-" for fewer than two pairs."""
    if compared["low"] is None:
        return "-"
    return " to ".join(number(compared[key], digits, sign=True) for key in ("low", "high"))


def all_verdicts(content: Content) -> list[tuple[str, bool]]:
    """What can be said in words, and whether a difference is called; with several metrics, after the metric's name."""
    parts = sections(content)
    names = [f"{part.get('title', part['metric'])}: " if len(parts) > 1 else "" for part in parts]
    return [
        (name + words, part["comparisons"][variant]["called"])
        for name, part in zip(names, parts, strict=True)
        for variant, words in verdicts(part).items()
    ]


def verdicts(content: Content) -> dict[str, str]:
    """Compared variant -> what can be said of one metric, in words."""
    return {name: _verdict(name, compared, content) for name, compared in content["comparisons"].items()}


def _verdict(name: str, compared: Content, content: Content) -> str:
    n, baseline, metric = compared["n"], compared["baseline"], content["metric"]
    mean, digits = compared["mean"], decimals(content)
    about = f"{name} against {baseline}:"
    if n == 0:
        return f"{about} not run, no seed has both."
    if n == 1:
        return f"{about} nothing can be called from one seed ({number(mean, digits, sign=True)}); run two or more."
    # The difference, as far as it can be called.
    range_of = interval(compared, digits)
    detail = f"({number(mean, digits, sign=True)}, 95 % interval {range_of}, {n} seeds)"
    if not compared["called"]:
        same = " The numbers are the same for every seed." if compared["ties"] == n else ""
        return f"{about} no difference can be called {detail}.{same}{_hint(compared)}"
    # Which way is better has to be said where lower is.
    better = "" if content.get("higher_is_better", True) else f", which is {'better' if mean < 0 else 'worse'}"
    text = f"{about} {metric} is {'higher' if mean > 0 else 'lower'}{better} {detail}."
    if len(content["comparisons"]) > 1:
        held = "It holds" if compared["called_holm"] else "It does not hold"
        text += f" {held} after Holm's adjustment for {len(content['comparisons'])} comparisons."
    return text


def _hint(compared: Content) -> str:
    needed = compared["runs_needed"]
    if not needed:
        return ""
    counts = [f"{target} would take {'very many' if n is None else n}" for target, n in needed.items()]
    return f" Seeds to detect a difference, given this scatter: {', '.join(counts)}."


def notes(content: Content) -> list[str]:
    """How the numbers are to be read, and what is missing."""
    parts = sections(content)
    metrics = list(dict.fromkeys(part["metric"] for part in parts if "title" not in part))
    most = max(len(part["comparisons"]) for part in parts)
    lines = [
        f"{', '.join(metrics)} at the last evaluation of each run, never the best; sd is over seeds. Differences are "
        "paired: runs of one seed share samples, augmentation and random numbers, and the initial weights where "
        "variants have the same layers.",
        "Each interval is of its own comparison (Student's t, 95 %)."
        + (
            f" With {most} of them, p (Holm) is the one that holds for all together"
            + ("." if len(parts) == 1 else ", of one metric.")
            if most > 1
            else ""
        ),
    ]
    if len(metrics) < len(parts):
        lines.append(
            "Delta_m is the mean over tasks of the relative gain of a model with several against those with one each, "
            "of the same seed, in percent, with each task's headline (arXiv 2004.13379); above 0 it is better."
        )
    if content["missing"]:
        lines.append(f"Missing runs: {'; '.join(content['missing'])}. The numbers are of those that are there.")
    return lines


def markdown(content: Content) -> str:
    """comparison.md."""
    differs = [
        f"- {code(name)}: "
        + (", ".join(text(f"{key} {value!r}") for key, value in variant["differs_in"].items()) or "-")
        for name, variant in content["variants"].items()
    ]
    parts = [
        f"# {text(content['name'])}",
        "\n".join(map(line, content["comment"].splitlines())),
        "\n".join(f"- {line(words)}" for words, _ in all_verdicts(content)),
        all_tables(content),
        "\n\n".join(map(line, notes(content))),
        "Where the variants differ:\n\n" + "\n".join(differs),
        f"Printed by scaleeq compare from {text(content['file'])} (sha256 {content['file_sha256'][:12]}); "
        f"engine {', '.join(content['engines']) or 'not run'}; "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items() if name != "engine")
        + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """So many decimals; "-" for None."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
