"""``trace``: one training step of the user's own model, taken apart."""

from __future__ import annotations

import html
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope import config
from gradscope.anatomy.facts import Anatomy
from gradscope.anatomy.samples import Samples, samples, worst
from gradscope.anatomy.step import About, take_apart
from gradscope.anatomy.subject import Names, Subject, traced_mode
from gradscope.diagnose.wording import number
from gradscope.errors import StepError, UsageError
from gradscope.report import trace_formats
from gradscope.running.failures import user_code
from gradscope.running.importing import surroundings
from gradscope.running.loading import Workload, from_objects, load
from gradscope.running.optimizers import needs_closure
from gradscope.running.restoring import left_as_it_was
from gradscope.running.seeds import random_states_kept, seed_all
from gradscope.running.target import parse
from gradscope.running.training import Progress, train
from gradscope.session.judging import write
from gradscope.session.variables import variable_of

TIME_LIMIT = 60.0
"""Seconds after which no further step is trained before the trace."""


@dataclass(frozen=True)
class Asked:
    """What is to be traced.

    Attributes:
        sample: index in the batch, ``worst``, or ``all`` for the whole batch as one.
        steps: training steps before the one that is taken apart.
        integrated: also integrated gradients.
        training: dropout and batch norms as in training.
        image: rows and columns of a flattened picture.
    """

    sample: int | str = "worst"
    steps: int = 0
    integrated: bool = False
    training: bool = False
    image: tuple[int, int] | None = None


