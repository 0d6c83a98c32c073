"""Rows of labels <-> small integers, on any device. Knows no file; `abc` is the page to read first."""
