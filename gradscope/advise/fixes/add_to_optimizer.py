"""add-to-optimizer: parameters that train get into the optimizer that should move them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead, listed
from gradscope.advise.membership import Missing, covered, expression, missing_parameters
from gradscope.advise.optimizer_change import (
    as_later_optimizer,
    as_list_item,
    as_param_group,
    as_wider_expression,
)
from gradscope.advise.registration import as_registered
from gradscope.advise.source import Source
from gradscope.advise.treatments.modules import AddParameters
from gradscope.advise.treatments.places import Place
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class AddToOptimizer(Remedy):
    """Register a list, widen the optimizer's expression, build it later, or add a group."""

    name = "add-to-optimizer"
    answers: ClassVar[Mapping[str, int]] = {"GS403": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Trainable parameters that no optimizer holds."""
        missing = missing_parameters(finding, recording, source)
        if not missing:
            return None
        count = sum(m.count for m in missing)
        measured = lead(finding)
        if not any(m.registered for m in missing):
            return (
                f"{measured}: {count:,} weights sit in a plain list, dict or attribute, which "
                f"`parameters()` does not look into"
            )
        return f"{measured}: {count:,} trainable weights are in no optimizer, so no step moves them"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Register what is unregistered; for the rest change the optimizer's construction."""
        missing = missing_parameters(finding, recording, source)
        hidden = [m for m in missing if not m.registered]
        edits, note = _edits(recording, source, hidden, missing)
        names = listed(dict.fromkeys(m.owner or m.path for m in missing))
        verb = "register" if hidden else "give the optimizer"
        return Change(
            title=f"{verb} {names}" + (" as part of the model" if hidden else ""),
            applicability="exact",
            cost=note,
            edits=edits,
            snippet=_snippet(recording, hidden or missing, bool(hidden)),
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Give the optimizer the parameters, in its first group."""
        places = []
        for missing in missing_parameters(finding, recording, source):
            root = source.layers.by_id.get(missing.root)
            if root is not None:
                path, _, name = missing.path.rpartition(".")
                places.append((Place(root.type, path), name))
        return (
            Treatment((AddParameters(places),))
            if places
            else Treatment(untried="the parameters belong to no model that was seen")
        )


def _edits(
    recording: Recording, source: Source, hidden: list[Missing], missing: list[Missing]
) -> tuple[Edits, str]:
    if hidden:
        note = "the names in a state_dict grow: older checkpoints lack them"
        return as_registered(source, hidden), note
    for way in (as_wider_expression, as_list_item, as_later_optimizer, as_param_group):
        edits = way(recording, source, missing)
        if edits:
            return edits, ""
    return Edits(), ""


def _snippet(recording: Recording, missing: list[Missing], hidden: bool) -> str:
    first = missing[0]
    if hidden:
        attribute = first.path.partition(".")[0]
        return f"self.{attribute} = nn.ModuleList(self.{attribute})  # in place of a plain list"
    _, path, whole = covered(recording, missing)[0]
    name = expression("model", path)
    group = f"{name}.parameters()" if whole else f"[{name}]"
    return f'optimizer.add_param_group({{"params": {group}}})'
