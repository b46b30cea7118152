"""The figures of the report, one file each; the numbers come from gradscope.diagnose."""

from __future__ import annotations

from dataclasses import replace

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.report.clean import one_line
from gradscope.report.figures.depth import depth_figures
from gradscope.report.figures.figure import Figure
from gradscope.report.figures.gradient_check import gradient_check_figure
from gradscope.report.figures.gradient_map import gradient_map
from gradscope.report.figures.noise import noise_figure
from gradscope.report.figures.number_format import number_format_figure
from gradscope.report.figures.run_up import run_up_figure
from gradscope.report.figures.training import training_figure
from gradscope.report.figures.units import units_figure
from gradscope.report.figures.updates import updates_figure
from gradscope.report.view.layers import Layers
from gradscope.report.view.trend import is_by_depth


def all_figures(diagnosis: Diagnosis, layers: Layers) -> tuple[Figure, ...]:
    """Every figure in the order of the page."""
    recording = diagnosis.recording
    marked = frozenset(one_line(name) for finding in diagnosis.findings for name in finding.modules)
    weights = gradient_map(layers, marked)
    if other := next((f.code for f in diagnosis.findings if is_by_depth(f)), ""):
        weights = replace(
            weights,
            reading=f"{weights.reading} {other} is about what arrives at each layer's output: that "
            "is the next figure.",
        )
    return (
        weights,
        *depth_figures(recording, marked),
        training_figure(recording, diagnosis.findings),
        run_up_figure(recording),
        updates_figure(recording, layers, marked),
        units_figure(recording, marked),
        number_format_figure(recording, layers, marked),
        noise_figure(recording, layers, marked),
        gradient_check_figure(recording),
    )


__all__ = ["Figure", "all_figures"]
