"""pre-norm: a transformer layer normalises what it reads, and its residual path stays free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import RETRAIN, Change, Edits, Remedy, Treatment, lead, listed
from gradscope.advise.layers import Layer
from gradscope.advise.patch import Edit
from gradscope.advise.placement import sites_of
from gradscope.advise.source import Source
from gradscope.advise.treatments.modules import NormFirst
from gradscope.advise.treatments.places import places_of
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_KINDS = ("TransformerEncoderLayer", "TransformerDecoderLayer")


class PreNorm(Remedy):
    """``norm_first=True`` in torch's transformer layers (Xiong et al. 2020)."""

    name = "pre-norm"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 2,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 0,
        "GS102": 3,
        "GS102:learning-rate": 4,
        "GS102:through-time": 0,
        "GS303": 3,
        "GS401": 3,
        "GS404": 3,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Transformer layers of torch that normalise behind the addition."""
        if not _layers(source):
            return None
        return (
            f"{lead(finding)}: with the norm behind the addition each layer rescales the residual "
            f"path; in front of attention and feed-forward it leaves a path of factor 1"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Add the argument to the calls that build the layers."""
        layers = _layers(source)
        edits = Edits()
        for site in sites_of(source, layers) or []:
            end = site.file.end(site.call) - 1
            inside = site.file.text[site.file.end(site.call.func) + 1 : end].rstrip()
            comma = "" if not inside or inside.endswith(",") else ", "
            named = any(k.arg == "norm_first" for k in site.call.keywords)
            if not named:
                edits.add(site.file, [Edit(end, end, f"{comma}norm_first=True")])
        return Change(
            title=f"normalise first in {listed(x.name for x in layers)}",
            applicability="may-change-results",
            cost=f"{RETRAIN}; the output needs a norm of its own behind the last layer",
            edits=edits,
            snippet="nn.TransformerEncoderLayer(..., norm_first=True)",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Set the layers' own flag."""
        return Treatment((NormFirst(places_of(source, _layers(source))),))


def _layers(source: Source) -> list[Layer]:
    found = [x for x in source.layers.by_id.values() if x.torch_type in _KINDS]
    return [x for x in found if not x.settings.get("norm_first") and not _says_so(source, x)]


def _says_so(source: Source, layer: Layer) -> bool:
    site = source.site(layer)
    if site is None:
        return False
    return any(
        k.arg == "norm_first" and getattr(k.value, "value", None) is True
        for k in site.call.keywords
    )
