"""Labels of a language model: bytes a token over KL, and what students learn from them; see README.md."""