class Trace:
    """One training step taken apart.

    Attributes:
        anatomy: all that was found out, see ``gradscope.anatomy.facts``.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    def report(self, path: str | Path) -> Path:
        """Write it; the suffix decides the format: .html, .json, .md, .xml, .sarif, .txt.

        Returns:
            The path.
        """
        text = trace_formats.render(self.anatomy, trace_formats.format_for(path))
        return write(Path(path), text)

    def __str__(self) -> str:
        return trace_formats.render(self.anatomy, "full").rstrip()

    def __repr__(self) -> str:
        held = sum(identity.holds for identity in self.anatomy.identities)
        return (
            f"<Trace of {self.anatomy.model}, {self.anatomy.sample}: "
            f"{held} of {len(self.anatomy.identities)} identities hold>"
        )

    def _repr_html_(self) -> str:
        page = html.escape(trace_formats.render(self.anatomy, "html"))
        # a frame of its own: the page's styles and scripts stay out of the notebook
        return f'<iframe srcdoc="{page}" style="width:100%;height:40em;border:0"></iframe>'


def trace(
    target: str | Path | nn.Module,
    batch: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    sample: int | str = "worst",
    steps: int = 0,
    integrated_gradients: bool = False,
    training: bool = False,
    class_names: Sequence[str] = (),
    feature_names: Sequence[str] = (),
    token_names: Sequence[str] | Mapping[int, str] = (),
    image: tuple[int, int] | None = None,
    input: Sequence[int] | str | None = None,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> Trace:
    """Take one training step apart: forward, prediction, loss, chain rule, inputs, update.

    Args:
        target: ``model.py`` or ``model.py:object``, imported afresh, or an ``nn.Module``, which is
            afterwards as it was before: weights, buffers, gradients, optimizer, random states.
        batch: for a module: a batch (a tensor, a tuple of tensors or a dict), or anything else that
            ``check`` takes as ``batches``; None to make inputs up.
        loss: for a module: ``loss(model, batch)`` or ``criterion(output, target)``; None to infer.
        optimizer: for a module: an optimizer, or a function of the model; None for AdamW.
        sample: index in the batch, ``"worst"`` for the one with the largest loss, or ``"all"`` for
            the whole batch as one.
        steps: training steps before the one that is taken apart.
        integrated_gradients: also integrated gradients, which take some dozens of passes.
        training: with dropout and batch norms as in training, instead of as when the model answers.
        class_names: a name for each class.
        feature_names: a name for each input feature.
        token_names: a name for each token, by its number.
        image: rows and columns of a flattened picture; None to see for oneself.
        input: shape of made-up inputs, batch axis first.
        seed: of torch, numpy and random, 0 by default.
        device: for a file: where to run it, the CPU by default. A module stays where it is.
        batch_size: samples in a batch, where gradscope makes the batches.

    Raises:
        UsageError: an argument that cannot be used, such as a sample that the batch does not have.
        LoadError: the file cannot be imported, or a part is missing or does not fit.
        StepError: the model failed.
    """
    settings = config.settings().with_flags(
        input=input, seed=seed, device=device, batch_size=batch_size
    )
    asked = Asked(sample, steps, integrated_gradients, training, image)
    names = Names(tuple(class_names), tuple(feature_names), token_names, image)
    if not isinstance(target, nn.Module):
        if (batch, loss, optimizer) != (None, None, None):
            raise UsageError(
                "batch, loss and optimizer belong to a module",
                hint="put them into the file under these names, or give the module itself",
            )
        return Trace(trace_file(str(target), settings, asked, names=names))
    label = variable_of(target, sys._getframe(1)) or "model"
    with left_as_it_was(target, optimizer):
        seed_all(settings.seed)
        workload = from_objects(
            target, batches=batch, loss=loss, optimizer=optimizer, label=label,
            input_shape=settings.input, batch_size=settings.batch_size, seed=settings.seed,
        )  # fmt: skip
        return Trace(trace_workload(workload, asked, names, settings.seed))


def trace_file(
    target: str,
    settings: config.Settings,
    asked: Asked,
    *,
    names: Names | None = None,
    loaded: Callable[[Workload], None] | None = None,
    progress: Any = None,
) -> Anatomy:
    """``trace`` of a file.

    Args:
        target: ``model.py[:object]``.
        settings: what is in force.
        asked: what is to be traced.
        names: of classes, features and tokens; what is empty is taken from the file.
        loaded: told what was found in the file.
        progress: entered for the training before; gives what is told of each step.
    """
    file = parse(target).file
    with surroundings(file), random_states_kept():
        workload = load(
            target, input_shape=settings.input, device=settings.device,
            batch_size=settings.batch_size, seed=settings.seed,
        )  # fmt: skip
        if loaded is not None:
            loaded(workload)
        known = names_in(vars(sys.modules[file.stem]), names or Names(), asked.image)
        line = _command_line(target, settings, asked)
        return trace_workload(workload, asked, known, settings.seed, line, progress)


def trace_workload(
    workload: Workload,
    asked: Asked,
    names: Names,
    seed: int,
    reproduce: str = "",
    progress: Any = None,
) -> Anatomy:
    """Train for the steps that were asked for, then take one step apart.

    The model is changed; who wants it back as it was puts it back.

    Raises:
        UsageError: the batch has no such sample.
        StepError: the user's code failed.
    """
    if asked.steps:
        told: Progress | None = None
        if progress is None:
            train(workload, steps=asked.steps, seconds=TIME_LIMIT)
        else:
            with progress as told:
                train(workload, steps=asked.steps, seconds=TIME_LIMIT, progress=told)
    with user_code(StepError, "the batch of the traced step"):
        batch = next(iter(workload.batches()))
    steady = _steady(seed)

    def see_batch() -> Tensor:
        with user_code(StepError, "a forward pass over the batch"), steady():
            return workload.loss(workload.model, batch)

    with (
        traced_mode(workload.model, training=asked.training, see_batch=see_batch) as mode,
        _without_graph_limits(),
    ):
        chosen, said, notes = _sample(workload, batch, asked, steady)
        subject = Subject(
            workload.model, chosen, _guarded(workload), workload.optimizer, steady, names,
            whole=batch if said != _ALL else None, closure=needs_closure(workload.optimizer),
        )  # fmt: skip
        about = About(
            workload.target, said, mode, asked.steps, (*workload.assumptions, *notes), reproduce
        )
        return take_apart(subject, about, integrated=asked.integrated)


_ALL = "the whole batch"
_CLASS_NAMES = ("class_names", "classes", "CLASSES", "target_names", "label_names")
_FEATURE_NAMES = ("feature_names", "FEATURES", "columns")
_TOKEN_NAMES = ("token_names", "vocabulary", "vocab", "itos", "VOCABULARY", "VOCAB")


def names_in(found: Mapping[str, Any], given: Names, image: tuple[int, int] | None) -> Names:
    """Names of classes, features and tokens from the user's file; what was given comes first."""

    def texts(keys: Sequence[str]) -> tuple[str, ...]:
        for key in keys:
            value = found.get(key)
            if isinstance(value, str) and value:
                # characters as tokens: "abc…"
                return tuple(value)
            if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
                return tuple(value)
        return ()

    tokens: Any = given.tokens or texts(_TOKEN_NAMES)
    if not tokens:
        for key in _TOKEN_NAMES:
            value = found.get(key)
            if isinstance(value, dict) and value:
                tokens = {v: k for k, v in value.items()} if _by_text(value) else value
                break
    return replace(
        given,
        classes=given.classes or texts(_CLASS_NAMES),
        features=given.features or texts(_FEATURE_NAMES),
        tokens=tokens,
        image=image or given.image,
    )


