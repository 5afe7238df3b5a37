"""A config's name, with overlays, and the YAML files that it stands for.

    ade20k/uper_r50+scale_equalizer   =   sets/ade20k.yaml, recipes/uper_r50.yaml, overlays/scale_equalizer.yaml

A name is a file of configs/ without its ending, or a section of derived.yaml; where there is neither, a data set of
sets/ and a recipe of recipes/. So a pair has a file of its own only where it says more, and a name that says a few keys
over another has none. Whatever takes a name takes the path of a file too.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from scaleeq.choices import did_you_mean, one_of

CHECKOUT = Path(__file__).parents[4] / "configs"
NO_NAMES = ("sets", "recipes", "overlays", "ablations")  # folders of parts, and of comparisons
DERIVED = "derived.yaml"  # name: the keys in which it differs from its _BASE_
TWIN = "_scale_equalizer"  # ended the names of files that are now a name and an overlay; read for one release


def config_root() -> Path:
    """The folder of configs: that of the installed package, or a checkout's."""
    installed = importlib.resources.files("scaleeq").joinpath("configs")
    return installed if isinstance(installed, Path) and installed.is_dir() else CHECKOUT


def list_configs(pattern: str = "*") -> list[str]:
    """The names that match a pattern such as "*uper*", sorted, without overlays."""
    root = config_root()
    files = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml") if path.name != DERIVED}
    files.update(_derived())
    own = {name for name in files if name.split("/")[0] not in NO_NAMES and not Path(name).name.startswith("Base")}
    pairs = {f"{of_set}/{recipe}" for of_set in _stems("sets") for recipe in _stems("recipes")}
    return sorted(name for name in own | pairs if fnmatch(name, pattern))


def config_files(text: str | Path, folder: Path = Path()) -> list[Path]:
    """The YAML files of a path or a name, each with +overlays, in the order in which they count.

    A section of a file is its path, continued by the section's name: `section` takes the two apart.

    folder: what a relative path is relative to.

    FileNotFoundError: there is no such file or name; ValueError: no such overlay. Both name what is near.
    A path of before, of a file that a name replaces, is taken with a notice on stderr.
    """
    path, overlays = _split(str(text), folder)
    root = config_root()
    extra = [
        root / "overlays" / f"{one_of(name, _stems('overlays'), key=f'the overlay of {text}')}.yaml"
        for name in overlays
    ]
    if path.is_file():
        return [path, *extra]
    name, of_set, recipe = _parts(str(text).partition("+")[0])
    files = [root / f"{name}.yaml"] if name else []
    if name in _derived() and not files[0].is_file():
        return [root / DERIVED / name, *extra]
    if of_set in _stems("sets") and recipe in _stems("recipes") and not files[0].is_file():
        files = [root / "sets" / f"{of_set}.yaml", root / "recipes" / f"{recipe}.yaml"]
    if files and all(file.is_file() for file in files):
        return [*files, *extra]
    if (replaced := _replaced(path)) is not None:
        _tell_once(f"notice: {path} is now the name {replaced}; this path is read until the next release")
        return [*config_files(replaced), *extra]
    what = "config file" if path.suffix in (".yaml", ".yml") else f"config of the name {text}, and no file"
    raise FileNotFoundError(f"there is no {what} {path.absolute()}{did_you_mean(text, list_configs())}")


def section(part: Path) -> tuple[Path, str]:
    """The file that one of `config_files` is, or stands in, and the name of its section there; "" for a whole file."""
    file = next((parent for parent in part.parents if parent.is_file()), part)
    return file, "" if file == part else part.relative_to(file).as_posix()


def absolute(text: str, folder: Path) -> str:
    """The same path or name, with its overlays, as it is understood from any folder."""
    path, overlays = _split(text, folder)
    return "+".join([str(path.absolute()), *overlays]) if path.is_file() or path.suffix else text


def _split(text: str, folder: Path) -> tuple[Path, list[str]]:
    """A path and its overlays; a + that belongs to a file's name stays there."""
    path = folder / Path(text).expanduser()
    if path.is_file():
        return path, []
    head, *overlays = text.split("+")
    return folder / Path(head).expanduser(), overlays


def _parts(name: str) -> tuple[str, str, str]:
    """A name, its data set and its recipe; empty for what cannot be a name: a path, or a folder of parts."""
    pieces = name.split("/")
    if name.startswith(("/", ".", "~")) or name.endswith((".yaml", ".yml")) or pieces[0] in NO_NAMES or not name:
        return "", "", ""
    return name, pieces[0] if len(pieces) == 2 else "", pieces[-1]


def _replaced(path: Path) -> str | None:
    """The name that has replaced a file of configs/; None for every other path."""
    of_set, name = path.parent.name, path.stem
    in_configs = path.resolve().parent.parent == config_root().resolve() or path.parent.parent.name == "configs"
    if path.suffix != ".yaml" or not in_configs:
        return None
    plain = f"{of_set}/{name.removesuffix(TWIN)}"
    if plain not in list_configs():
        return None
    return plain + ("+scale_equalizer" if name.endswith(TWIN) else "")


@functools.lru_cache
def _tell_once(notice: str) -> None:
    print(notice, file=sys.stderr)


def _derived() -> list[str]:
    file = config_root() / DERIVED
    return re.findall(r"^([^\s#:]+):", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else []


def _stems(folder: str) -> list[str]:
    return sorted(path.stem for path in (config_root() / folder).glob("*.yaml"))
