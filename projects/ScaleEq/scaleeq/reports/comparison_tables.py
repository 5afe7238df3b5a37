"""A comparison in words and as a Markdown table. A difference is called where its interval excludes 0, nowhere else."""

from __future__ import annotations

from tabulate import tabulate

from scaleeq.markdown import code, line, table, text

from .html import Content


def comparison_table(content: Content, *, style: str = "github") -> str:
    """One row a variant: its mean, and its difference to its baseline."""
    if style == "github":
        return table(rows(content), HEADERS)
    return tabulate(rows(content), headers=HEADERS, tablefmt=style, disable_numparse=True)


HEADERS = (
    "variant", "runs", "mean", "sd", "baseline", "difference", "95 % interval", "higher/lower/same", "p (t)",
    "p (Holm)", "p (sign)",
)  # fmt: skip


def rows(content: Content) -> list[tuple[str, ...]]:
    """The cells of the table; "-" where there is nothing to say."""
    lines = []
    for name, variant in content["variants"].items():
        line = (name, f"{variant['n']}", number(variant["mean"]), number(variant["sd"]))
        # The variant alone, then against its baseline.
        compared = content["comparisons"].get(name)
        if compared is None:
            lines.append((*line, *["-"] * 7))
            continue
        low, high = compared["low"], compared["high"]
        counts = [compared[key] for key in ("higher", "lower", "ties")]
        lines.append(
            (
                *line,
                compared["baseline"],
                number(compared["mean"], sign=True),
                "-" if low is None else f"{number(low, sign=True)} to {number(high, sign=True)}",
                "/".join(map(str, counts)) if sum(counts) else "-",
                *(p_value(compared[key]) for key in ("p_t", "p_holm", "p_sign")),
            )
        )
    return lines


def verdicts(content: Content) -> dict[str, str]:
    """Compared variant -> what can be said, in words."""
    return {name: _verdict(name, compared, content) for name, compared in content["comparisons"].items()}


def _verdict(name: str, compared: Content, content: Content) -> str:
    n, baseline, metric = compared["n"], compared["baseline"], content["metric"]
    if n == 0:
        return f"{name} against {baseline}: not run, no seed has both."
    if n == 1:
        return (
            f"{name} against {baseline}: nothing can be called from one seed "
            f"({number(compared['mean'], sign=True)}); run two or more."
        )
    # The difference, as far as it can be called.
    detail = (
        f"({number(compared['mean'], sign=True)}, 95 % interval {number(compared['low'], sign=True)} to "
        f"{number(compared['high'], sign=True)}, {n} seeds)"
    )
    if not compared["called"]:
        same = " The numbers are the same for every seed." if compared["ties"] == n else ""
        return f"{name} against {baseline}: no difference can be called {detail}.{same}{_hint(compared)}"
    text = f"{name} against {baseline}: {metric} is {'higher' if compared['mean'] > 0 else 'lower'} {detail}."
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
    lines = [
        f"{content['metric']} at the last evaluation of each run, never the best; sd is over seeds. Differences are "
        "paired: runs of one seed share samples, augmentation and random numbers, and the initial weights where "
        "variants have the same layers.",
        "Each interval is of its own comparison (Student's t, 95 %)."
        + (
            f" With {len(content['comparisons'])} of them, p (Holm) is the one that holds for all together."
            if len(content["comparisons"]) > 1
            else ""
        ),
    ]
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
        "\n".join(f"- {line(verdict)}" for verdict in verdicts(content).values()),
        comparison_table(content),
        "\n\n".join(map(line, notes(content))),
        "Where the variants differ:\n\n" + "\n".join(differs),
        f"Printed by scaleeq compare from {text(content['file'])} (sha256 {content['file_sha256'][:12]}); "
        f"engine {', '.join(content['engines']) or 'not run'}; "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items() if name != "engine")
        + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def number(value: float | None, *, sign: bool = False) -> str:
    """Two decimals; "-" for None."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.2f}"


def p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
