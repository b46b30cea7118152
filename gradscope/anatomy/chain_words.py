"""What the chain rule's factors say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradscope.anatomy.facts import Factor
from gradscope.anatomy.paths import Paths
from gradscope.diagnose.wording import number

SHRINKS, GROWS = 0.5, 2.0
"""A factor between these two is called about 1: the eye reads no more from a log scale."""
LOST = 1e-3
"""Below a thousandth of what the output has, the first layers feel next to nothing of the loss."""


def words(factors: Sequence[Factor], parts: Mapping[str, float], ends: str) -> tuple[str, ...]:
    """Where the gradient shrinks or grows on its way from the output to ``ends``."""
    inner = [factor for factor in factors if factor.kind != "loss"]
    if not inner:
        return ("No gradient comes back from the loss into the model.",)
    zero = next((f for f in inner if f.gain is not None and f.gain == 0), None)
    if zero is not None:
        return (
            f"`{zero.label}` ({zero.type}) stops the gradient: its factor is exactly 0, so nothing "
            f"behind it learns from this sample.",
        )
    inward = 1.0
    for factor in inner:
        inward *= factor.gain or 0.0
    said = [
        f"From the model's output back to {ends} the gradient is multiplied by {number(inward)} "
        f"in all: {_verdict(inward)}."
    ]
    named = (("weight", "the weights"), ("activation", "the activations"),
             ("other", "everything else"), ("block", "blocks that cannot be split"))  # fmt: skip
    present = [
        f"{name} ×{number(parts[kind])}"
        for kind, name in named
        if any(factor.kind == kind for factor in inner)
    ]
    if len(present) > 1:
        said.append(f"That product by parts: {', '.join(present)}.")
    known = [factor for factor in inner if factor.gain is not None]
    least = min(known, key=lambda f: f.gain or 0.0)
    most = max(known, key=lambda f: f.gain or 0.0)
    if least.gain is not None and least.gain < SHRINKS:
        said.append(f"It shrinks most at `{least.label}` ({least.type}): ×{number(least.gain)}.")
    if most.gain is not None and most.gain > GROWS:
        said.append(f"It grows most at `{most.label}` ({most.type}): ×{number(most.gain)}.")
    return tuple(said)


def _verdict(inward: float) -> str:
    if inward < LOST:
        return "so the first layers feel next to nothing of the loss"
    if inward < SHRINKS:
        return "it shrinks on the way"
    if inward > 1 / LOST:
        return "it explodes on the way, and the first layers feel a huge slope"
    return "it grows on the way" if inward > GROWS else "it arrives about as large as it began"


def notes(factors: Sequence[Factor], found: Paths) -> tuple[str, ...]:
    """What could not be split, and why."""
    said = []
    blocks = [factor for factor in factors if factor.kind == "block"]
    if blocks:
        names = ", ".join(f"`{factor.label}`" for factor in blocks[:4])
        more = f" and {len(blocks) - 4} more" if len(blocks) > 4 else ""
        said.append(
            f"In {names}{more} the gradient goes several ways at once and adds up again, so such a "
            "block has one factor, and weights and activations in it cannot be told apart."
        )
    if not found.complete:
        said.append("The graph is too deep to be walked to its end: the chain stops early.")
    return tuple(said)
