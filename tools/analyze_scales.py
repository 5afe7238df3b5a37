#!/usr/bin/env python3
"""Show the scales of a model's branches: `scaleeq analyze` in its classic form, --config-file C."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("scales")
