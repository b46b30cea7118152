"""Faults of the weights a network starts from and of its activations."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import DoesNotFitError, Draft, Fault

_RECTIFIERS = (nn.ReLU, nn.GELU, nn.SiLU)
_BOUNDED = (nn.Tanh, nn.Sigmoid)


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.dim() >= 2]


def _scale(draft: Draft, names: list[str], factor: float) -> None:
    with torch.no_grad():
        for name in names:
            for weight in _matrices(draft.model.get_submodule(name)):
                weight *= factor
    draft.at_fault = tuple(names)


def scaled_everywhere(draft: Draft, level: float) -> None:
    """All weights times ``level``."""
    names = walk.layers(draft.model)
    if len(names) < 3:
        raise DoesNotFitError("too shallow")
    _scale(draft, names, level)


def scaled_layer(draft: Draft, level: float) -> None:
    """The weights of one layer in the middle times ``level``."""
    names = walk.maps(draft.model)[:-1]
    _scale(draft, [walk.middle(names)], level)


def equal_weights(draft: Draft, level: float) -> None:
    """All weights of hidden maps equal, but for ``level`` times a random part."""
    names = walk.maps(draft.model)[:-1]
    if not names:
        raise DoesNotFitError("no hidden map")
    with torch.no_grad():
        for name in names:
            weight = draft.model.get_submodule(name).weight
            weight.copy_((1 + level * torch.randn_like(weight)) / weight[0].numel())
    draft.at_fault = tuple(names)


def one_signed(draft: Draft, level: float) -> None:
    """A share of ``level`` of the weights of hidden maps loses its sign."""
    names = walk.maps(draft.model)[:-1]
    if len(names) < 2:
        raise DoesNotFitError("too shallow")
    with torch.no_grad():
        for name in names:
            weight = draft.model.get_submodule(name).weight
            weight.copy_(torch.where(torch.rand_like(weight) < level, weight.abs(), weight))
    draft.at_fault = tuple(names)


def zero_weights(draft: Draft, level: float) -> None:
    """Exactly zero weights in one hidden map (level 1) or in all (level 2)."""
    names = walk.maps(draft.model)[:-1]
    _scale(draft, [walk.middle(names)] if level == 1 else names, 0.0)
    # rectifiers behind a map of zeros are dead: they are as good a place to name
    draft.at_fault += tuple(
        name
        for name in walk.activations(draft.model, *_RECTIFIERS)
        if walk.feeding(draft.model, name) in draft.at_fault
    )


def sigmoid_activations(draft: Draft, level: float) -> None:
    """The last ``level`` activations become sigmoids."""
    names = walk.activations(draft.model)
    if len(names) < 4:
        raise DoesNotFitError("too shallow")
    names = names[-int(level) :]
    feeding = [walk.feeding(draft.model, name) for name in names]
    for name in names:
        walk.put(draft.model, name, nn.Sigmoid())
    draft.at_fault = (*names, *feeding)


def _bias_before(model: nn.Module, activation: str) -> tuple[str, nn.Parameter]:
    names = [name for name, _ in model.named_modules()]
    for name in reversed(names[: names.index(activation)]):
        bias = getattr(model.get_submodule(name), "bias", None)
        if isinstance(bias, nn.Parameter) and bias.dim() == 1:
            return name, bias
    raise DoesNotFitError(f"no bias before {activation}")


def _shift(draft: Draft, names: list[str], amount: float) -> None:
    at_fault = []
    for name in names:
        layer, bias = _bias_before(draft.model, name)
        with torch.no_grad():
            bias += amount
        at_fault += [layer, name]
    draft.at_fault = tuple(at_fault)


def dead_layer(draft: Draft, level: float) -> None:
    """The units of one layer are pushed down by ``level``."""
    _shift(draft, [walk.middle(walk.activations(draft.model, *_RECTIFIERS))], -level)


def dead_layers(draft: Draft, level: float) -> None:
    """The units of all layers are pushed down by ``level``."""
    names = walk.activations(draft.model, *_RECTIFIERS)
    if not names:
        raise DoesNotFitError("no rectifier")
    _shift(draft, names, -level)


def saturated_layer(draft: Draft, level: float) -> None:
    """The units of one bounded activation are pushed up or down by ``level``, in turns."""
    name = walk.middle(walk.activations(draft.model, *_BOUNDED))
    layer, bias = _bias_before(draft.model, name)
    with torch.no_grad():
        bias += level * torch.ones_like(bias) * (1 - 2 * (torch.arange(len(bias)) % 2))
    draft.at_fault = (layer, name)


def saturated_layers(draft: Draft, level: float) -> None:
    """Weights before all bounded activations times ``level``."""
    names = walk.activations(draft.model, *_BOUNDED)
    if not names:
        raise DoesNotFitError("no bounded activation")
    feeding = [walk.feeding(draft.model, name) for name in names]
    _scale(draft, list(dict.fromkeys(feeding)), level)
    draft.at_fault += tuple(names)


def collapsed(draft: Draft, level: float) -> None:
    """The layer before the head gives nearly the same for all samples: ``level`` of its signal."""
    names = walk.maps(draft.model)[:-1]
    if not names:
        raise DoesNotFitError("no hidden map")
    layer = draft.model.get_submodule(names[-1])
    if layer.bias is None:
        raise DoesNotFitError("no bias")
    with torch.no_grad():
        layer.weight *= level
        layer.bias += 1 - level
    draft.at_fault = (names[-1],)


def _recurrent(draft: Draft) -> list[str]:
    found = [n for n, m in draft.model.named_modules() if isinstance(m, walk.RECURRENT)]
    if not found:
        raise DoesNotFitError("not recurrent")
    return found


def scaled_recurrence(draft: Draft, level: float) -> None:
    """The recurrent weights times ``level``."""
    names = _recurrent(draft)
    with torch.no_grad():
        for name in names:
            for key, weight in draft.model.get_submodule(name).named_parameters():
                if key.startswith("weight_hh"):
                    weight *= level
    draft.at_fault = tuple(names)


def closed_gates(draft: Draft, level: float) -> None:
    """The forget gates of an LSTM, or a GRU's update gates, start at ``-level``."""
    names = _recurrent(draft)
    with torch.no_grad():
        for name in names:
            module = draft.model.get_submodule(name)
            if isinstance(module, nn.RNN):
                raise DoesNotFitError("no gates")
            size = module.hidden_size
            for key, bias in module.named_parameters():
                if key.startswith("bias_ih"):
                    bias[size : 2 * size] -= level
    draft.at_fault = tuple(names)


