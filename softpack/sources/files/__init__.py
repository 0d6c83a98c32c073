"""Arrays in files, by the kind of file: opened as sources, and written. No torch, but for `.pt`."""
