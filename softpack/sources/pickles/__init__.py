"""Read what others have pickled, as data alone: nothing that stands in a file is imported or run."""
