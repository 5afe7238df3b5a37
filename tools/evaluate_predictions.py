#!/usr/bin/env python3
"""Score label pictures that any framework has written: `scaleeq eval --predictions PRED_DIR`."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("score")
