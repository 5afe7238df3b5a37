"""The config: a tree of named values with types.

Source: Detectron2's config/config.py; the tree is fvcore's, as there.
Deviations: files are read without python tags (merge_from_file has no allow_unsafe); a file of another config VERSION
is refused instead of converted.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as _CfgNode

from .config_defaults import DEFAULTS


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
