"""Custom Functions with a wrong backward, one mistake each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def pointwise(name: str, forward: Callable[[Tensor], Tensor], backward: Formula) -> type[Function]:
    """A Function of one tensor; ``backward`` is given the gradient, the input and the result."""

    class Pointwise(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = forward(x)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            x, y = ctx.saved_tensors
            return backward(grad, x, y)

    Pointwise.__name__ = Pointwise.__qualname__ = name
    return Pointwise


def _one_of_4096(grad: Tensor, x: Tensor, _: Tensor) -> Tensor:
    out = grad * x.cos()
    out.view(-1)[1234] *= 1.1
    return out


def _last_channel(grad: Tensor, x: Tensor, y: Tensor) -> Tensor:
    out = grad * (1 - y * y)
    out[..., -1] = 0
    return out


POINTWISE: dict[str, tuple[type[Function], tuple[str, ...]]] = {
    "swish without its second factor": (
        pointwise("Swish", F.silu, lambda g, x, y: g * (x.sigmoid() + x * x.sigmoid())),
        ("other", "elements"),
    ),
    "tanh times one half": (
        pointwise("HalfTanh", torch.tanh, lambda g, x, y: 0.5 * g * (1 - y * y)), ("factor",),
    ),
    "softplus with a wrong sign": (
        pointwise("Softplus", F.softplus, lambda g, x, y: -g * x.sigmoid()), ("sign",),
    ),
    "exp that multiplies by its input": (
        pointwise("Exp", torch.exp, lambda g, x, y: g * x), ("other", "elements"),
    ),
    "square without the two": (
        pointwise("Square", lambda x: x * x, lambda g, x, y: g * x), ("factor",),
    ),
    "one element of 4,096 off by a tenth": (
        pointwise("Sine", torch.sin, _one_of_4096), ("elements",),
    ),
    "last channel without gradient": (pointwise("Tanh", torch.tanh, _last_channel), ("elements",)),
    "gelu with a rounded constant": (
        pointwise(
            "Gelu", F.gelu,
            lambda g, x, y: g * (0.5 + 0.5 * torch.erf(x * 0.7071) + 0.39 * x * (-x * x / 2).exp()),
        ),
        ("other", "elements"),
    ),
    "gelu with the derivative of its approximation": (
        pointwise("GeluMixed", F.gelu, lambda g, x, y: torch.func.vjp(
            lambda z: F.gelu(z, approximate="tanh"), x)[1](g)[0]),
        ("other", "elements"),
    ),
    "relu6 that passes beyond six": (
        pointwise("Relu6", lambda x: (9 * x).clamp(0, 6), lambda g, x, y: 9 * g * (x > 0)),
        ("elements", "other"),
    ),
    "leaky relu with its slopes exchanged": (
        pointwise(
            "Leaky", lambda x: F.leaky_relu(x, 0.1),
            lambda g, x, y: g * torch.where(x > 0, 0.1, 1.0).to(x.dtype),
        ),
        ("other", "elements"),
    ),
    "abs without its sign": (
        pointwise("Abs", torch.abs, lambda g, x, y: g), ("elements", "other"),
    ),
    "sqrt without the half": (
        pointwise("Root", lambda x: (x * x + 1).sqrt(), lambda g, x, y: 2 * g * x / y), ("factor",),
    ),
    "log without its divisor": (
        pointwise("Log", lambda x: (x * x + 1).log(), lambda g, x, y: 2 * g * x),
        ("other", "elements"),
    ),
    "reciprocal with a wrong sign": (
        pointwise("Reciprocal", lambda x: 1 / (x + 5), lambda g, x, y: g * y * y), ("sign",),
    ),
    "cosine with the sine of the wrong sign": (
        pointwise("Cosine", torch.cos, lambda g, x, y: g * x.sin()), ("sign",),
    ),
    "factor 1.001": (
        pointwise("Mish", F.mish, lambda g, x, y: 1.001 * torch.func.vjp(F.mish, x)[1](g)[0]),
        ("factor",),
    ),
    "factor 1.0001": (
        pointwise("Elu", lambda x: F.elu(x), lambda g, x, y: 1.0001 * g * torch.where(
            x > 0, torch.ones_like(x), x.exp())),
        ("factor",),
    ),
    "backward in half precision": (
        pointwise(
            "HalfInside", torch.sin, lambda g, x, y: (g.half() * x.half().cos()).to(g.dtype)
        ),
        ("precision",),
    ),
    "backward in bfloat16": (
        pointwise(
            "Bfloat", torch.sin, lambda g, x, y: (g.bfloat16() * x.cos().bfloat16()).to(g.dtype)
        ),
        ("precision",),
    ),
    "softmax without its inner product": (
        pointwise("Softmax", lambda x: x.softmax(-1), lambda g, x, y: g * y), ("other",),
    ),
    "cumulative sum that is not turned round": (
        pointwise("CumSum", lambda x: x.cumsum(-1), lambda g, x, y: g.cumsum(-1)),
        ("other", "elements"),
    ),
    "roll that rolls on": (
        pointwise("Roll", lambda x: x.roll(1, -1), lambda g, x, y: g.roll(1, -1)), ("other",),
    ),
    "flip that is not undone": (
        pointwise("Flip", lambda x: x.flip(-1), lambda g, x, y: g), ("other", "elements"),
    ),
    "layer norm without the mean's share": (
        pointwise(
            "Normalise", lambda x: F.layer_norm(x, x.shape[-1:]),
            lambda g, x, y: (g - y * (g * y).mean(-1, keepdim=True))
            / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
        ),
        ("other",),
    ),
    "rms norm that takes its norm for a constant": (
        pointwise(
            "RmsNorm", lambda x: x / (x * x).mean(-1, keepdim=True).add(1e-6).sqrt(),
            lambda g, x, y: g / (x * x).mean(-1, keepdim=True).add(1e-6).sqrt(),
        ),
        ("other",),
    ),
    "a mask drawn anew in backward": (
        pointwise(
            "Drop", lambda x: 2 * x * (torch.rand_like(x) > 0.5),
            lambda g, x, y: 2 * g * (torch.rand_like(x) > 0.5),
        ),
        ("other", "elements"),
    ),
    "no gradient at all": (
        pointwise("Silent", torch.tanh, lambda g, x, y: torch.zeros_like(g)), ("blocked",),
    ),
}  # fmt: skip
"""Functions by what is wrong with them, and the kinds that describe it."""


class LinearTransposed(Function):
    """dW = x^T g where g^T x is right: the shapes agree when the layer is square."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T + b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w, x.T @ g, g.sum(0)


