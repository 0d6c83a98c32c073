"""`python -m softpack` is `softpack`."""

from softpack.cli import main

main()
