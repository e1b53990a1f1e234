"""``python -m paddleseg_autoloss``: the same as the command ``autoloss``."""

from __future__ import annotations

import sys

from paddleseg_autoloss.cli.main import main

if __name__ == "__main__":
    sys.exit(main(program=("python", "-m", "paddleseg_autoloss")))
