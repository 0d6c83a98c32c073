"""What students learn from labels that were coded in every way; see README.md."""