def _by_text(table: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(v, int) for key, v in table.items())


def _steady(seed: int) -> Callable[[], Any]:
    @contextmanager
    def steady() -> Iterator[None]:
        with random_states_kept():
            seed_all(seed)
            yield

    return steady


@contextmanager
def _without_graph_limits() -> Iterator[None]:
    """With gradients on, whatever the caller switched off."""
    with torch.enable_grad():
        yield


def _guarded(workload: Workload) -> Callable[[nn.Module, Any], Tensor]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        with user_code(StepError, "the traced step"):
            value = workload.loss(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            kind = type(value).__name__ if not isinstance(value, Tensor) else f"{value.shape}"
            raise StepError(
                f"the loss of the traced step is no single number but {kind}",
                hint="return the tensor itself, reduced, for example with .mean()",
            )
        if not value.requires_grad:
            raise StepError(
                "the loss of the traced step does not require grad: no parameter takes part in it",
                hint="look for detach(), .data, no_grad(), argmax or numpy on the way to the loss",
            )
        return value.reshape(())

    return loss


def _sample(
    workload: Workload, batch: Any, asked: Asked, steady: Callable[[], Any]
) -> tuple[Any, str, tuple[str, ...]]:
    """The sample as a batch, which one it is in words, and notes about the choice."""
    if asked.sample == "all":
        return batch, _ALL, ()
    found = samples(batch)
    if found is None:
        return batch, _ALL, ("The batch could not be split into samples: it is traced as a whole.",)
    if isinstance(asked.sample, int):
        if not 0 <= asked.sample < found.count:
            raise UsageError(
                f"there is no sample {asked.sample}: the batch has {found.count}",
                hint=f"give a number from 0 to {found.count - 1}, worst or all",
            )
        return found.take(asked.sample), f"sample {asked.sample} of {found.count}", ()
    return _worst(workload, batch, found, steady)


def _worst(
    workload: Workload, batch: Any, found: Samples, steady: Callable[[], Any]
) -> tuple[Any, str, tuple[str, ...]]:
    def alone(one: Any) -> float:
        with steady(), torch.no_grad():
            return float(workload.loss(workload.model, one))

    try:
        index, losses = worst(found, alone)
    except Exception:
        return batch, _ALL, ("The model does not take one sample alone: the batch is traced.",)
    looked = "" if len(losses) == found.count else f" of the first {len(losses)}"
    text = (
        f"sample {index} of {found.count}, the one with the largest loss{looked} "
        f"({number(losses[index])}; the mean is {number(sum(losses) / len(losses))})"
    )
    return found.take(index), text, ()


def _command_line(target: str, settings: config.Settings, asked: Asked) -> str:
    words = ["gradscope", "trace", target, "--sample", str(asked.sample)]
    if asked.steps:
        words += ["--steps", str(asked.steps)]
    words += ["--integrated-gradients"] if asked.integrated else []
    words += ["--training"] if asked.training else []
    if asked.image:
        words += ["--image", "x".join(map(str, asked.image))]
    default = config.Settings()
    for flag in ("input", "seed", "device", "batch_size"):
        value = getattr(settings, flag)
        if value != getattr(default, flag):
            shown = ",".join(map(str, value)) if flag == "input" else str(value)
            words += [f"--{flag.replace('_', '-')}", shown]
    return shlex.join(words)
