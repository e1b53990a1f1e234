"""``autoloss train`` of this checkout, whatever else is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_autoloss.cli.main import tool_main

if __name__ == "__main__":
    sys.exit(tool_main("train"))