class LinearInput(LinearTransposed):
    """dx uses the weight the wrong way round."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w.T, g.T @ x, g.sum(0)


class LinearMean(LinearTransposed):
    """The bias gets the mean over the batch where the sum is right."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w, g.T @ x, g.mean(0)


class LinearForgets(LinearTransposed):
    """No gradient for the weight."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        _, w = ctx.saved_tensors
        return g @ w, None, g.sum(0)


class LinearDouble(LinearTransposed):
    """The bias's gradient twice."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w, g.T @ x, 2 * g.sum(0)


class LinearFirstRow(LinearTransposed):
    """One row of the weight's gradient is zero."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        dw = g.T @ x
        dw[0] = 0
        return g @ w, dw, g.sum(0)


class Lookup(Function):
    """An embedding whose repeated indices overwrite each other."""

    @staticmethod
    def forward(ctx: Any, index: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = w.shape[0]
        return w[index]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        dw = g.new_zeros(ctx.rows, g.shape[-1])
        dw[index.reshape(-1)] = g.reshape(-1, g.shape[-1])
        return None, dw


class CrossEntropy(Function):
    """The mean over the batch is forgotten in backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(-1)
        ctx.save_for_backward(p, target)
        return -p.gather(1, target[:, None]).log().mean()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        p, target = ctx.saved_tensors
        return g * (p - F.one_hot(target, p.shape[1])), None


class Scores(Function):
    """Attention scores whose scale is missing in the gradient of the queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(q, k)
        return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        q, k = ctx.saved_tensors
        return g @ k, g.transpose(-1, -2) @ q / q.shape[-1] ** 0.5


class Gate(Function):
    """A gated unit that forgets the slope of its gate."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b.sigmoid(), g * a * b.sigmoid()


class MaxPool(Function):
    """The gradient goes to the first element of each window, not to the largest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.unflatten(-1, (-1, 2)).amax(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        dx = g.new_zeros(ctx.shape).unflatten(-1, (-1, 2))
        dx[..., 0] = g
        return dx.flatten(-2)


class AveragePool(Function):
    """The gradient is not shared among the elements of a window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).mean(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.repeat_interleave(2, -1)


class Scatter(Function):
    """A sum by index whose gradient is fetched from the next index."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = size
        return x.new_zeros(size, x.shape[1]).index_add(0, index, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return g[(index + 1) % ctx.size], None, None


class Rotate(Function):
    """A complex product without the conjugate."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(z, w)
        return z * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        z, w = ctx.saved_tensors
        return g * w, (g * z.conj()).sum(0)


class Outer(Function):
    """A broadcast product: the sum goes over the wrong axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum(1)


class TwoResults(Function):
    """Sum and product; the gradient of the product is dropped."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a + b, a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Any:
        return g, g


class Stale(Function):
    """What was saved is changed in place through .data before it is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.saved = x.clone()
        y = ctx.saved.cos()
        ctx.saved.data.mul_(0.5)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g * ctx.saved.sin()
