"""Made-up batches for a model file that has none.

Noise with random targets cannot be learned, and a training on it looks sick. So each batch is drawn
anew from a few classes with a pattern each, which a healthy model of any kind learns to tell apart:
low-frequency patterns for images and series, tokens of its own for text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import LoadError
from gradscope.running.batches import DEFAULT_BATCH, Batches
from gradscope.running.calls import main_tensor, own_loss, sizes, state_kept
from gradscope.running.failures import in_one_line, place, user_traceback
from gradscope.running.input_shapes import Guess, guesses, takes_tokens
from gradscope.running.objects import Names, required

CLASSES = 10
"""Most classes that are made up; a head with more outputs leaves the others unused."""
TOKENS = 64
"""Most tokens that are used: of a large vocabulary each would be seen too rarely to be learned."""
_PATTERN, _NOISE = 0.8, 0.6
"""Shares of pattern and noise: the sum has variance 1 and the classes stay well apart."""


def make_up(
    names: Names, model: nn.Module, shape: tuple[int, ...] | None, seed: int, device: torch.device
) -> tuple[Batches, str]:
    """Batches that the model takes and can learn, and a phrase that says what they are.

    Args:
        names: the user's names; the assumptions go there.
        model: in training mode, on ``device``.
        shape: from ``--input``; None to guess it from the first layers.
        seed: of the data, which draw from a generator of their own.
        device: of the model.

    Raises:
        LoadError: no input can be guessed, or the model does not take it.
    """
    needs = required(model.forward)
    if len(needs) > 1:
        raise LoadError(
            f"no batches were found, and the model's forward needs {', '.join(needs)}",
            where=names.origin,
            hint="define batches(), which yields what the model is trained on",
        )
    guess, output = _fitting(names, model, shape, device)
    tensor = main_tensor(output)
    rule, task = _task(guess, tensor)
    samples = guess.shape[guess.batch_axis]
    if own_loss(output) is None and (tensor is None or samples not in tensor.shape[:2]):
        raise LoadError(
            f"no batches were found, and no targets can be made up for {samples} inputs and an "
            f"output of {sizes(output if tensor is None else tensor)}",
            where=names.origin,
            hint="define batches() and loss(model, batch)",
        )
    shape_out = () if tensor is None else tuple(tensor.shape)
    names.assume(
        f"No batches were found: inputs of {' x '.join(map(str, guess.shape))} are made up, "
        f"{'as --input says' if shape else 'as the layer ' + guess.layer + ' takes them'}, {task}."
    )
    return rule(
        _Maker(guess, shape_out, seed)
    ), f"made-up inputs of {'x'.join(map(str, guess.shape))}"


def _fitting(
    names: Names, model: nn.Module, shape: tuple[int, ...] | None, device: torch.device
) -> tuple[Guess, Any]:
    """The first guess that the model takes, and its output for it."""
    if shape is not None:
        tried: Iterator[Guess] = iter([Guess(shape, "", takes_tokens(model))])
    else:
        tried = guesses(model, names.batch_size or DEFAULT_BATCH)
    first: tuple[Guess, Exception] | None = None
    for guess in tried:
        try:
            with state_kept(model), torch.enable_grad():
                return guess, model(_trial_input(guess).to(device))
        except Exception as error:
            first = first or (guess, error)
    if first is None:
        raise LoadError(
            "no batches were found, and the first layers do not tell which input they take",
            where=names.origin,
            hint="say it, batch first: --input 32,1,28,28; or define batches()",
        )
    guess, failure = first
    dashed = ",".join(map(str, guess.shape))
    raise LoadError(
        f"the model does not take an input of {' x '.join(map(str, guess.shape))}: "
        f"{in_one_line(failure)}",
        where=place(failure),
        hint=("" if shape else f"{dashed} was guessed from the layer {guess.layer}; ")
        + "say the shape that fits, batch first: --input 32,1,28,28; or define batches()",
        user_traceback=user_traceback(failure),
    ) from failure


def _trial_input(guess: Guess) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if guess.vocabulary:
        return torch.randint(min(guess.vocabulary, TOKENS), guess.shape, generator=generator)
    return torch.randn(guess.shape, generator=generator)


@dataclass(frozen=True)
class _Maker:
    """What the batches are made from."""

    guess: Guess
    output: tuple[int, ...]
    """Shape of the model's output; () where it has none or computes its own loss."""
    seed: int


