"""Label sets as others lay them out: opened as sources, and written."""
