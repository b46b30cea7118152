"""batch-norm: each layer's outputs get mean 0 and variance 1 over the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gradscope.advise.fix import lead
from gradscope.advise.layers import Layer
from gradscope.advise.normalising import SMALLEST_BATCH, Norm, is_convolution, prefers_layer_norm
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class BatchNorm(Norm):
    """A BatchNorm1d, 2d or 3d behind the layer, before its activation."""

    name = "batch-norm"
    kind = "BatchNorm"
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
        """A convolution, or a linear layer on plain rows, with a batch that is large enough."""
        if (source.layers.batch or SMALLEST_BATCH) < SMALLEST_BATCH or layer.calls > 1:
            return False
        return is_convolution(layer) or not prefers_layer_norm(layer, source)

    def module(self, layers: Sequence[Layer]) -> tuple[str, str]:
        """BatchNorm of as many axes as the layer has."""
        first = layers[0].torch_type
        ways = first[-2] if is_convolution(layers[0]) else "1"
        return f"BatchNorm{ways}d", "{width}"

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Layers without a norm of their own, and a batch to take statistics from."""
        targets = self.targets(finding, source)
        if not targets:
            return None
        batch = source.layers.batch
        size = f"; a batch of {batch} gives sound statistics" if batch else ""
        return (
            f"{lead(finding)}: inputs of mean 0 and variance 1 keep each "
            f"activation where its slope is large, whatever the weights' scale{size}"
        )
