"""Runs torchmortem, the nearest peer, over one training."""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.training import draft_of, ready

_CODES = {
    "gradient_noise": ("GS105",),
    "dead_units": ("GS301",),
    "saturation": ("GS302",),
    "rank_collapse": ("GS303",),
    "update_ratio": ("GS401", "GS402"),
    "weight_norm": ("GS402", "GS403", "GS102"),
    "loss_dynamics": ("GS505", "GS401"),
}
"""Codes that a category of its findings corresponds to; its three gradient_flow findings are told
apart by their titles."""


def installed() -> bool:
    """Whether torchmortem can be imported."""
    return importlib.util.find_spec("torchmortem") is not None


def under_torchmortem(case: Case, folder: Path) -> dict[str, Any]:
    """Codes of its findings of severity warning or above; empty where it fails itself."""
    import torchmortem

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    training = ready(draft_of(case), case.seed)
    begun = time.perf_counter()
    failed = None
    codes: set[str] = set()
    titles: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        autopsy = torchmortem.Autopsy(
            training.draft.model,
            optimizer=training.running.targets[0].optimizer,
            sampling="thorough",
        )
        training.running.told = lambda step, loss: autopsy.step(loss=loss)
        try:
            autopsy.attach()
            training.run()
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        finally:
            autopsy.detach()
    report = autopsy.get_report()
    for finding in report.findings if report is not None else ():
        if finding.severity >= torchmortem.Severity.WARNING:
            titles.append(f"{finding.category}: {finding.title}")
            codes.update(_codes_of(finding))
    return {
        "codes": {"torchmortem": sorted(codes)},
        "titles": titles,
        "failed": failed,
        "seconds": time.perf_counter() - begun,
    }


def _codes_of(finding: Any) -> tuple[str, ...]:
    if finding.category != "gradient_flow":
        return _CODES.get(finding.category, ("GS505",))
    title = finding.title.lower()
    if "vanish" in title:
        return ("GS101",)
    return ("GS102", "GS201") if "explo" in title else ("GS104", "GS101")
