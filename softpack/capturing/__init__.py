"""A language model and sequences -> an `.spk` file; nothing of [tokens, vocabulary] is ever on disk."""
