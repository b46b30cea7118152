"""bf16: computing in bfloat16, which has the range of float32, over weights in float32."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.names import last_name, resolved
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.precision import Bfloat16, FullPrecision
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class Bf16(Remedy):
    """``autocast(…, dtype=torch.float16)`` becomes bfloat16; weights in 16 bits become float32."""

    name = "bf16"
    answers: ClassVar[Mapping[str, int]] = {"GS202": 2, "GS203": 1, "GS203:learning-rate": 0}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """float16 in an autocast, or weights in a format of 16 bits."""
        if finding.code == "GS203":
            return (
                f"{lead(finding)}: a weight in {recording.run.get('dtype')} cannot take so small a "
                f"change, one in float32 can; autocast still computes in bfloat16"
            )
        if str(recording.run.get("amp")) != "float16":
            return None
        return f"{lead(finding)}: bfloat16 goes down to 1e-38, as float32 does"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Exchange the dtype in the autocast call."""
        edits = Edits()
        if finding.code == "GS203":
            return Change(
                title="keep the weights in float32 and compute in bfloat16 by autocast",
                applicability="may-change-results",
                cost="weights and optimizer take twice the memory",
                snippet="model.float()  # in place of model.bfloat16()\n"
                'with torch.autocast("cpu", dtype=torch.bfloat16):\n    loss = ...',
            )
        for file in source.files.values():
            edits_here = [e for call in file.calls if (e := _edit(file, call)) is not None]
            if edits_here:
                edits.add(file, edits_here)
        return Change(
            title="autocast to bfloat16 in place of float16",
            applicability="may-change-results",
            cost="8 significant bits in place of 11; GPUs before Ampere compute it slowly",
            edits=edits,
            snippet='with torch.autocast("cuda", dtype=torch.bfloat16):\n    ...',
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Exchange the format where the autocast is entered, or convert the model."""
        return Treatment((FullPrecision() if finding.code == "GS203" else Bfloat16(),))


def _edit(file: SourceFile, call: ast.Call) -> Edit | None:
    if last_name(file, call) != "autocast":
        return None
    for node in (*call.args, *(k.value for k in call.keywords)):
        if resolved(file, node) in ("torch.float16", "torch.half"):
            written = file.code(node)
            start = file.start(node)
            tail = written.rpartition(".")[2]
            return Edit(start + len(written) - len(tail), file.end(node), "bfloat16")
    return None
