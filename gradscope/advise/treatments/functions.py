"""Changes of single calls of torch's functions, on the lines that the recording names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.advise.treatments.modules import activated
from gradscope.advise.treatments.places import is_at
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.frames import Site


class _AtLine(Intervention, ABC):
    """Acts on calls of ``operation`` on some lines of a file; ``operation`` None: of any."""

    def __init__(self, file: str, lines: Iterable[int], operation: str) -> None:
        super().__init__()
        self.file, self.lines, self.operation = file, tuple(sorted(set(lines))), operation
        self.operations = frozenset({operation})  # type: ignore[misc]

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        if name != self.operation or not is_at(site, self.file, self.lines):
            return NotImplemented
        result = self.instead(function, args, kwargs)
        if result is not NotImplemented:
            self.applied = True
        return result

    @abstractmethod
    def instead(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What stands for the call."""


class ReplaceCalls(_AtLine):
    """Another activation in place of a functional one."""

    def __init__(
        self, file: str, lines: Iterable[int], operation: str, activation: str, slope: float = 0.01
    ) -> None:
        super().__init__(file, lines, operation)
        self.activation, self.slope = activation, slope

    def instead(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The new activation of the same operand."""
        operand = args[0] if args else kwargs.get("input")
        return activated(self.activation, self.slope, operand)


class AddEpsilon(_AtLine):
    """A small term on the operand of a logarithm or a root, or on a divisor."""

    def __init__(self, file: str, lines: Iterable[int], operation: str, term: float) -> None:
        super().__init__(file, lines, operation)
        self.term = term

    def instead(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The call with the term."""
        # 1 / x is called as x.__rtruediv__(1)
        divides = self.operation == "div" and getattr(function, "__name__", "") != "__rtruediv__"
        at = 1 if divides else 0
        if len(args) <= at or not isinstance(args[at], Tensor):
            return NotImplemented
        return function(*args[:at], args[at] + self.term, *args[at + 1 :], **kwargs)


class Clamp(_AtLine):
    """The operand is kept inside the range in which the operation is finite."""

    def __init__(
        self,
        file: str,
        lines: Iterable[int],
        operation: str,
        low: float | None,
        high: float | None,
    ) -> None:
        super().__init__(file, lines, operation)
        self.low, self.high = low, high

    def instead(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The call of the clamped operand."""
        if not args or not isinstance(args[0], Tensor):
            return NotImplemented
        return function(args[0].clamp(self.low, self.high), *args[1:], **kwargs)


class ZeroInfinity(_AtLine):
    """A CTC loss gives samples whose target is too long neither a loss nor a gradient."""

    def instead(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The call with ``zero_infinity``, its seventh argument."""
        return function(*args[:6], **{**kwargs, "zero_infinity": True})


class JoinedLogarithm(Intervention):
    """``log(softmax(x))`` on the recorded line as one operation that cannot underflow."""

    operations = frozenset({"log", "softmax", "sigmoid"})

    def __init__(self, file: str, lines: Iterable[int]) -> None:
        super().__init__()
        self.file, self.lines = file, tuple(sorted(set(lines)))
        self._made: list[tuple[Tensor, Tensor]] = []

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """Remember the inner call's other form, and hand it out for the logarithm."""
        if name != "log":
            result = function(*args, **kwargs)
            joined = functional.log_softmax if name == "softmax" else functional.logsigmoid
            kept = {k: v for k, v in kwargs.items() if k in ("dim", "input")}
            self._made = [*self._made[-3:], (result, joined(*args[:2], **kept))]
            return result
        if args and is_at(site, self.file, self.lines):
            for inner, logarithm in self._made:
                if inner is args[0]:
                    self.applied = True
                    return logarithm
        return NotImplemented


class KeepGraph(Intervention):
    """What cuts the graph on a line hands its input on instead; ``no_grad`` there has no effect."""

    operations = frozenset({"detach", "data", "tensor", "as_tensor"})

    def __init__(self, file: str, lines: Iterable[int], operation: str) -> None:
        super().__init__()
        self.file, self.lines, self.operation = file, tuple(sorted(set(lines))), operation
        self.mode = operation in ("no_grad", "inference_mode")
        if self.mode:
            self.operations = EVERY  # type: ignore[misc]

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        if not is_at(site, self.file, self.lines):
            return NotImplemented
        if self.mode:
            # leaving the block is a call, too, which must have its effect
            if torch.is_grad_enabled() or "grad_enabled" in name:
                return NotImplemented
            self.applied = True
            with torch.enable_grad():
                return function(*args, **kwargs)
        if name != self.operation or not args or not isinstance(args[0], Tensor):
            return NotImplemented
        self.applied = True
        return args[0]


class StraightThrough(_AtLine):
    """The value of a step function with the gradient of the identity."""

    def instead(self, function: Any, args: Any, kwargs: Any) -> Any:
        """``x + (f(x) - x).detach()``."""
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return NotImplemented
        return args[0] + (function(*args, **kwargs) - args[0]).detach()


class MendLossInput(Intervention):
    """What a loss gets in the wrong form is turned into the form that it is made for.

    ``log p`` has the softmax ``p``, so that the cross entropy of it is the true one.

    Args:
        logits: whether ``nll_loss`` gets raw scores, so that it should be a cross entropy.
    """

    rescales_loss = True
    operations = frozenset({
        "cross_entropy", "nll_loss", "kl_div", "binary_cross_entropy_with_logits", "softmax",
        "sigmoid",
    })  # fmt: skip

    def __init__(self, logits: bool = False) -> None:
        super().__init__()
        self.logits = logits
        self._squashed: list[tuple[Tensor, Any]] = []

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        given = args[0] if args else kwargs.get("input")
        if not isinstance(given, Tensor) or not given.is_floating_point():
            return NotImplemented
        if name in ("softmax", "sigmoid"):
            result = function(*args, **kwargs)
            self._squashed = [*self._squashed[-7:], (result, given)]
            return result
        rest = {k: v for k, v in kwargs.items() if k != "input"}
        scores = self._before(given)
        if scores is not given and name in ("cross_entropy", "binary_cross_entropy_with_logits"):
            self.applied = True
            return function(scores, *args[1:], **rest)
        if self.logits:
            if name != "nll_loss":
                return NotImplemented
            self.applied = True
            return functional.cross_entropy(given, *args[1:], **rest)
        if not _in_unit_range(given.detach()):
            return NotImplemented
        self.applied = True
        sums = given.detach().sum(1 if given.dim() > 1 else 0)
        normalised = bool((sums - 1).abs().max() < 1e-3)
        if name in ("nll_loss", "kl_div") or (name == "cross_entropy" and normalised):
            mended = given.clamp(min=torch.finfo(given.dtype).tiny).log()
        else:
            mended = torch.logit(given, eps=1e-7)
        return function(mended, *args[1:], **rest)

    def _before(self, given: Any) -> Any:
        """What a softmax or sigmoid was taken of, through several of them."""
        for result, operand in reversed(self._squashed):
            # a flatten in between is a view of the same numbers
            same = result.data_ptr() == given.data_ptr() and result.numel() == given.numel()
            if same and result.is_contiguous() and given.is_contiguous():
                given = operand.reshape(given.shape)
        return given


class MatchShapes(Intervention):
    """A target with as many elements as the prediction, in another shape, gets its shape."""

    rescales_loss = True
    operations = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        given = dict(zip(("input", "target"), args, strict=False)) | kwargs
        prediction, target = given.get("input"), given.get("target")
        if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
            return NotImplemented
        if prediction.shape == target.shape or prediction.numel() != target.numel():
            return NotImplemented
        self.applied = True
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "target")}
        return function(prediction, target.reshape(prediction.shape), *args[2:], **rest)


class ScaleTarget(Intervention):
    """Targets of a regression get mean 0 and spread 1; the loss is noted in the old unit."""

    operations = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread
        self._power = 2.0

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        if not torch.is_grad_enabled():
            return NotImplemented
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if not isinstance(target, Tensor):
            return NotImplemented
        self.applied = True
        self._power = 2.0 if name == "mse_loss" else 1.0
        scaled = (target - self.mean) / self.spread
        if len(args) > 1:
            return function(args[0], scaled, *args[2:], **kwargs)
        return function(*args, **{**kwargs, "target": scaled})

    def recorded(self, loss: float) -> float:
        """In the unit of the unscaled target."""
        return loss * float(self.spread**self._power)


def _in_unit_range(given: Tensor) -> bool:
    return bool(given.numel()) and float(given.min()) >= 0 and float(given.max()) <= 1 + 1e-4


class _Every(frozenset[str]):
    """Holds every name."""

    def __contains__(self, _name: object) -> bool:
        return True


EVERY = _Every()
