"""The tests mirror projects/ScaleEq/scaleeq; helpers are imported as tests.<folder>.<module>."""
