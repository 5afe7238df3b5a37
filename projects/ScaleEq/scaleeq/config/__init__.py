"""The config: keys with their defaults (keys), the values that can be meant (ranges), the check of all of them
(check), and the files behind a config's name (parts).

Needs neither torch nor an engine, so that a wrong value is told before either is loaded.
"""

from .check import check_config
from .keys import add_scaleeq_config
from .parts import config_files, config_root, list_configs

__all__ = [
    "add_scaleeq_config",
    "check_config",
    "config_files",
    "config_root",
    "list_configs",
]
