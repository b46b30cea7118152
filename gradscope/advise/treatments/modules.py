"""Changes of a model by hooks: its modules, their names and their weights stay what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.advise.treatments.places import Place
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.experiment.steering import after, before

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "SELU": functional.selu,
    "Tanh": torch.tanh,
    "LeakyReLU": functional.leaky_relu,
    "Identity": lambda x: x,
}


def activated(name: str, slope: float, x: Tensor) -> Tensor:
    """The activation of this name in torch.nn; ``slope`` is LeakyReLU's below 0."""
    if name == "LeakyReLU":
        return functional.leaky_relu(x, slope)
    return _FUNCTIONS[name](x)


class Normalised:
    """A hook that hands on a module's output through a norm that is held here, not in the model."""

    def __init__(self, norm: nn.Module, owner: Intervention) -> None:
        self.norm, self.owner = norm, owner

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        """Normalise the output, in the module's own mode and number format."""
        if not isinstance(output, Tensor):
            return output
        self.owner.applied = True
        self.norm.training = module.training
        return self.norm(output.to(next(self.norm.parameters()).dtype)).to(output.dtype)


class AddNorm(Intervention):
    """A batch, layer or group norm behind each of some layers."""

    def __init__(self, kind: str, places: Sequence[Place], groups: int = 1) -> None:
        super().__init__()
        self.kind, self.places, self.groups = kind, tuple(places), groups
        self._norms: list[nn.Module] = []

    def model(self, root: nn.Module) -> None:
        """Hook the layers."""
        for place in self.places:
            module = place.of(root)
            width = getattr(module, "out_features", getattr(module, "out_channels", None))
            weight = getattr(module, "weight", None)
            if module is None or width is None or not isinstance(weight, Tensor):
                continue
            norm = self._norm(module, int(width)).to(device=weight.device)
            self._norms.append(norm)
            after(module, Normalised(norm, self))

    def _norm(self, module: nn.Module, width: int) -> nn.Module:
        if self.kind == "LayerNorm":
            return nn.LayerNorm(width)
        if self.kind == "GroupNorm":
            return nn.GroupNorm(math.gcd(self.groups, width), width)
        kinds = {"1": nn.BatchNorm1d, "2": nn.BatchNorm2d, "3": nn.BatchNorm3d}
        way = type(module).__name__.removesuffix("d")[-1]
        return kinds.get(way, nn.BatchNorm1d)(width)

    def added(self) -> Sequence[Tensor]:
        """Scales and shifts of the norms."""
        return [p for norm in self._norms for p in norm.parameters()]


class AddResidual(Intervention):
    """The input of each block is added to its output.

    Args:
        spans: for each block the module that reads its input and the one that gives its output.
    """

    def __init__(self, spans: Sequence[tuple[Place, Place]]) -> None:
        super().__init__()
        self.spans = tuple(spans)

    def model(self, root: nn.Module) -> None:
        """Hook both ends of each block."""
        for first, last in self.spans:
            start, end = first.of(root), last.of(root)
            if start is not None and end is not None:
                shortcut = Shortcut(self)
                before(start, shortcut.keep)
                after(end, shortcut)


class Shortcut:
    """The two hooks of a residual connection."""

    def __init__(self, owner: Intervention) -> None:
        self.owner = owner
        self._input: Tensor | None = None

    def keep(self, _module: nn.Module, inputs: Any) -> None:
        """Keep the input of the block."""
        self._input = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        """Add it to the output."""
        kept, self._input = self._input, None
        if kept is None or not isinstance(output, Tensor) or kept.shape != output.shape:
            return output
        self.owner.applied = True
        return kept + output


class ReplaceModules(Intervention):
    """Another activation in place of each of some activation modules."""

    def __init__(self, activation: str, places: Sequence[Place], slope: float = 0.01) -> None:
        super().__init__()
        self.activation, self.places, self.slope = activation, tuple(places), slope

    def model(self, root: nn.Module) -> None:
        """Hook the activations."""
        for place in self.places:
            module = place.of(root)
            if module is not None:
                if getattr(module, "inplace", False):
                    module.inplace = False  # type: ignore[assignment]
                after(module, self._instead)

    def _instead(self, _module: nn.Module, inputs: Any, _output: Any) -> Any:
        self.applied = True
        return activated(self.activation, self.slope, inputs[0])


class Bypass(Intervention):
    """Modules that hand on their input unchanged: a softmax in front of a loss that has its own."""

    rescales_loss = True

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        self.places = tuple(places)

    def model(self, root: nn.Module) -> None:
        """Hook the modules."""
        for place in self.places:
            module = place.of(root)
            if module is not None:
                after(module, self._instead)

    def _instead(self, _module: nn.Module, inputs: Any, _output: Any) -> Any:
        self.applied = True
        return inputs[0]


class NormFirst(Intervention):
    """Transformer layers normalise before attention and feed-forward, not behind the addition."""

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        self.places = tuple(places)

    def model(self, root: nn.Module) -> None:
        """Set the flag that torch's layers have for it."""
        for place in self.places:
            module = place.of(root)
            if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                self.applied = self.applied or not module.norm_first
                module.norm_first = True


class ScaleInput(Intervention):
    """The model's first input gets mean 0 and spread 1."""

    def __init__(self, root: str, mean: float, spread: float) -> None:
        super().__init__()
        self.root, self.mean, self.spread = root, mean, spread

    def model(self, root: nn.Module) -> None:
        """Hook the root."""
        if type(root).__name__ == self.root:
            before(root, self._scaled)

    def _scaled(self, _module: nn.Module, inputs: Any) -> Any:
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            return None
        self.applied = True
        return ((inputs[0] - self.mean) / self.spread, *inputs[1:])


class Unfreeze(Intervention):
    """Some parameters require gradients again, and the optimizer gets them."""

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        super().__init__()
        self.root, self.paths = root, tuple(paths)
        self._freed: list[Tensor] = []

    def model(self, root: nn.Module) -> None:
        """Set ``requires_grad``."""
        if type(root).__name__ != self.root:
            return
        for name, parameter in root.named_parameters():
            if name in self.paths and not parameter.requires_grad:
                parameter.requires_grad_(True)
                self._freed.append(parameter)
                self.applied = True

    def added(self) -> Sequence[Tensor]:
        """The parameters."""
        return self._freed


class AddParameters(Intervention):
    """Parameters that no optimizer holds get into it.

    Args:
        places: module that owns each parameter, and the parameter's name in it.
    """

    def __init__(self, places: Sequence[tuple[Place, str]]) -> None:
        super().__init__()
        self.places = tuple(places)
        self._found: list[Tensor] = []

    def model(self, root: nn.Module) -> None:
        """Find them."""
        for place, name in self.places:
            owner = place.of(root)
            parameter = getattr(owner, name, None)
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                self._found.append(parameter)
                self.applied = True

    def added(self) -> Sequence[Tensor]:
        """The parameters."""
        return self._found
