"""The config's keys: their defaults (keys), the values that can be meant (ranges), and the check of a whole config.

Needs neither torch nor an engine, so that a wrong value is told before either is loaded.
"""

from .check import check_config
from .keys import add_scaleeq_config
from .ranges import RANGES, UNREAD, Range, markdown_table, unread_table

__all__ = ["RANGES", "UNREAD", "Range", "add_scaleeq_config", "check_config", "markdown_table", "unread_table"]
