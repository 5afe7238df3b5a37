#!/usr/bin/env python3
"""Count or time configs: `scaleeq benchmark` in its classic form, --config-file C [C ...]."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("benchmark")
