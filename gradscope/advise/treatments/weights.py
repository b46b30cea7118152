"""First weights of another scale, drawn before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradscope.advise.treatments.places import Place
from gradscope.observe.experiment.intervention import Intervention

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}
_RECURRENT = ("recurrent", "identity", "shrinking", "forget")
_ORTHOGONAL = {"orthogonal": 1.0, "orthogonal-relu": math.sqrt(2), "orthogonal-tanh": 5 / 3}


class Initialise(Intervention):
    """Give tensors of some layers new first values.

    Args:
        places: the layers.
        scheme: ``kaiming``, ``xavier``, ``tanh`` (Xavier with gain 5/3), ``orthogonal``,
            ``orthogonal-relu`` (gain √2), ``orthogonal-tanh`` (gain 5/3), ``embedding``, ``zeros``;
            of a recurrent layer ``recurrent`` (an orthogonal matrix for each gate, Xavier for the
            input's weights, biases 0, an open forget gate), ``identity``, ``shrinking`` (0.9 times
            it) or ``forget`` (an open forget gate only).
        of: ``weight`` or ``bias``; recurrent layers are set as a whole.
    """

    def __init__(self, places: Sequence[Place], scheme: str, of: str = "weight") -> None:
        super().__init__()
        self.places, self.scheme, self.of = tuple(places), scheme, of

    def model(self, root: nn.Module) -> None:
        """Draw the values."""
        for place in self.places:
            module = place.of(root)
            if module is None:
                continue
            if self.scheme in _RECURRENT:
                self._recurrent(module)
                continue
            tensor = getattr(module, self.of, None)
            if isinstance(tensor, Tensor):
                self._draw(tensor)

    @torch.no_grad()
    def _draw(self, tensor: Tensor) -> None:
        self.applied = True
        if self.scheme == "zeros":
            nn.init.zeros_(tensor)
        elif self.scheme == "kaiming":
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif self.scheme == "embedding":
            nn.init.normal_(tensor)
        elif self.scheme in _ORTHOGONAL:
            nn.init.orthogonal_(tensor, gain=_ORTHOGONAL[self.scheme])
        else:
            nn.init.xavier_normal_(tensor, gain=5 / 3 if self.scheme == "tanh" else 1.0)

    @torch.no_grad()
    def _recurrent(self, module: nn.Module) -> None:
        kind = next((k for k in _GATES if isinstance(module, getattr(nn, k))), None)
        if kind is None:
            return
        gates = _GATES[kind]
        for name, tensor in module.named_parameters():
            bias, hidden = name.startswith("bias"), name.startswith("weight_hh")
            if self.scheme in ("identity", "shrinking"):
                if hidden and gates == 1:
                    self.applied = True
                    nn.init.eye_(tensor).mul_(0.9 if self.scheme == "shrinking" else 1.0)
                elif bias and gates == 1:
                    nn.init.zeros_(tensor)
                continue
            if bias and self.scheme == "recurrent":
                nn.init.zeros_(tensor)
            if bias and gates == 4:
                self.applied = True
                # an open forget gate keeps what the cell holds (Jozefowicz et al. 2015)
                tensor.chunk(4)[1].fill_(1.0 if name.startswith("bias_ih") else 0.0)
            if self.scheme == "forget" or bias:
                continue
            self.applied = True
            if hidden:
                for gate in tensor.chunk(gates):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_uniform_(tensor)
