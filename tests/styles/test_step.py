"""The step: who says that the parameters are updated, and with which gradients."""

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm, ratio, rms
from torch import nn
from torch.nn import functional as F

from gradscope.recording.facts import Role, State

STEP = "the step"


@pytest.mark.style(
    "plain loop",
    part=STEP,
    how="hooks of the optimizer's step",
    exact="gradients and updates of every parameter, loss, modules",
)
def test_plain_loop(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(5):
                loss = F.mse_loss(model(x), y)
                loss.backward()
                losses.append(loss.item())
                old = model[0].weight.detach().clone()
                truth.append((norm(model[0].weight.grad), 0.01 * norm(model[0].weight.grad)))
                optimizer.step()
                optimizer.zero_grad()
                truth[-1] += (norm(model[0].weight.detach() - old) / norm(old), norm(old))
        return Ran((model,), losses, {"rows": truth, "losses": losses})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-6)
    for step, (size, by_formula, moved, length) in enumerate(truth["rows"]):
        assert gradient(run, "0.weight", step) == pytest.approx(size, rel=1e-4)
        # Adam does not move by lr times the gradient
        both.number("update ratio", ratio(run, "0.weight", step), moved, by_formula / length)


@pytest.mark.style(
    "gradient accumulation, loss divided by the number of micro-batches",
    part=STEP,
    how="one step an optimizer step; the division is read in the loss's graph",
    exact="the accumulated gradient; the loss is that of the batch",
    situations=(1, 6),
)
def test_accumulation(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses, truth = [], []
        with watching(model):
            micro = batches(12)
            for first in range(0, 12, 4):
                whole = []
                for x, y in micro[first : first + 4]:
                    loss = F.mse_loss(model(x), y)
                    whole.append(loss.item())
                    (loss / 4).backward()
                truth.append((norm(model[0].weight.grad), sum(whole) / 4))
                optimizer.step()
                optimizer.zero_grad()
                losses += whole
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert run.steps["backwards"].tolist() == [4, 4, 4]
    for step, (size, loss) in enumerate(truth["rows"]):
        assert gradient(run, "0.weight", step) == pytest.approx(size, rel=1e-4)
        both.number("loss", run.steps["loss"][step], loss, loss / 4)


def test_a_mean_by_hand_is_not_taken_for_accumulation(both):
    def train(watching):
        model = mlp(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = (model(x) - y).square().sum() / 8
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"losses": losses})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-6)


@pytest.mark.style(
    "closure: LBFGS",
    part=STEP,
    how="the closure is wrapped; gradients are read when it first returns",
    exact="loss and gradient of the first evaluation of each step",
    missing="the gradients of the line search's further evaluations: one row a step; their "
    "backward calls are counted (`steps.backwards`)",
    situations=(7,),
)
def test_lbfgs(both):
    def train(watching):
        model = mlp(4, 2)
        (x, y), *_ = batches(1, size=20)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
        seen, losses, firsts, before = [], [], [], []

        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            seen.append(norm(model[0].weight.grad))
            losses.append(loss.item())
            return loss

        with watching(model):
            for _ in range(3):
                stale = 0.0 if model[0].weight.grad is None else norm(model[0].weight.grad)
                before.append(stale)
                seen.clear()
                optimizer.step(closure)
                firsts.append((seen[0], len(seen)))
        return Ran((model,), losses, {"rows": firsts, "before": before})

    run, truth = both(train)
    assert len(run.steps) == 3
    for step in (1, 2):
        size, calls = truth["rows"][step]
        assert run.steps["backwards"][step] == calls
        both.number("gradient norm", gradient(run, "0.weight", step), size, truth["before"][step])


