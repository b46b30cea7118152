"""What watching itself must not do to a training: the situations that are about hooks."""

import gc
import io
import logging
import pickle
import weakref

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as module_state

from gradscope.recording.facts import Role

HOOKS = "the watching itself"


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _fit(model, optimizer, steps=3, seen=None):
    losses = []
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if seen is not None:
            seen()
        optimizer.step()
    return losses


@pytest.mark.style(
    "no global hook is left on",
    part=HOOKS,
    how="hooks of the watched modules only",
    exact="other models' calls are untouched",
    situations=(32,),
)
def test_no_global_hooks(both):
    def train(watching):
        model, counted = mlp(4, 2), []
        with watching(model):
            losses = _fit(model, _sgd(model))
            counted.append(
                sum(
                    len(getattr(module_state, name))
                    for name in vars(module_state)
                    if name.startswith("_global_") and name.endswith("hooks")
                )
            )
        return Ran((model,), losses, {"hooks": counted[0]})

    _, truth = both(train)
    counted = sum(
        len(getattr(module_state, name))
        for name in vars(module_state)
        if name.startswith("_global_") and name.endswith("hooks")
    )
    both.number("global module hooks", counted, truth["hooks"], 2)


@pytest.mark.style(
    "a checkpoint saved while watching",
    part=HOOKS,
    how="a hook pickles as an inert function of the standard library",
    exact="`torch.save(model)` and pickle work; what is loaded reports nothing",
    situations=(33,),
)
def test_saving(both):
    def train(watching):
        model = mlp(4, 2)
        optimizer = _sgd(model)
        with watching(model):
            losses = _fit(model, optimizer, 1)
            torch.save(model, io.BytesIO())
            again = pickle.loads(pickle.dumps(model))
            again(torch.ones(5, 4) * 99).sum().backward()
            losses += _fit(model, optimizer, 1)
        return Ran((model,), losses, {"calls": 1})

    run, truth = both(train)
    both.number("calls of a layer", module_row(run, "0", Role.OUTPUT, 1)["calls"],
                truth["calls"], "a pickling error")  # fmt: skip


@pytest.mark.style(
    "a model deleted while watched",
    part=HOOKS,
    how="weak references only; gradients and graphs are not held",
    exact="memory is freed as without watching",
    situations=(34,),
)
def test_no_leak(both):
    alive = []

    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = _sgd(model)
        with watching(model):
            losses = _fit(model, optimizer)
            kept = weakref.ref(model[0].weight), weakref.ref(model)
            del model, optimizer
            gc.collect()
            alive.append(sum(ref() is not None for ref in kept))
        return Ran((), losses, {"alive": alive[0]})

    _, truth = both(train)
    both.number("objects alive after the deletion", alive[1], truth["alive"], 2)


@pytest.mark.style(
    "gradscope's own failure",
    part=HOOKS,
    how="every callback is guarded; the first failure switches the watching off and is logged once",
    exact="the training; what was recorded before",
    missing="everything after the failure: `limits` and the banner say why",
    situations=(35,),
)
def test_own_failure(both, tmp_path, caplog, monkeypatch):
    from gradscope.observe.reading import gradients

    real, calls = gradients.moments, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise ArithmeticError("broken on purpose")
        return real(*args, **kwargs)

    monkeypatch.setattr(gradients, "moments", fails)

    def train(watching):
        model = mlp(4, 2)
        with watching(model) as observer:
            losses = _fit(model, _sgd(model), 5)
            if observer is not None:
                assert "ArithmeticError" in observer.failure
                observer._guard.failure, said = None, observer.failure
                observer._limits.append(said)
        return Ran((model,), losses, {"losses": losses})

    with caplog.at_level(logging.ERROR):
        run, truth = both(train)
    assert len([r for r in caplog.records if "broken on purpose" in r.getMessage()]) == 1
    assert any("own failure" in said for said in run.limits)
    both.number(
        "loss of the first step", run.steps["loss"][0], truth["losses"][0], "the script dies"
    )


@pytest.mark.style(
    "hooks return nothing",
    part=HOOKS,
    how="a wrapper stands around each callback",
    exact="outputs and gradients are the user's own tensors",
    situations=(36,),
)
def test_hooks_return_nothing(both):
    def train(watching):
        model, seen = nn.Sequential(nn.Identity(), nn.Linear(4, 2)), []
        with watching(model):
            x = torch.randn(8, 4, requires_grad=True)
            seen.append(model[0](x) is x)
            losses = _fit(model, _sgd(model), 2, lambda: seen.append(norm(model[1].weight.grad)))
        return Ran((model,), losses, {"same": seen[0], "norms": seen[1:]})

    run, truth = both(train)
    assert truth["same"]
    both.number("gradient norm", gradient(run, "1.weight", 1), truth["norms"][1], 0.0)


