"""The initialisations that gradscope knows, and the spread that each gives a weight."""

from __future__ import annotations

import math

from gradscope.advise.standing_init import Scheme

KAIMING = Scheme("kaiming_normal_", 'nonlinearity="relu"')
XAVIER = Scheme("xavier_normal_")
TANH = Scheme("xavier_normal_", "gain=5 / 3")
"""5/3 is torch's calculate_gain("tanh")."""
NORMAL = Scheme("normal_")
"""What torch draws for an embedding."""
ORTHOGONAL = Scheme("orthogonal_")
ORTHOGONAL_RELU = Scheme("orthogonal_", "gain=2**0.5")
ORTHOGONAL_TANH = Scheme("orthogonal_", "gain=5 / 3")
"""Saxe et al. 2014, with the gains of Xavier's and Kaiming's rules."""
ZERO_BIAS = Scheme("zeros_", of="bias")

GATES = Scheme("", words="orthogonal matrices")
"""Each gate's recurrent matrix keeps the norm of the state; no single call sets it."""
IDENTITY = Scheme("", words="the identity")
"""A plain recurrent layer that hands its state on at first (Le et al. 2015)."""
SHRINKING = Scheme("", words="0.9 times the identity")
"""... and forgets slowly: the scaled identity of the same paper, where a state grows."""
FORGET = Scheme("", words="open forget gates (bias 1)", of="bias")
"""An LSTM keeps at first what its cell holds (Jozefowicz et al. 2015)."""

LIVE = {
    KAIMING: "kaiming", XAVIER: "xavier", TANH: "tanh", NORMAL: "embedding", ZERO_BIAS: "zeros",
    ORTHOGONAL: "orthogonal", ORTHOGONAL_RELU: "orthogonal-relu",
    ORTHOGONAL_TANH: "orthogonal-tanh", GATES: "recurrent", IDENTITY: "identity",
    SHRINKING: "shrinking", FORGET: "forget",
}  # fmt: skip
"""What ``treatments.weights.Initialise`` calls them."""
AS_ORTHOGONAL = {KAIMING: ORTHOGONAL_RELU, XAVIER: ORTHOGONAL, TANH: ORTHOGONAL_TANH}
"""For each scheme of independent numbers the orthogonal one of the same gain."""


def wanted_std(scheme: Scheme, fan_in: float, fan_out: float) -> float:
    """Standard deviation that the scheme gives a weight (He 2015, eq. 10; Glorot 2010, eq. 16)."""
    if scheme == KAIMING:
        return math.sqrt(2 / fan_in)
    if scheme == NORMAL:
        return 1.0
    if scheme == GATES:
        # rows of norm 1 in a square matrix
        return math.sqrt(1 / fan_in)
    gain = 5 / 3 if scheme == TANH else 1.0
    return gain * math.sqrt(2 / (fan_in + fan_out))
