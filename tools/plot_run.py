#!/usr/bin/env python3
"""Draw what a run has learned: `scaleeq analyze OUTPUT_DIR`."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("plot_run")
