"""A teacher and images -> an `.spk` file, without the raw labels ever being on disk."""
