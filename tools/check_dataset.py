#!/usr/bin/env python3
"""Say in plain words what is wrong with data sets: `scaleeq data check`."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("check_data")
