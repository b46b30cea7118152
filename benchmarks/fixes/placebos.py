"""Edits that change nothing that matters: none of them may be called a help."""

from __future__ import annotations

import torch
from torch import nn

from gradscope.observe.experiment.intervention import Intervention, NoOp


class Shuffled(Intervention):
    """The first weights of each matrix in another order: another draw of the same distribution."""

    def model(self, root: nn.Module) -> None:
        """Shuffle them."""
        with torch.no_grad():
            for parameter in root.parameters():
                if parameter.dim() > 1 and parameter.requires_grad:
                    order = torch.randperm(parameter.numel())
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
        self.applied = True


PLACEBOS: tuple[tuple[str, tuple[Intervention, ...], int], ...] = (
    ("nothing, other seeds", (), 3),
    ("a hook that hands on, other seeds", (NoOp(),), 6),
    ("shuffled first weights", (Shuffled(),), 0),
)
"""Name, changes, and what is added to the number of the seed.

With the control's own seeds the first two are the control, bit for bit: every trial tests that.
"""
