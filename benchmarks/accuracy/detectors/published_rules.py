"""Runs the published rules of other tools over one training."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.detectors.observations import Observer
from benchmarks.accuracy.detectors.rules import RULES
from benchmarks.accuracy.training import draft_of, ready


def under_published_rules(case: Case, folder: Path) -> dict[str, Any]:
    """Codes by tool; None where a tool does not know this kind of training."""
    training = ready(draft_of(case), case.seed)
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = Observer(training)
        training.run()
        observer.close()
        found = {name: rule(observer.seen) for name, rule in RULES.items()}
    return {
        "codes": {
            name: sorted(codes) if codes is not None else None for name, codes in found.items()
        },
        "seconds": time.perf_counter() - begun,
    }