@pytest.mark.style(
    "sampling without the user's random state",
    part=HOOKS,
    how="fixed strides, no draws",
    exact="random states of torch, numpy and Python",
    situations=(37,),
)
def test_random_state(both):
    def train(watching):
        model = nn.Sequential(nn.Linear(4, 3000), nn.Dropout(0.5), nn.Linear(3000, 2))
        with watching(model):
            losses = _fit(model, _sgd(model))
        return Ran((model,), losses, {"next": float(torch.rand(()))})

    run, truth = both(train)
    row = run.updates[run.updates["parameter"] == "0.weight"].iloc[0]
    assert row["looked_at"] < row["count"]
    torch.manual_seed(0)
    fresh = float(torch.rand(()))
    # the helper has compared the states; this draw is what both runs take next
    _, again = truth["next"], truth["next"]
    both.number("the next random number", again, truth["next"], fresh)


@pytest.mark.style(
    "numbers of a step are read together",
    part=HOOKS,
    how="0-dim results are stacked; one copy a device and step",
    exact="no `.item()` for each module in a hook",
    situations=(38,),
)
def test_reads_together(both):
    counts = []

    class Counts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.reads = getattr(self, "reads", 0) + (
                func is torch.ops.aten._local_scalar_dense.default
            )
            return func(*args, **(kwargs or {}))

    def train(watching):
        model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)], nn.Linear(4, 2))
        optimizer = _sgd(model)
        with watching(model, nonfinite="off"):
            losses = _fit(model, optimizer, 4)
            with Counts() as counter:
                for x, y in batches(1):
                    loss = F.mse_loss(model(x), y)
                    loss.backward()
                    optimizer.step()
            counts.append(counter.reads)
        return Ran((model,), losses)

    both(train)
    # the loss of the step, the baseline of its targets: none of 21 layers' 4 tensors
    assert counts[0] == 0
    assert counts[1] < 21
    both.number("reads by layers", max(counts[1] - 20, 0), 0, 21)


@pytest.mark.style(
    "gradients are not kept",
    part=HOOKS,
    how="hooks store 0-dim results",
    exact="autograd may move its buffer into `.grad` instead of copying it",
    situations=(39,),
)
def test_gradients_are_not_kept(both):
    def train(watching):
        model = nn.Linear(4, 2, bias=False)
        optimizer = _sgd(model)
        same = []
        with watching(model):
            for x, y in batches(3):
                optimizer.zero_grad()
                made = []
                handle = model.weight.register_hook(lambda g, made=made: made.append(g.data_ptr()))
                F.mse_loss(model(x), y).backward()
                same.append(made[0] == model.weight.grad.data_ptr())
                handle.remove()
                optimizer.step()
        return Ran((model,), [], {"same": sum(same)})

    seen = []

    def counted(watching):
        ran = train(watching)
        seen.append(ran.truth["same"])
        return ran

    both(counted)
    both.number("gradients moved without a copy, of 3", seen[1], seen[0], 0)


@pytest.mark.style(
    "many short-lived optimizers",
    part=HOOKS,
    how="known by weak references, not by `id`, which comes back",
    exact="each step's own optimizer and learning rate",
    situations=(49,),
)
def test_many_optimizers(both):
    def train(watching):
        model, losses, ids = nn.Linear(4, 2), [], set()
        with watching(model):
            for number in range(20):
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01 * (number + 1))
                ids.add(id(optimizer))
                losses += _fit(model, optimizer, 1)
                del optimizer
        return Ran((model,), losses, {"ids": len(ids)})

    run, truth = both(train)
    assert [rates[0] for rates in run.steps["lr"]] == pytest.approx(
        [0.01 * n for n in range(1, 21)]
    )
    # how many ids there were depends on what the memory held before
    assert truth["ids"] <= 20
    naive = "fewer: an id comes back"
    both.number("optimizers told apart", run.steps["optimizer"].nunique(), 20, naive)


@pytest.mark.style(
    "CUDA graphs",
    part=HOOKS,
    how="while a stream is captured nothing is read; the optimizer's step outside of it is",
    exact="parameters at a step outside of the capture",
    missing="what replays inside a graph; tried only where a CUDA device is at hand",
    situations=(53,),
)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph(both):
    def train(watching):
        model = mlp(4, 6, 2).cuda()
        optimizer = _sgd(model)
        x = torch.ones(8, 4, device="cuda")
        with watching(model):
            for _ in range(3):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = model(x)
            graph.replay()
            torch.cuda.synchronize()
        return Ran((model,), [float(out.sum())], {"steps": 3})

    run, truth = both(train)
    both.number("steps", len(run.steps), truth["steps"], "a capture error")