def _task(guess: Guess, output: Tensor | None) -> tuple[Callable[[_Maker], Batches], str]:
    if guess.vocabulary and (output is None or output.ndim == 3):
        return _next_tokens, "tokens that count up from a random one, to be continued"
    if output is None or output.ndim == 0:
        return _inputs_only, f"of {CLASSES} kinds with a pattern each"
    if not guess.vocabulary and output.shape == guess.shape:
        return _inputs_only, "to be reconstructed"
    classes = output.shape[1] if output.ndim == 2 else 0
    if classes > 1:
        return _classes, f"in {min(classes, CLASSES)} classes with a pattern each"
    return _values, f"in {CLASSES} kinds with a pattern and a target each"


def _endless(maker: _Maker, draw: Callable[[torch.Generator], Any]) -> Batches:
    def iterate() -> Iterator[Any]:
        generator = torch.Generator().manual_seed(maker.seed + 1)
        while True:
            yield draw(generator)

    return iterate


def _classes(maker: _Maker) -> Batches:
    inputs = _inputs(maker, min(maker.output[1], CLASSES))
    return _endless(maker, inputs)


def _inputs_only(maker: _Maker) -> Batches:
    inputs = _inputs(maker, CLASSES)
    return _endless(maker, lambda generator: inputs(generator)[:1])


def _values(maker: _Maker) -> Batches:
    inputs, axis = _inputs(maker, CLASSES), maker.guess.batch_axis
    shape = maker.output
    # an output with fewer axes has its batch in front whatever the input has
    axis = axis if len(shape) > 2 else 0
    features = 1 if len(shape) > 3 else len(shape) - 1
    # the same at all positions: a recurrent net cannot know at the start what only the end tells
    own = [size if at == features else 1 for at, size in enumerate(shape) if at != axis]
    generator = torch.Generator().manual_seed(maker.seed)
    targets = torch.randn((CLASSES, *own), generator=generator)
    whole = (shape[axis], *(size for at, size in enumerate(shape) if at != axis))

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, kinds = inputs(generator)
        return x, targets[kinds].expand(whole).movedim(0, axis)

    return _endless(maker, draw)


def _next_tokens(maker: _Maker) -> Batches:
    used = min(maker.guess.vocabulary, TOKENS)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = maker.guess.shape
        start = torch.randint(used, (*shape[:-1], 1), generator=generator)
        # counting up, so that a model that shifts its labels itself can learn them as well
        x = (start + torch.arange(shape[-1])) % used
        return x, (x + 1) % used

    return _endless(maker, draw)


def _inputs(maker: _Maker, kinds: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """A function that draws inputs and the kind of each sample."""
    guess, fixed = maker.guess, torch.Generator().manual_seed(maker.seed)
    size, axis = guess.shape[guess.batch_axis], guess.batch_axis
    rest = guess.shape[:axis] + guess.shape[axis + 1 :]
    if guess.vocabulary:
        used = min(guess.vocabulary, TOKENS)
        own = max(1, used // kinds)

        def tokens(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            kind = torch.randint(kinds, (size,), generator=generator)
            offsets = torch.randint(own, (size, *rest), generator=generator)
            x = offsets + own * kind.reshape(-1, *(1,) * len(rest))
            return (x % used).movedim(0, axis), kind

        return tokens
    patterns = _patterns(kinds, rest, fixed)

    def values(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kind = torch.randint(kinds, (size,), generator=generator)
        noise = torch.randn((size, *rest), generator=generator)
        return (_PATTERN * patterns[kind] + _NOISE * noise).movedim(0, axis), kind

    return values


def _patterns(kinds: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random patterns ``[kinds, *shape]``; axes after the first of an image are low-frequency.

    A convolution that pools over all positions cannot see a pattern that is white noise.
    """
    if len(shape) < 2:
        return torch.randn((kinds, *shape), generator=generator)
    coarse = tuple(min(4, side) for side in shape[1:])
    small = torch.randn((kinds, shape[0], *coarse), generator=generator)
    if len(coarse) > 3:
        return torch.randn((kinds, *shape), generator=generator)
    return nn.functional.interpolate(small, size=shape[1:], mode="nearest")
