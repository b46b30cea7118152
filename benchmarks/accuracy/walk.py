"""The layers of a network by name, for the faults that change one of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.accuracy.cases import DoesNotFitError

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.LeakyReLU, nn.ELU)
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.EmbeddingBag, *RECURRENT)


def layers(model: nn.Module) -> list[str]:
    """Names of the trained layers with a weight matrix, from the input to the output."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and any(p.requires_grad for p in module.parameters())
    ]


def maps(model: nn.Module) -> list[str]:
    """Those of ``layers`` that are linear maps or convolutions."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [name for name in layers(model) if isinstance(model.get_submodule(name), kinds)]


def activations(model: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    """Names of the activation modules, of ``kinds`` only if any are given."""
    wanted = kinds or ACTIVATIONS
    return [name for name, module in model.named_modules() if isinstance(module, wanted)]


def feeding(model: nn.Module, activation: str) -> str:
    """The last linear map or convolution before ``activation`` in the order of construction."""
    names = [name for name, _ in model.named_modules()]
    before = [name for name in maps(model) if names.index(name) < names.index(activation)]
    if not before:
        raise DoesNotFitError(f"nothing feeds {activation}")
    return before[-1]


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def wrap(model: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put ``make(module)`` where the module called ``name`` was.

    Raises:
        DoesNotFitError: see ``must_be_called``.
    """
    must_be_called(model, name)
    put(model, name, make(model.get_submodule(name)))


def must_be_called(model: nn.Module, name: str) -> None:
    """Refuse a part whose weights torch reads itself: what stands in its place is never called.

    Raises:
        DoesNotFitError: it is such a part.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.TransformerEncoderLayer | nn.MultiheadAttention):
        raise DoesNotFitError("torch reads the weights of these parts itself")


def middle(names: list[str]) -> str:
    """The name in the middle; the first of two."""
    if not names:
        raise DoesNotFitError("no such layer")
    return names[(len(names) - 1) // 2]
