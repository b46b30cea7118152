"""scale-input: the data enter with mean 0 and standard deviation 1."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import before_statement
from gradscope.advise.measures import rounded
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.modules import ScaleInput as Scaled
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

USUAL = 3.0
"""An input whose mean or spread is within this factor of 0 and 1 is not called unscaled."""


class ScaleInput(Remedy):
    """Subtract the mean and divide by the spread at the start of the model's forward."""

    name = "scale-input"
    answers: ClassVar[Mapping[str, int]] = {
        "GS102": 6,
        "GS301": 6,
        "GS303:input": 1,
        "GS504": 1,
        "GS504:target": 0,
        "GS505": 4,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The model's input is far from mean 0 and standard deviation 1."""
        measured = _moments(recording, source)
        if measured is None:
            return None
        mean, spread = measured
        if abs(mean) <= USUAL and 1 / (10 * USUAL) <= spread <= USUAL:
            return None
        return (
            f"{lead(finding)}: the model's input has mean {mean:.3g} and "
            f"standard deviation {spread:.3g}; the first layer's outputs and gradients grow with it"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Insert the line at the start of the model's forward."""
        measured = _moments(recording, source)
        assert measured is not None
        mean, spread = rounded(measured[0], 3), rounded(measured[1], 3)
        edits = Edits()
        forward = _forward(recording, source)
        minus = f"- {mean:g}" if mean >= 0 else f"+ {-mean:g}"
        if forward is not None:
            file, function, name = forward
            documented = ast.get_docstring(function) is not None
            body = function.body[1:] if documented else function.body
            line = f"{name} = ({name} {minus}) / {spread:g}"
            if body:
                edits.add(file, before_statement(file, body[0], [line]) or [])
        return Change(
            title=f"scale the input from mean {mean:g} and spread {spread:g} to 0 and 1",
            applicability="may-change-results",
            cost="one mean for all features, from this run's batches; one per feature, from the "
            "training data, is better",
            edits=edits,
            snippet=f"x = (x {minus}) / {spread:g}  # before the model",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Scale what the model is called with."""
        measured = _moments(recording, source)
        assert measured is not None
        root = str(recording.run.get("model"))
        return Treatment((Scaled(root, rounded(measured[0], 3), rounded(measured[1], 3)),))


def _moments(recording: Recording, source: Source) -> tuple[float, float] | None:
    frame = recording.activations
    roots = {layer.id for layer in source.layers.by_id.values() if not layer.path}
    rows = frame[frame["module_id"].isin(roots) & (frame["role"] == int(Role.INPUT))]
    rows = rows[(rows["position"] == 0) & (rows["nonfinite"] == 0) & (rows["count"] > 0)]
    if rows.empty:
        return None
    count = float(rows["count"].sum())
    mean = float(rows["sum"].sum()) / count
    spread = math.sqrt(max(float(rows["sum_sq"].sum()) / count - mean**2, 0.0))
    return (mean, spread) if spread > 0 else None


def _forward(
    recording: Recording, source: Source
) -> tuple[SourceFile, ast.FunctionDef, str] | None:
    kind = recording.run.get("model")
    for file in source.files.values():
        for node in file.all(ast.FunctionDef):
            owner = file.parents.get(node)
            if node.name == "forward" and isinstance(owner, ast.ClassDef) and owner.name == kind:
                names = [a.arg for a in node.args.args]
                return (file, node, names[1]) if len(names) == 2 else None
    return None
