#!/usr/bin/env python3
"""Draw what a model sees: `scaleeq predict` in its classic form, --config-file C --weights W."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("visualize")
