#!/usr/bin/env python3
"""Compare variants of a config over several seeds: `scaleeq compare`."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("compare")
