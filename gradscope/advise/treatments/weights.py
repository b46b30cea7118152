"""First weights of another scale, drawn before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradscope.advise.treatments.places import Place
from gradscope.observe.experiment.intervention import Intervention

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}


class Initialise(Intervention):
    """Give tensors of some layers new first values.

    Args:
        places: the layers.
        scheme: ``kaiming``, ``xavier``, ``tanh`` (Xavier with gain 5/3), ``zeros``, or
            ``recurrent``: an orthogonal matrix for each gate, Xavier for the input's weights.
        of: ``weight`` or ``bias``.
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
            if self.scheme == "recurrent":
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
        else:
            nn.init.xavier_normal_(tensor, gain=5 / 3 if self.scheme == "tanh" else 1.0)

    @torch.no_grad()
    def _recurrent(self, module: nn.Module) -> None:
        kind = next((k for k in _GATES if isinstance(module, getattr(nn, k))), None)
        if kind is None:
            return
        self.applied = True
        for name, tensor in module.named_parameters():
            if name.startswith("weight_hh"):
                size = tensor.shape[0] // _GATES[kind]
                for gate in tensor.split(size):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight"):
                nn.init.xavier_uniform_(tensor)
            elif name.startswith("bias"):
                bound = 1 / math.sqrt(max(tensor.shape[0] // _GATES[kind], 1))
                nn.init.uniform_(tensor, -bound, bound)
                if kind.startswith("LSTM") and name.startswith("bias_ih"):
                    size = tensor.shape[0] // 4
                    # an open forget gate keeps what the cell holds (Jozefowicz et al. 2015)
                    tensor[size : 2 * size] = 1.0
