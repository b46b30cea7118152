"""What batch, layer and group norm have in common: a norm behind each named layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from gradscope.advise.fix import (
    RETRAIN,
    Change,
    Edits,
    Remedy,
    Treatment,
    cost_of,
    listed,
    shared_note,
)
from gradscope.advise.layers import ATTENTION, CONVOLUTIONS, RECURRENT, Layer
from gradscope.advise.names import spelled
from gradscope.advise.placement import behind_layer, sites_of
from gradscope.advise.source import Site, Source
from gradscope.advise.treatments.modules import AddNorm
from gradscope.advise.treatments.places import places_of
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

SMALLEST_BATCH = 8
"""Below it a batch's own mean and variance are too noisy: Wu and He, Group Normalization (2018),
figure 1, where the error of batch norm grows from 8 samples a worker downwards."""


class Norm(Remedy):
    """A norm behind each linear layer or convolution that the finding names."""

    kind: ClassVar[str]
    """Name for the title, e.g. ``LayerNorm``."""

    @abstractmethod
    def fits(self, layer: Layer, source: Source) -> bool:
        """Whether this norm is the right one behind ``layer``."""

    @abstractmethod
    def module(self, layers: Sequence[Layer]) -> tuple[str, str]:
        """Name in torch.nn and the arguments, ``{width}`` standing for the layer's width."""

    def targets(self, finding: Finding, source: Source) -> list[Layer]:
        """The layers to put a norm behind, or none if one of them calls for another norm."""
        found = [x for x in source.layers.weighted(finding) if not _is_normalised(x, source)]
        return found if all(self.fits(layer, source) for layer in found) else []

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Add the norm in the file; without the lines, a snippet for the first layer."""
        targets = self.targets(finding, source)
        sites = sites_of(source, targets)
        edits = self._edits(source, sites or [])
        kind, arguments = self.module(targets[:1])
        line = f"nn.{kind}({arguments.format(width=targets[0].channels or '...')})"
        return Change(
            title=f"put a {self._shown(targets)} after {listed(x.name for x in targets)}",
            applicability="may-change-results",
            cost=cost_of(RETRAIN, shared_note(sites or [], [x.id for x in targets])),
            edits=edits,
            snippet=f"# behind {targets[0].name}, before its activation:\n{line}",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """A hook behind each layer."""
        targets = self.targets(finding, source)
        groups = self.module(targets)[1].partition(",")[0]
        number = int(groups) if groups.isdigit() else 1
        return Treatment((AddNorm(self.kind, places_of(source, targets), number),))

    def _shown(self, targets: Sequence[Layer]) -> str:
        kinds = {self.module([layer])[0] for layer in targets}
        return kinds.pop() if len(kinds) == 1 else self.kind

    def _edits(self, source: Source, sites: Sequence[Site]) -> Edits:
        edits = Edits()
        for site in sites:
            width = _width(site)
            kind, arguments = self.module(site.layers)
            name, imports = spelled(site.file, f"torch.nn.{kind}")
            if width is None:
                return Edits()
            code = f"{name}({arguments.format(width=width)})"
            placed = behind_layer(source, site, code, "norm")
            if placed is None:
                return Edits()
            edits.add(site.file, [*imports, *placed])
        return edits


def prefers_layer_norm(layer: Layer, source: Source) -> bool:
    """Whether statistics over the batch are wrong here: sequences, one sample, a shared layer."""
    layers = source.layers
    if layers.has_any((*RECURRENT, *ATTENTION)) or layer.calls > 1:
        return True
    size = layers.size_per_sample(layer, Role.OUTPUT)
    # more numbers a sample than the layer is wide: it runs over positions of a sequence
    return size is not None and layer.channels is not None and size != layer.channels


def is_convolution(layer: Layer) -> bool:
    """Whether it is a convolution, transposed or not."""
    return layer.torch_type in CONVOLUTIONS


def _is_normalised(layer: Layer, source: Source) -> bool:
    after = source.layers.after(layer)
    return after is not None and after.normalises


def _width(site: Site) -> str | None:
    lazy = site.layers[0].torch_type.startswith("Lazy")
    text = site.argument(0 if lazy else 1, "out_features", "out_channels")
    if site.layers[0].type == site.layers[0].torch_type and text is not None:
        return text
    widths = {layer.channels for layer in site.layers}
    width = widths.pop()
    return str(width) if width is not None and not widths else None
