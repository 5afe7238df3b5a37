#!/usr/bin/env python3
"""Train, or evaluate, what a config describes: `scaleeq train` in its classic form, --config-file C."""

from scaleeq.commands import start
from scaleeq.commands.train import main

__all__ = ["main"]

if __name__ == "__main__":
    start("train")
