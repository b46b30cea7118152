"""remove-softmax: the loss gets scores, of which it takes the softmax or sigmoid itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import replaced
from gradscope.advise.names import resolved, spelled
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.functions import MendLossInput
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_SQUASHING = ("softmax", "sigmoid")
_LAYERS = ("Softmax", "Sigmoid", "Softmax2d", "Hardsigmoid")


class RemoveSoftmax(Remedy):
    """Take the softmax out, or put a log_softmax in, whichever the loss is made for."""

    name = "remove-softmax"
    answers: ClassVar[Mapping[str, int]] = {
        "GS503": 1,
        "GS503:log-softmax-twice": 0,
        "GS503:broadcast": 0,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The loss was seen to get the wrong form."""
        what = {
            "probabilities": "the loss asks for logarithms of probabilities",
            "logits": "a cross entropy takes the log_softmax of its scores itself",
        }.get(finding.kind, "the loss takes the softmax of its scores itself, and a second one "
              "leaves a gradient that cannot make the answer certain")  # fmt: skip
        return f"{lead(finding)}: {what}"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Exchange the layer or the call, where there is exactly one."""
        edits = Edits()
        for file, some in _edits(finding, source):
            edits.add(file, some)
        titles = {
            "probabilities": "give the loss the log_softmax of the scores",
            "logits": "use cross_entropy in place of nll_loss",
            "sigmoid-twice": "take the sigmoid in front of the loss out",
        }
        return Change(
            title=titles.get(finding.kind, "take the softmax in front of the loss out"),
            applicability="may-change-results",
            cost="the model then gives scores: take a softmax where probabilities are used",
            edits=edits,
            snippet={
                "probabilities": "loss = F.nll_loss(F.log_softmax(scores, dim=1), target)",
                "sigmoid-twice": "loss = F.binary_cross_entropy_with_logits(scores, target)",
            }.get(finding.kind, "loss = F.cross_entropy(scores, target)"),
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Turn what reaches the loss into what it is made for."""
        return Treatment((MendLossInput(logits=finding.kind == "logits"),))


def _edits(finding: Finding, source: Source) -> list[tuple[SourceFile, list[Edit]]]:
    if finding.kind == "logits":
        return _renamed(source)
    layers = [layer for layer in source.layers.named_in(finding) if layer.type in _LAYERS]
    if len(layers) == 1:
        site = source.site(layers[0])
        if site is None:
            return []
        kind = "LogSoftmax" if finding.kind == "probabilities" else "Identity"
        name, imports = spelled(site.file, f"torch.nn.{kind}")
        arguments = site.file.text[site.file.end(site.call.func) : site.file.end(site.call)]
        code = f"{name}{arguments if kind == 'LogSoftmax' else '()'}"
        return [(site.file, [*imports, replaced(site.file, site.call, code)])]
    calls = [(f, c) for f in source.files.values() for c in f.calls if _squashes(f, c)]
    if len(calls) != 1:
        return []
    file, call = calls[0]
    if finding.kind == "probabilities":
        if not (resolved(file, call.func) or "").startswith("torch."):
            return []
        name, imports = spelled(file, "torch.nn.functional.log_softmax")
        return [(file, [*imports, replaced(file, call.func, name)])]
    return [(file, [replaced(file, call, file.code(_operand(file, call)))])]


def _renamed(source: Source) -> list[tuple[SourceFile, list[Edit]]]:
    calls = [
        (f, c)
        for f in source.files.values()
        for c in f.calls
        if (resolved(f, c.func) or "") in ("torch.nn.functional.nll_loss", "torch.nn.NLLLoss")
    ]
    if len(calls) != 1:
        return []
    file, call = calls[0]
    layer = (resolved(file, call.func) or "").endswith("NLLLoss")
    new = "torch.nn.CrossEntropyLoss" if layer else "torch.nn.functional.cross_entropy"
    name, imports = spelled(file, new)
    return [(file, [*imports, replaced(file, call.func, name)])]


def _squashes(file: SourceFile, call: ast.Call) -> bool:
    full = resolved(file, call.func) or ""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else full.rpartition(".")[2]
    if name not in _SQUASHING or full.startswith("self."):
        return False
    # torch.softmax(x, 1) has its operand inside, x.softmax(1) in front
    return (
        isinstance(call.func, ast.Attribute) if not full.startswith("torch.") else bool(call.args)
    )


def _operand(file: SourceFile, call: ast.Call) -> ast.expr:
    if (resolved(file, call.func) or "").startswith("torch."):
        return call.args[0]
    assert isinstance(call.func, ast.Attribute)
    return call.func.value
