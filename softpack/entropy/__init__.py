"""Codes <-> bytes: planes of exact width, and zstd where that helps. Knows no codec and no torch."""
