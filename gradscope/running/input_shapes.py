"""Which input a model takes, guessed from its first layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

SEQUENCE = 16
"""Length of a made-up sequence."""
_LENGTHS = (64, 128, 32, 256, 1024, 16_000)
_SIDES = (28, 32, 64, 224, 8, 16, 96, 128, 299, 256)
_CUBES = (16, 32, 8, 64)
_SPATIAL = {1: _LENGTHS, 2: _SIDES, 3: _CUBES}


@dataclass(frozen=True, slots=True)
class Guess:
    """An input that a layer would take.

    Attributes:
        shape: with the batch axis.
        layer: the layer that it was guessed from, in words: ```fc1` (Linear)``.
        vocabulary: number of tokens where the input is whole numbers, else 0.
        batch_axis: 0, or 1 for a recurrent layer that takes the time first.
    """

    shape: tuple[int, ...]
    layer: str
    vocabulary: int = 0
    batch_axis: int = 0


def guesses(model: nn.Module, batch: int) -> Iterator[Guess]:
    """Inputs that the model may take, likeliest first: by layer in the order of registration."""
    for name, module in model.named_modules():
        layer = f"`{name or type(module).__name__}` ({type(module).__name__})"
        for shape, vocabulary, axis in _of_layer(module, batch):
            yield Guess(shape, layer, vocabulary, axis)


def takes_tokens(model: nn.Module) -> int:
    """Size of the vocabulary if the first layer that tells is an embedding, else 0."""
    return next((guess.vocabulary for guess in guesses(model, 1)), 0)


def _of_layer(module: nn.Module, batch: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
    if isinstance(module, nn.Linear):
        yield (batch, module.in_features), 0, 0
        yield (batch, SEQUENCE, module.in_features), 0, 0
    elif isinstance(module, nn.modules.conv._ConvNd):
        axes = len(module.kernel_size)
        for size in _SPATIAL[axes]:
            yield (batch, module.in_channels, *(size,) * axes), 0, 0
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield (batch, SEQUENCE), module.num_embeddings, 0
        yield (batch,), module.num_embeddings, 0
    elif isinstance(module, nn.RNNBase):
        if module.batch_first:
            yield (batch, SEQUENCE, module.input_size), 0, 0
        else:
            yield (SEQUENCE, batch, module.input_size), 0, 1
    elif isinstance(module, nn.MultiheadAttention):
        yield (batch, SEQUENCE, module.embed_dim), 0, 0
    elif isinstance(module, nn.LayerNorm):
        yield (batch, *module.normalized_shape), 0, 0
    elif isinstance(module, nn.BatchNorm1d):
        yield (batch, module.num_features), 0, 0
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        axes = 2 if isinstance(module, nn.BatchNorm2d) else 3
        yield (batch, module.num_features, *(_SPATIAL[axes][0],) * axes), 0, 0
