"""layer-norm: each sample's features get mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gradscope.advise.fix import lead
from gradscope.advise.layers import Layer
from gradscope.advise.normalising import SMALLEST_BATCH, Norm, is_convolution, prefers_layer_norm
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class LayerNorm(Norm):
    """A LayerNorm behind a linear layer, where batch norm would be wrong."""

    name = "layer-norm"
    kind = "LayerNorm"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 2,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 0,
        "GS102": 3,
        "GS102:learning-rate": 4,
        "GS102:through-time": 0,
        "GS301": 3,
        "GS301:output": 0,
        "GS302": 2,
        "GS303": 1,
        "GS303:input": 2,
        "GS404": 2,
    }

    def fits(self, layer: Layer, source: Source) -> bool:
        """A linear layer over a sequence, in a recurrent net, or with a tiny batch."""
        small = (source.layers.batch or SMALLEST_BATCH) < SMALLEST_BATCH
        return not is_convolution(layer) and (small or prefers_layer_norm(layer, source))

    def module(self, layers: Sequence[Layer]) -> tuple[str, str]:
        """LayerNorm over the last axis."""
        return "LayerNorm", "{width}"

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Linear layers without a norm of their own."""
        targets = self.targets(finding, source)
        if not targets:
            return None
        batch = source.layers.batch
        why = (
            f"a batch of {batch} is too small for batch statistics"
            if batch is not None and batch < SMALLEST_BATCH
            else "the layer runs over sequences, where batch statistics mix positions"
        )
        return (
            f"{lead(finding)}: features of mean 0 and variance 1 stop "
            f"the scale from changing with depth; {why}"
        )