@pytest.mark.style(
    "closure with an ordinary optimizer (as Lightning and skorch pass one)",
    part=STEP,
    how="the closure is wrapped, by position or by name",
    exact="the gradient that the closure leaves, after its own clipping",
    situations=(7,),
)
@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
def test_closure(both, by_name):
    def train(watching):
        model = mlp(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        losses, truth, stale = [], [], []
        with watching(model):
            for x, y in batches(3):

                def closure(x=x, y=y):
                    optimizer.zero_grad()
                    loss = F.mse_loss(model(x), y)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                    return loss

                stale.append(0.0 if model[0].weight.grad is None else norm(model[0].weight.grad))
                loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
                losses.append(loss.item())
                truth.append(norm(model[0].weight.grad, model[0].bias.grad))
        return Ran((model,), losses, {"norms": truth, "stale": stale})

    run, truth = both(train)
    assert run.steps["norm"].tolist() == pytest.approx(truth["norms"], rel=1e-4)
    both.number("total norm, first step", run.steps["norm"][0], truth["norms"][0], "no gradient")


@pytest.mark.style(
    "`step` overridden and calling super",
    part=STEP,
    how="the outermost call counts",
    exact="as in a plain loop",
    situations=(8,),
)
def test_step_calls_super(both):
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    def train(watching):
        model = mlp(4, 2)
        optimizer = Twice(model.parameters(), lr=0.1)
        losses = []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"steps": len(losses)})

    run, truth = both(train)
    both.number("steps", len(run.steps), truth["steps"], 2 * truth["steps"])


