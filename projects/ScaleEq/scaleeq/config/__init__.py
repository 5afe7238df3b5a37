"""What a config may say, and the files behind its name; needs neither torch nor an engine."""

from .keys import add_scaleeq_config
from .parts import config_files, config_root, list_configs

__all__ = ["add_scaleeq_config", "config_files", "config_root", "list_configs"]
