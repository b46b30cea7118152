"""One call of a root in the open step, and the gradient that came back to its outputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from gradscope.observe.birth.snapshot import Snapshot

CALLS = 4
"""Root calls kept. Before a fifth pushes out the first, the gradients so far are looked at."""
KEPT = 2**22
"""Elements of outputs whose gradients are kept until the update, all calls together: 16 MiB."""


class KeptCall:
    """What a replay of this call needs.

    Attributes:
        root: the module that was called.
        snapshot: the state before.
        gradients: the gradient that came back to each output that requires grad, None where none
            came; empty where they are not kept.
        kept: elements of those outputs.
    """

    def __init__(self, root: nn.Module, snapshot: Snapshot) -> None:
        self.root = root
        self.snapshot = snapshot
        self.gradients: list[Tensor | None] = []
        self.kept = 0

    def watch(self, heads: Sequence[Tensor], size: int) -> None:
        """Keep the gradient that comes back to each of ``heads``, of ``size`` elements in all."""
        self.kept = size
        self.gradients = [None] * len(heads)
        for index, head in enumerate(heads):
            head.register_hook(self._keeper(index))

    def silent(self) -> bool:
        """Whether it is known that no gradient came back: the call has no part in the loss."""
        return bool(self.gradients) and all(gradient is None for gradient in self.gradients)

    def _keeper(self, index: int) -> Callable[[Tensor], None]:
        # a graph that the user keeps must not keep what the step has dropped
        me = weakref.ref(self)

        def keep(gradient: Tensor) -> None:
            call = me()
            if call is not None:
                call._arrived(index, gradient)

        return keep

    def _arrived(self, index: int, gradient: Tensor) -> None:
        before, gradient = self.gradients[index], gradient.detach()
        # an output of which two backward calls take the gradient
        self.gradients[index] = gradient if before is None else before + gradient
