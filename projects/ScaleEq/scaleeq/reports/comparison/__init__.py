"""A comparison as a person reads it: tables, drawings, one page."""
