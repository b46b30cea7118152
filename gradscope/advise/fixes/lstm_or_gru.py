"""lstm-or-gru: gates that keep a state over many steps, as an idea."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import RETRAIN, Change, Remedy, Treatment, lead, listed
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_PLAIN = ("RNN", "RNNCell")


class LstmOrGru(Remedy):
    """An LSTM or a GRU where a plain recurrent layer stands."""

    name = "lstm-or-gru"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 6,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 2,
        "GS102:through-time": 3,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The model has a plain recurrent layer."""
        plain = [x for x in source.layers.by_id.values() if x.torch_type in _PLAIN]
        if not plain:
            return None
        return (
            f"{lead(finding)}: {listed(x.name for x in plain)} multiplies its state by one matrix "
            f"at each time step; a gate adds to it instead"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """An idea: the state of an LSTM is a pair, which the code around has to know."""
        plain = [x for x in source.layers.by_id.values() if x.torch_type in _PLAIN]
        sizes = f"{plain[0].settings.get('input_size', '...')}, " + str(
            plain[0].settings.get("hidden_size", "...")
        )
        return Change(
            title=f"use an LSTM or a GRU for {listed(x.name for x in plain)}",
            applicability="idea",
            cost=f"{RETRAIN}; three to four times the weights of the layer",
            snippet=f"nn.GRU({sizes}, batch_first=True)",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Not tried: it is another model, with other weights."""
        return Treatment(untried="another recurrent layer is another model: an idea only")
