"""The config: a tree of named values with types, and functions that may be called with it.

Source: Detectron2's config/config.py; the tree is fvcore's, as there.
Deviations: files are read without python tags (merge_from_file has no allow_unsafe); a file of another config VERSION
is refused instead of converted; only a CfgNode counts as a config (Detectron2 also takes omegaconf's).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from fvcore.common.config import CfgNode as _CfgNode

from .config_defaults import DEFAULTS

Arguments = dict[str, Any]  # by name
_Function = TypeVar("_Function", bound=Callable)


class CfgNode(_CfgNode):
    """A dictionary with attribute access that keeps the types of its values and can be frozen."""

    def merge_from_file(self, cfg_filename: str) -> None:  # type: ignore[override]
        """Merges a YAML file, its _BASE_ first. Raises AssertionError where there is no such file,
        ValueError where it is written for another config VERSION, KeyError for a key that is not there."""
        if not self._is_file(cfg_filename):
            raise AssertionError(f"config file {cfg_filename!r} does not exist")
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=False))
        version = loaded.get("VERSION", self.VERSION)
        if version != self.VERSION:
            raise ValueError(f"{cfg_filename} has config VERSION {version}; here it is {self.VERSION}")
        self.merge_from_other_cfg(loaded)

    @classmethod
    def _is_file(cls, filename: str) -> bool:
        try:
            with cls._open_cfg(filename):
                return True
        except OSError:
            return False


def get_cfg() -> CfgNode:
    """A copy of the default config, with all of Detectron2's keys."""
    return CfgNode(DEFAULTS)  # yacs copies what it is given


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Any:
    """Lets an __init__, or a function, be called with a config where its own arguments are long.

    `@configurable` on __init__: the class has a classmethod from_config(cls, cfg, ...) that returns the arguments.
    `@configurable(from_config=f)` on a function: f(cfg, ...) returns them. Called with a CfgNode first (or as cfg=),
    from_config gets the call's arguments; keywords that it does not take override what it returns.
    """
    if init_func is None:
        if from_config is None:
            return configurable
        if not inspect.isfunction(from_config):
            raise AssertionError(f"from_config of configurable is a function, not {from_config!r}")
        return functools.partial(_configurable_function, from_config=from_config)
    if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
        raise AssertionError("use @configurable on an __init__, or @configurable(from_config=...) on a function")

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if not hasattr(type(self), "from_config"):
            raise AttributeError(f"{type(self).__name__} has @configurable on its __init__ but no from_config")
        translate = type(self).from_config
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config is not a classmethod")
        if _called_with_cfg(args, kwargs):
            init_func(self, **_arguments(translate, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(function: _Function, *, from_config: Callable) -> _Function:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _called_with_cfg(args, kwargs):
            return function(**_arguments(from_config, args, kwargs))
        return function(*args, **kwargs)

    wrapped.from_config = from_config  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


def _called_with_cfg(args: tuple, kwargs: Arguments) -> bool:
    return isinstance(args[0] if args else None, _CfgNode) or isinstance(kwargs.get("cfg"), _CfgNode)


def _arguments(from_config: Callable, args: tuple, kwargs: Arguments) -> Arguments:
    """What from_config makes of the call, then the keywords that it does not know."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' first, as {tuple(parameters)} does not")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    arguments = from_config(*args, **known)
    arguments.update((name, value) for name, value in kwargs.items() if name not in parameters)
    return arguments
