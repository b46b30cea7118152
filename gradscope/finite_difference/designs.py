"""Gradients that are no derivatives and are not meant to be: told from faults by what they do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradscope.finite_difference.directions import Comparison, direction, dot
from gradscope.finite_difference.sampling import Draw
from gradscope.finite_difference.unit import Leaf, Unit
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.experiment.probes import Undetached

FAR = (0.3, 1.0, 3.0)
"""Moves, in parts of a leaf's size, after which a step function has taken steps."""


def locally_constant(found: Sequence[tuple[Draw, Comparison]]) -> bool:
    """Whether the results stand still along all directions although a gradient is given."""
    return all(
        abs(c.numeric) <= max(c.tolerance * 1e-2, 4 * c.error_bar)
        and abs(c.numeric) <= 1e-4 * abs(c.analytic)
        for _, c in found
    )


def changes(unit: Unit, leaf: Leaf, seed: int) -> bool:
    """Whether the results change at all when ``leaf`` moves far."""
    center = unit.outputs()
    for number, size in enumerate(FAR):
        generator = unit.generator(seed, 2000 + number)
        try:
            there = unit.outputs({leaf: direction(leaf, generator)}, size)
        except Exception:  # the far point may lie outside what the code takes
            continue
        for a, b in zip(center, there, strict=True):
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True):
                return True
    return False


def opposed(unit: Unit, leaf: Leaf, found: Sequence[tuple[Draw, Comparison]], seed: int) -> bool:
    """Whether the gradient points against what far moves do: a straight-through with a wrong sign.

    Slopes over far moves are compared with the gradient along many directions; only a clear
    anticorrelation counts.
    """
    pairs = []
    for drawn, _ in found:
        gradient = drawn.gradients[leaf]
        if gradient is None:
            return False
        for number in range(4):
            generator = unit.generator(seed, 3000 + number)
            move = direction(leaf, generator)
            try:
                up, down = unit.outputs({leaf: move}, 1.0), unit.outputs({leaf: move}, -1.0)
            except Exception:  # see changes
                continue
            secant = dot(drawn.weights, [u - d for u, d in zip(up, down, strict=True)]) / 2
            pairs.append((dot([gradient], [move]), secant))
    if len(pairs) < 8:
        return False
    product = sum(a * s for a, s in pairs)
    sizes = sum(a * a for a, _ in pairs) ** 0.5 * sum(s * s for _, s in pairs) ** 0.5
    return bool(sizes > 0 and product < -0.5 * sizes)


def identity(unit: Unit, leaf: Leaf) -> bool:
    """Whether the unit's one result is this input, element by element."""
    results = unit.outputs()
    if len(results) != 1 or leaf.parameter is not None:
        return False
    (result,) = results
    if leaf.shape is not None and leaf.stride is not None:
        given = leaf.base.as_strided(leaf.shape, leaf.stride)
    else:
        given = leaf.base
    return result.numel() == given.numel() and torch.allclose(
        result.reshape(-1), given.reshape(-1).to(result.dtype), rtol=1e-12, atol=0
    )


def straight_cut(unit: Unit, seed: int) -> bool:
    """Whether a ``(q - x).detach()`` is cut in which ``q`` stands still while the inputs move.

    That is how a straight-through estimator is written without a custom Function.
    """
    moving = [leaf for leaf in unit.leaves if leaf.parameter is None] or unit.leaves
    generator = unit.generator(seed, 7000)
    moves = {leaf: direction(leaf, generator) for leaf in moving}
    found = []
    for step in (1e-7, -1e-7):
        mode = Undetached()
        unit.probe = mode
        try:
            unit.outputs(moves, step)
        finally:
            unit.probe = None
        found.append(mode.minuends)
    return any(a.shape == b.shape and torch.equal(a, b) for a, b in zip(*found, strict=False))


def hold_padding(unit: Unit, leaves: Sequence[Leaf]) -> None:
    """Do not move the padding rows of tables: they get no gradient by agreement."""
    tables = {id(leaf.parameter): leaf for leaf in leaves if leaf.parameter is not None}
    if not tables:
        return
    nodes = [t.grad_fn for t in unit.graph() if t.grad_fn is not None]
    for node, edges in Walk(nodes):
        row = getattr(node, "_saved_padding_idx", None)
        if type(node).__name__ != "EmbeddingBackward0" or row is None or not edges:
            continue
        table = tables.get(id(getattr(edges[0][0], "variable", None)))
        # "no padding" is -1, kept as an unsigned number
        if table is not None and row < table.base.shape[0]:
            table.still = int(row)
