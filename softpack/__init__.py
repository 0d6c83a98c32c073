"""softpack: soft labels, 30 to 500 times smaller, in one checked file that trains a student."""

__version__ = "0.1.0"
