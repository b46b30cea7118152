"""What a trace found out: plain numbers and words, which every format writes in its own way.

Nothing here holds a tensor or a model, so that a trace can be stored as JSON and read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["weight", "activation", "other", "block", "loss"]
"""What a factor of the chain rule is made of; a block cannot be split, because in it the gradient
is a sum over several ways."""
Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Two numbers that theory says are equal, computed in two ways.

    Attributes:
        name: what is compared.
        left, right: the two numbers.
        error: |left − right| over the larger of the two sizes.
        limit: largest error that rounding explains.
        meaning: why they must be equal, in words.
        rounding: difference that the number format alone explains, whatever the two sizes: of a
            small difference of two large scores.
    """

    name: str
    left: float
    right: float
    error: float
    limit: float
    meaning: str
    rounding: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the two agree within the limit or the rounding; NaN never does."""
        return self.error <= self.limit or abs(self.left - self.right) <= self.rounding


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One step of the forward pass.

    Attributes:
        name: the module's qualified name, with ``(2nd call)`` where it is called again; a function
            between modules by its operation and place.
        type: class of the module, or the operation.
        shape: of its first floating output.
        mean, std: over all elements; NaN without a floating output.
        zeros: share of exact zeros, 0 to 1.
        flat: activations: share of elements where its slope is below a twentieth of its largest;
            None for other layers.
        nonfinite: elements that are NaN or Inf.
        depth: how many modules enclose it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    mean: float
    std: float
    zeros: float
    flat: float | None
    nonfinite: int
    depth: int


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One answer that the model could give: its score, its probability, its label."""

    label: str
    score: float
    probability: float
    predicted: bool
    true: bool


@dataclass(frozen=True, slots=True)
class ValueRow:
    """One number that the model gave, and what it should have been (NaN: not known)."""

    label: str
    output: float
    target: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered for the sample.

    Attributes:
        kind: ``classes``, ``yes-no``, ``values`` or ``unknown``.
        sentence: the answer in words.
        correct: whether it is the truth; None where that is no yes-or-no question.
        classes: the most probable answers and the true one, most probable first.
        values: for ``values`` and ``yes-no``: the outputs with the largest errors.
        more: answers or values that are not listed.
        position: which position of a sequence or picture is shown, or "".
    """

    kind: Literal["classes", "yes-no", "values", "unknown"]
    sentence: str
    correct: bool | None = None
    classes: tuple[ClassScore, ...] = ()
    values: tuple[ValueRow, ...] = ()
    more: int = 0
    position: str = ""


@dataclass(frozen=True, slots=True)
class LossSlope:
    """The derivative of the loss at one output, from backward and from the formula."""

    label: str
    derivative: float
    formula: float


@dataclass(frozen=True, slots=True)
class LossFacts:
    """The loss of the sample and its derivative at the output.

    Attributes:
        operation: ``cross_entropy``, ``mse`` …, or the node's name.
        value: the loss that backward started from.
        words: what it measures and what its derivative says, a sentence each.
        slopes: the derivative at the outputs where it is largest.
        norm: norm of the derivative over all outputs; NaN where it could not be read.
        formula: the derivative as a formula, or "".
    """

    operation: str
    value: float
    words: tuple[str, ...]
    slopes: tuple[LossSlope, ...] = ()
    norm: float = float("nan")
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One of several ways that a gradient takes through a block, and what arrives by it.

    Attributes:
        label: first and last layer of the way, or ``skip``.
        gain: norm of what it brings over the norm of the gradient at the block's end.
    """

    label: str
    gain: float


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of the chain rule, from the loss toward the input.

    Attributes:
        label: the layer, or ``a -> b (operation)`` for what stands between two.
        type: class of the module, or the operation.
        kind: see ``Kind``.
        gain: norm of the loss gradient at its input over that at its output; None where the latter
            is 0.
        product: product of all factors so far: the norm of the gradient at its input.
        ways: blocks: the ways through it.
        inside: gains of the layers inside a block, for reading only: they multiply nothing here.
    """

    label: str
    type: str
    kind: Kind
    gain: float | None
    product: float
    ways: tuple[Way, ...] = ()
    inside: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain rule from the loss to the input.

    Attributes:
        factors: from the loss to the input.
        ends: where the last factor ends: ``the input``, ``the embedding …`` or a layer.
        weight, activation, other, block, loss: product of the factors of each kind; 1 where there
            is none.
        measured: norm of the gradient there, from a backward pass of its own.
        words: where it shrinks or grows, a sentence each.
        notes: what could not be split or seen.
    """

    factors: tuple[Factor, ...]
    ends: str
    weight: float
    activation: float
    other: float
    block: float
    loss: float
    measured: float
    words: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def product(self) -> float:
        """Product of all factors."""
        return self.factors[-1].product if self.factors else float("nan")


