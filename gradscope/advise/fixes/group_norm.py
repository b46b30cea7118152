"""group-norm: batch norm's place taken where the batch is too small for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from gradscope.advise.fix import lead
from gradscope.advise.layers import Layer
from gradscope.advise.normalising import SMALLEST_BATCH, Norm, is_convolution
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

GROUPS = 32
"""Groups of the paper (Wu and He 2018, table 3); fewer where the channels do not divide by it."""


class GroupNorm(Norm):
    """A GroupNorm behind a convolution that sees few samples at a time."""

    name = "group-norm"
    kind = "GroupNorm"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 2,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 0,
        "GS102": 3,
        "GS102:learning-rate": 4,
        "GS301": 3,
        "GS301:output": 0,
        "GS302": 2,
        "GS303": 1,
        "GS303:input": 2,
        "GS404": 2,
    }

    def fits(self, layer: Layer, source: Source) -> bool:
        """A convolution with a known, small batch."""
        batch = source.layers.batch
        return is_convolution(layer) and batch is not None and batch < SMALLEST_BATCH

    def module(self, layers: Sequence[Layer]) -> tuple[str, str]:
        """GroupNorm with the largest number of groups that divides the channels of every layer."""
        channels = math.gcd(*(layer.channels or 1 for layer in layers))
        return "GroupNorm", f"{math.gcd(GROUPS, channels)}, {{width}}"

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Convolutions without a norm of their own, and a small batch."""
        if not self.targets(finding, source):
            return None
        return (
            f"{lead(finding)}: normalised channels keep the scale from "
            f"changing with depth, and a batch of {source.layers.batch} is too small for batch norm"
        )