FAULTS: tuple[Fault, ...] = (
    Fault("small-weights", ("GS101", "GS404"), (0.7, 0.3, 0.1, 0.02), scaled_everywhere),
    Fault("small-layer", ("GS101", "GS404"), (0.3, 1e-2, 1e-4), scaled_layer),
    Fault("sigmoid-chain", ("GS101",), (1, 3, 20), sigmoid_activations),
    Fault("small-recurrence", ("GS101", "GS404"), (0.5, 0.1, 0.0), scaled_recurrence),
    Fault("closed-gates", ("GS101", "GS302"), (1, 4, 20), closed_gates),
    Fault("large-weights", ("GS102", "GS404"), (1.4, 4, 10, 30), scaled_everywhere),
    Fault("large-layer", ("GS102", "GS404"), (3, 30, 300), scaled_layer),
    Fault("large-recurrence", ("GS102", "GS404"), (1.3, 3, 10), scaled_recurrence),
    Fault("equal-weights", ("GS404",), (3.0, 0.1, 0.0), equal_weights),
    Fault("one-signed-weights", ("GS404", "GS102", "GS303"), (0.2, 1.0), one_signed),
    Fault("zero-weights", ("GS404", "GS104", "GS301"), (1, 2), zero_weights),
    Fault("dead-layer", ("GS301",), (0.3, 3, 30), dead_layer),
    Fault("dead-layers", ("GS301",), (0.1, 1, 10), dead_layers),
    Fault("saturated-layer", ("GS302",), (0.5, 4, 20), saturated_layer),
    Fault("saturated-layers", ("GS302", "GS404", "GS102"), (1.5, 10, 100), saturated_layers),
    Fault("collapsed", ("GS303", "GS404", "GS101"), (0.5, 1e-2, 1e-4), collapsed),
)