@dataclass(frozen=True, slots=True)
class Attribution:
    """Which inputs drove one score.

    Attributes:
        target: the score in words, e.g. ``the score of 3``.
        score: its value.
        form: ``picture``, ``features``, ``tokens`` or ``sequence``.
        size: rows and columns of the picture; of others (1, number).
        names: of the features or tokens; () for pictures.
        values: the input itself, summed over channels or embedding (pictures: mean of channels);
            () for tokens.
        gradient: derivative of the score by each input; tokens and sequences: its norm over the
            embedding.
        product: gradient × input, summed over channels or embedding.
        integrated: integrated gradients, or () where not asked for.
        product_sum: sum of gradient × input over all inputs.
        bias_sum: what the biases add by theory; NaN where theory says nothing.
        baseline: the score at an input of zeros; NaN without integrated gradients.
        integrated_sum: sum of the integrated gradients; NaN without them.
        points: points on the way from zeros to the input; 0 without integrated gradients.
        words: what the sums say, a sentence each.
        colours: the picture's own pixels in RGB, row by row, 0 to 255; () where it is grey.
    """

    target: str
    score: float
    form: Literal["picture", "features", "tokens", "sequence"]
    size: tuple[int, int]
    names: tuple[str, ...]
    values: Numbers
    gradient: Numbers
    product: Numbers
    integrated: Numbers
    product_sum: float
    bias_sum: float
    baseline: float
    integrated_sum: float
    points: int
    words: tuple[str, ...]
    colours: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which inputs drove the answer; ``missing`` says why there is nothing to show."""

    attributions: tuple[Attribution, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class WeightRow:
    """What the step did to one weight tensor.

    Attributes:
        name: the parameter.
        shape: its shape.
        state: ``moved``, ``frozen``, ``no gradient``, ``zero gradient`` or ``not in the optimizer``
            (a parameter with a gradient that no optimizer holds).
        gradient: norm of its gradient; NaN without one.
        step: norm of what the step changed.
        relative: that over the norm before; NaN for a tensor of zeros.
        progress: −⟨gradient, change⟩: the fall of the loss that its step buys to first order.
    """

    name: str
    shape: tuple[int, ...]
    state: str
    gradient: float
    step: float
    relative: float
    progress: float


@dataclass(frozen=True, slots=True)
class MovedWeight:
    """One of the weights that the step changed most, and why.

    Attributes:
        name: parameter and index, e.g. ``fc.weight[3, 17]``.
        before, after: its value.
        gradient: the loss's derivative by it.
        why: in words, with the numbers of this step.
    """

    name: str
    before: float
    after: float
    gradient: float
    why: str


@dataclass(frozen=True, slots=True)
class SmallStep:
    """A part of the step: what the slope promised and what the loss did.

    Attributes:
        share: part of the whole step, 1, 1/2, 1/4 …
        predicted: change of the loss to first order.
        actual: the change itself.
        rounding: smallest change of the loss that its number format tells apart.
    """

    share: float
    predicted: float
    actual: float
    rounding: float

    @property
    def miss(self) -> float:
        """|actual − predicted|."""
        return abs(self.actual - self.predicted)


@dataclass(frozen=True, slots=True)
class Update:
    """The step of the optimizer.

    Attributes:
        optimizer: its type and settings in words.
        rule: what its step is, in words.
        weights: one row a parameter, in the order of the model.
        moved: the weights that changed most.
        predicted: ⟨gradient, change⟩: the change of the loss to first order.
        descent: −lr·‖gradient‖², where the step is plain gradient descent; NaN elsewhere.
        before, after: the loss of the sample before and after the step.
        small: the step in smaller parts, the whole one first.
        words: what that says, a sentence each.
    """

    optimizer: str
    rule: str
    weights: tuple[WeightRow, ...]
    moved: tuple[MovedWeight, ...]
    predicted: float
    descent: float
    before: float
    after: float
    small: tuple[SmallStep, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One training step taken apart.

    Attributes:
        target: what was traced, as shown to the user.
        model: class of the model.
        sample: which sample, in words.
        mode: in which mode the model ran, in words.
        steps: training steps before this one.
        device, dtype: of the parameters.
        assumptions: what was inferred, a sentence each.
        identities: what theory says must be equal, and is it.
        reproduce: the command line, or "".
    """

    target: str
    model: str
    sample: str
    mode: str
    steps: int
    device: str
    dtype: str
    forward: tuple[LayerRow, ...]
    prediction: Prediction
    loss: LossFacts
    chain: Chain
    inputs: Inputs
    update: Update
    identities: tuple[Identity, ...]
    assumptions: tuple[str, ...] = ()
    reproduce: str = ""
