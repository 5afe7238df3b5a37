#!/usr/bin/env python3
"""Convert the labels of a data set that are no pictures: `scaleeq data prepare`."""

from scaleeq.commands import start

if __name__ == "__main__":
    start("prepare_data")