class Duck:
    """An optimizer of no torch class."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        for parameter in self.parameters:
            parameter -= self.lr * parameter.grad


@pytest.mark.style(
    "duck-typed optimizer",
    part=STEP,
    how="the clock is the backward call; a step ends when gradients are cleared or parameters move",
    exact="gradients, update ratios, loss",
    missing="the learning rate and which optimizer it was (`steps.optimizer` is empty)",
    situations=(9,),
)
def test_duck_typed_optimizer(both):
    def train(watching):
        model = mlp(4, 2)
        optimizer = Duck(model.parameters(), lr=0.1)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(4):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                size, old = norm(model[0].weight.grad), norm(model[0].weight)
                truth.append((size, 0.1 * size / old))
                optimizer.step()
                losses.append(loss.item())
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert len(run.steps) == 4
    for step, (size, moved) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, "no step")
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "no optimizer at all: `p.data.add_(-lr * p.grad)`",
    part=STEP,
    how="the clock is the backward call; clips are seen, and gradients read after them",
    exact="gradients, update ratios, loss, modules",
    missing="what the loop does to the gradients by other means between backward and update",
)
def test_no_optimizer(both):
    def train(watching):
        model = mlp(4, 6, 2)
        losses, truth = [], []
        with watching(model):
            for first in range(0, 8, 2):
                model.zero_grad()
                for x, y in batches(8)[first : first + 2]:
                    loss = F.mse_loss(model(x), y)
                    loss.backward()
                    losses.append(loss.item())
                raw = norm(model[0].weight.grad)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
                size, old = norm(model[0].weight.grad), norm(model[0].weight)
                truth.append((size, 0.5 * size / old, raw))
                for parameter in model.parameters():
                    parameter.data.add_(parameter.grad, alpha=-0.5)
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert len(run.steps) == 4
    assert run.steps["backwards"].tolist() == [2] * 4
    for step, (size, moved, raw) in enumerate(truth["rows"]):
        both.number("gradient norm after the clip", gradient(run, "0.weight", step), size, raw)
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "optimizer in backward: one for each parameter, in a post-accumulate hook",
    part=STEP,
    how="steps inside one backward are one step",
    exact="gradients and updates of every parameter",
    missing="the learning rates of the other optimizers: the row of the step has the first one's",
    situations=(10,),
)
def test_optimizer_in_backward(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
        truth, losses, now = [], [], {}

        def use(parameter):
            now[parameter] = norm(parameter.grad)
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(use)
        with watching(model):
            for x, y in batches(3):
                loss = F.mse_loss(model(x), y)
                old = norm(model[0].weight)
                loss.backward()
                losses.append(loss.item())
                sizes = [now[p] for p in model.parameters()]
                truth.append((sizes, 0.1 * sizes[0] / old))
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    both.number("steps", len(run.steps), 3, 12)
    for step, (sizes, moved) in enumerate(truth["rows"]):
        found = [gradient(run, f"{i}.{n}", step) for i in (0, 2) for n in ("weight", "bias")]
        assert found == pytest.approx(sizes, rel=1e-4)
        assert run.steps["norm"][step] == pytest.approx(sum(s * s for s in sizes) ** 0.5, rel=1e-4)
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "update in backward without an optimizer: a hook that moves the parameter and drops `.grad`",
    part=STEP,
    how="seen after the first step; then each gradient is read before it is accumulated",
    exact="gradients and updates from the second step on",
    missing="gradients of the first step (no rows, not zeros)",
    situations=(10,),
)
def test_update_in_backward_without_an_optimizer(both):
    def train(watching):
        model = mlp(4, 6, 2)
        truth, losses, now = [], [], {}

        @torch.no_grad()
        def use(parameter):
            now[parameter] = norm(parameter.grad)
            parameter -= 0.1 * parameter.grad
            parameter.grad = None

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(use)
        with watching(model):
            for x, y in batches(4):
                loss = F.mse_loss(model(x), y)
                old = norm(model[0].weight)
                loss.backward()
                losses.append(loss.item())
                truth.append((now[model[0].weight], 0.1 * now[model[0].weight] / old))
        return Ran((model,), losses, {"rows": truth})

    run, truth = both(train)
    assert len(run.steps) == 4
    assert not (run.gradients["step"] == 0).any()
    for step, (size, moved) in list(enumerate(truth["rows"]))[1:]:
        both.number("gradient norm", gradient(run, "0.weight", step), size, "no gradient")
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)


@pytest.mark.style(
    "`autograd.grad` with hand-set `.grad`",
    part=STEP,
    how="`autograd.grad` is patched: asked for parameters it stands for backward",
    exact="gradients, loss, the gradients at modules",
)
def test_hand_set_gradients(both):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(3):
                loss = F.mse_loss(model(x), y)
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                for parameter, found in zip(model.parameters(), gradients, strict=True):
                    parameter.grad = found * 2
                losses.append(loss.item())
                out = model(x).detach()
                truth.append((2 * norm(gradients[0]), rms(2 * (out - y) / out.numel())))
                optimizer.step()
        return Ran((model,), losses, {"rows": truth, "losses": losses})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-6)
    for step, (size, at_output) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, size / 2)
        row = module_row(run, "", Role.GRAD_OUTPUT, step)
        assert row["rms"] == pytest.approx(at_output, rel=1e-3)


@pytest.mark.style(
    "`autograd.grad` and a hand-written update, no `.grad` at all",
    part=STEP,
    how="the clock is the call of `autograd.grad` for parameters; its results are the gradients",
    exact="gradients, update ratios, loss, the gradients at modules",
)
def test_gradients_that_are_returned(both):
    def train(watching):
        model = mlp(4, 6, 2)
        losses, truth = [], []
        with watching(model):
            for x, y in batches(3):
                loss = F.mse_loss(model(x), y)
                gradients = torch.autograd.grad(loss, model.parameters())
                truth.append((norm(gradients[0]), 0.1 * norm(gradients[0]) / norm(model[0].weight)))
                losses.append(loss.item())
                with torch.no_grad():
                    for parameter, found in zip(model.parameters(), gradients, strict=True):
                        parameter -= 0.1 * found
        return Ran((model,), losses, {"rows": truth, "losses": losses})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-6)
    assert (run.gradients["state"] == State.FINITE).all()
    for step, (size, moved) in enumerate(truth["rows"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, "no step")
        assert ratio(run, "0.weight", step) == pytest.approx(moved, rel=1e-3)
        assert module_row(run, "2", Role.GRAD_OUTPUT, step)["calls"] == 1


def test_a_model_that_does_not_train_is_said_to(both):
    def train(watching):
        model, other = mlp(4, 2), mlp(4, 2)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        with watching(model):
            for x, y in batches(2):
                optimizer.zero_grad()
                F.mse_loss(other(x), y).backward()
                optimizer.step()
        return Ran((model, other), [])

    run, _ = both(train)
    (said,) = run.limits
    assert "no training step of the watched model" in said
    assert "2 optimizer steps on other parameters" in said


def test_a_parameter_of_nn_module_that_is_the_loss_itself(both):
    def train(watching):
        model = nn.ParameterList([nn.Parameter(torch.tensor(3.0))])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watching(model):
            for _ in range(2):
                optimizer.zero_grad()
                model[0].backward()
                optimizer.step()
        return Ran((model,), [])

    run, _ = both(train)
    assert run.steps["loss"].tolist() == pytest.approx([3.0, 2.9])
