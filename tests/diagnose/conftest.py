"""Lets the tests of measures import the recordings that they share with the tests of rules."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "rules"))
