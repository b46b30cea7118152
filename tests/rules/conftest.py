"""Lets the tests of rules import the recordings that they share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
