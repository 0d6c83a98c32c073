"""`python benchmarks/language`: see README.md beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from language.run import main

if __name__ == "__main__":
    main()
