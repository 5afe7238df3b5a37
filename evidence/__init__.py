"""What only the documents need: published numbers, the tables that pages print, benchmarks against peers, the theory.

Not installed, and imported by no part of the package; run from the root of a checkout, `python -m evidence.<module>`.
"""
