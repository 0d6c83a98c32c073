"""A teacher and images -> an `.spk` file; of the raw labels only the first views are ever on disk."""
