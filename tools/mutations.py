"""Which one-line mutants a package has, and which of them a seed draws; tools/mutants.py runs them."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    **{ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")},
    **{ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is")},
    **{ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*")},
    **{ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "//"), ast.And: ("and", "or"), ast.Or: ("or", "and")},
}
EXTREMES = {"min", "max", "minimum", "maximum", "amin", "amax", "argmin", "argmax", "cummin", "cummax"}
# What no test can tell, or should: words for people, how a drawing looks, how long is waited.
MESSAGES = {"debug", "info", "warning", "warn", "error", "exception", "critical", "print", "say"}
LOOKS = {"alpha", "dpi", "figsize", "fontsize", "linewidth", "lw", "help", "metavar", "stacklevel", "timeout", "zorder"}


class Mutant(NamedTuple):
    """source[start:end], in bytes, becomes `text`. `path` is below the package."""

    path: str
    line: int
    column: int
    operator: str
    scope: str  # "Class.method"
    start: int
    end: int
    text: str

    @property
    def identity(self) -> str:
        return f"{self.path}:{self.line}:{self.column} {self.operator}"

    @property
    def is_number(self) -> bool:
        return self.operator[0].isdigit()

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def lines(self, source: bytes) -> tuple[str, str]:
        """The line where the change begins, before and after."""
        first = source.rfind(b"\n", 0, self.start) + 1
        before, after = (text[first:].split(b"\n", 1)[0].decode().strip() for text in (source, self.apply(source)))
        return before, after


def called(node: Any) -> str:
    """The last name of what a call calls."""
    return getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""


def is_sequence(node: Any) -> bool:
    return isinstance(node, ast.List | ast.Tuple | ast.JoinedStr) or isinstance(getattr(node, "value", 0), str | bytes)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Without annotations, decorators, messages, imports, __all__, and blocks that no test runs."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            no_code = not isinstance(child, ast.AST) or name in ("annotation", "returns", "decorator_list", "msg")
            # Before Python 3.12 positions inside an f-string are not those of the file.
            if no_code or isinstance(child, ast.Raise | ast.JoinedStr) or called(child) in MESSAGES:
                continue
            if isinstance(child, ast.keyword) and (
                child.arg in LOOKS or (child.arg == "strict" and called(node) == "zip")
            ):
                continue  # zip's strict guards what the code itself has made of one length
            if isinstance(child, ast.If) and re.match("(typing.)?TYPE_CHECKING|__name__", ast.unparse(child.test)):
                continue
            if not (isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"):
                yield child


class Finder:
    """Collects the mutants of a file."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source, self.found = path, source, list[Mutant]()
        self.line_starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self.scope: list[str] = []
        self.walk(ast.parse(source), set())

    def span(self, node: Any) -> tuple[int, int]:
        starts = self.line_starts
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def add(self, operator: str, start: int, end: int, text: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        column = start - self.line_starts[line - 1] + 1
        self.found.append(Mutant(self.path, line, column, operator, ".".join(self.scope), start, end, text))

    def swap(self, kind: ast.AST, left: Any, right: Any) -> None:
        """The operator between two operands."""
        arithmetic = isinstance(kind, ast.operator)
        if type(kind) not in OPERATORS or (arithmetic and (is_sequence(left) or is_sequence(right))):
            return
        if isinstance(kind, ast.Is | ast.IsNot) and getattr(right, "value", "") is not None:
            return
        before, after = OPERATORS[type(kind)]
        start = self.span(left)[1]
        match = re.search(re.escape(before).replace(r"\ ", r"\s+").encode(), self.source[start : self.span(right)[0]])
        if match:
            self.add(f"{before} to {after}", start + match.start(), start + match.end(), after)

    def expression(self, node: Any) -> None:
        if isinstance(node, ast.Compare):
            for kind, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
                self.swap(kind, left, right)
        elif isinstance(node, ast.BinOp):
            self.swap(node.op, node.left, node.right)
        elif isinstance(node, ast.BoolOp):
            for left, right in itertools.pairwise(node.values):
                self.swap(node.op, left, right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = self.span(node)
            self.add("not removed", start, start + len("not "), "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            values = [not node.value] if isinstance(node.value, bool) else [node.value + 1, node.value - 1]
            for value in values:
                self.add(f"{node.value} to {value}", *self.span(node), f"({value})" if value < 0 else str(value))
        elif isinstance(node, ast.Slice) and (node.lower or node.upper) and not node.step:
            lower, upper = (ast.unparse(bound) if bound else "" for bound in (node.lower, node.upper))
            self.add("ends swapped", *self.span(node), f"{upper}:{lower}")
        elif isinstance(node, ast.keyword) and node.arg:
            self.add(f"{node.arg}= dropped", *self.span(node), "**{}")
        elif called(node) in EXTREMES:
            name, end = called(node), self.span(node.func)[1]
            other = name.replace("min", "max") if "min" in name else name.replace("max", "min")
            self.add(f"{name} to {other}", end - len(name), end, other)

    def statement(self, node: Any, bound: set[str]) -> None:
        """`bound`: names that have a value already. Without a name's first assignment no program runs."""
        if isinstance(node, ast.Return) and node.value and getattr(node.value, "value", "") is not None:
            self.add("nothing returned", *self.span(node.value), "None")
        elif isinstance(node, ast.AugAssign):
            self.swap(node.op, node.target, node.value)
        names = {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
        fields = any(isinstance(target, ast.Attribute | ast.Subscript) for target in getattr(node, "targets", []))
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and called(node.value) not in MESSAGES
        if call or fields or isinstance(node, ast.AugAssign) or (names and names <= bound):
            self.add("deleted", *self.span(node), "pass")
        bound |= names

    def walk(self, node: ast.AST, bound: set[str]) -> None:
        depth = len(self.scope)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.scope.append(node.name)
        if isinstance(node, ast.FunctionDef):
            bound = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        if isinstance(node, ast.stmt):
            self.statement(node, bound)
        else:
            self.expression(node)
        for child in children(node):
            self.walk(child, bound)
        del self.scope[depth:]


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold more than comments and docstrings."""
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


# --- which of them are drawn ---


def fraction(*words: object) -> float:
    """In [0, 1), the same for the same words on every machine."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def shares(weights: dict[str, int], most: dict[str, int], count: int) -> Counter[str]:
    """How many of `count` each folder gets, `most` at most: one first, then by weight (Webster's method).

    No folder loses more than one where another one grows by as much as one mutant stands for.
    """
    share = Counter(dict.fromkeys(sorted(weights, key=lambda folder: -weights[folder])[:count], 1))
    while share.total() < count and (open_ones := [folder for folder in weights if share[folder] < most[folder]]):
        share[max(open_ones, key=lambda folder: weights[folder] / (2 * share[folder] + 1))] += 1
    return share


def in_turn(found: list[Mutant], source: bytes, seed: int) -> list[Mutant]:
    """The mutants of a file in the order in which they are drawn: first one a line, numbers more rarely.

    A mutant's place follows from its line's text, not from the line's number nor from other lines; of equal ones in the
    file, from which of them it is.
    """
    equal, place = Counter[tuple[str, str]](), dict[Mutant, float]()
    for mutant in sorted(found, key=lambda mutant: (mutant.start, mutant.end)):
        what = (mutant.lines(source)[0], mutant.operator)
        chance = fraction(seed, mutant.path, *what, equal[what])
        place[mutant] = chance if mutant.is_number else chance**2
        equal[what] += 1
    seen, turns = Counter[int](), list[tuple[int, float, Mutant]]()
    for mutant in sorted(found, key=lambda mutant: place[mutant]):
        turns.append((seen[mutant.line], place[mutant], mutant))
        seen[mutant.line] += 1
    return [mutant for *_, mutant in sorted(turns)]


def draw(package: Path, count: int, seed: int, only: list[str]) -> list[Mutant]:
    """`count` mutants of the files below `package`, the same for the same seed and files; one a line if that will do.

    A folder has a number of them by its lines of code; a file of n lines the places (0 + u) / n, (1 + u) / n, ... among
    those of its folder, where u is a fraction that the seed and the file's name give.
    """
    sources, lines, folders = dict[str, bytes](), Counter[str](), dict[str, list[tuple[float, Mutant]]]()
    for file in sorted(package.rglob("*.py")):
        path, source = str(file.relative_to(package)), file.read_bytes()
        found = [mutant for mutant in Finder(path, source).found if mutant.identity.startswith(tuple(only) or "")]
        folder, size = path.rpartition("/")[0], len(code_lines(source.decode()))
        if found:
            sources[path] = source
            lines[folder] += size
            places = ((i + fraction(seed, path)) / size for i in itertools.count())
            folders.setdefault(folder, []).extend(zip(places, in_turn(found, source, seed), strict=False))
    if not folders:
        raise ValueError(f"{package} has no mutant that begins with {' or '.join(only) or 'anything'}; see --list")
    share = shares(lines, {folder: len(inside) for folder, inside in folders.items()}, count)
    drawn: list[Mutant] = []
    for folder, inside in folders.items():
        usable = (mutant for _, mutant in sorted(inside) if compiles(mutant.apply(sources[mutant.path])))
        drawn += itertools.islice(usable, share[folder])
    return sorted(drawn)


def compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
