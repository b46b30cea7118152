"""The process: notebooks, programs made of a model, threads, workers."""

import multiprocessing
import threading

import pytest
import torch
from style import Ran, batches, gradient, mlp, module_row, norm
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gradscope
from gradscope.recording.facts import Role
from gradscope.report.formats import render
from gradscope.session.judging import judge

PROCESS = "the process"


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _loop(call, optimizer, steps, losses, seen=None):
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(call(x), y)
        loss.backward()
        losses.append(loss.item())
        if seen is not None:
            seen(x)
        optimizer.step()


@pytest.mark.style(
    "notebook: the cell that watches is run twice",
    part=PROCESS,
    how="`watch` on the same models with the same arguments gives the living scope",
    exact="one recording with the steps of both runs",
)
def test_cell_run_twice(both, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = mlp(4, 2)
    losses, scopes = [], []
    for _ in range(2):
        scopes.append(gradscope.watch(model, every=1))
        _loop(model, _sgd(model), 3, losses)
    assert scopes[0] is scopes[1]
    scopes[0].detach()
    run = scopes[0].recording
    assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    both.number("steps recorded", len(run.steps), 6, 3)


@pytest.mark.style(
    "notebook: the cell that builds, watches and trains is run twice",
    part=PROCESS,
    how="each run has a scope and a folder of its own; the first ends with the process or by "
    "`detach()`",
    exact="both recordings",
)
def test_cell_with_a_new_model_run_twice(both, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scopes, all_losses = [], []
    for _ in range(2):
        model = mlp(4, 2)
        losses = []
        scopes.append(gradscope.watch(model, every=1))
        _loop(model, _sgd(model), 3, losses)
        all_losses.append(losses)
    assert scopes[0].folder != scopes[1].folder
    for scope, losses in zip(scopes, all_losses, strict=True):
        scope.detach()
        assert scope.recording.steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    both.number("steps of the first run", len(scopes[0].recording.steps), 3, 6)


@pytest.mark.style(
    "notebook: the same, into one folder (`run_dir=`, `overwrite=True`)",
    part=PROCESS,
    how="the scope that still writes there ends",
    exact="the last run",
    missing="the earlier run: it is overwritten, as asked",
)
def test_cell_run_twice_into_one_folder(both, tmp_path):
    for steps in (2, 3):
        model, losses = mlp(4, 2), []
        scope = gradscope.watch(model, every=1, run_dir=tmp_path / "cell", overwrite=True)
        _loop(model, _sgd(model), steps, losses)
    scope.detach()
    run = scope.recording
    assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    both.number("steps of the last run", len(run.steps), 3, "an error: the folder is in use")


@pytest.mark.style(
    "TorchScript (`torch.jit.script`) model",
    part=PROCESS,
    how="as a root: its own call; inside, no hook is placed",
    exact="gradients and updates of the parameters",
    missing="modules inside: `limits` and the banner say so",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script(both):
    def train(watching):
        model = torch.jit.script(mlp(4, 6, 2))
        losses, sizes = [], []
        with watching(model):
            first = next(iter(model.parameters()))
            _loop(model, _sgd(model), 3, losses, lambda x: sizes.append(norm(first.grad)))
        return Ran((model,), losses, {"norms": sizes})

    run, truth = both(train)
    assert any("TorchScript" in said for said in run.limits), run.limits
    assert len(run.steps) == 3
    for step, size in enumerate(truth["norms"]):
        both.number("gradient norm", gradient(run, "0.weight", step), size, "raises")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(4, 6)), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Backend:
    """Counts the graphs that torch.compile hands over; `fullgraph` lets a break raise."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


HOW = {
    "the model": lambda m, o: torch.compile(m, **o),
    "model.compile()": lambda m, o: (m.compile(**o), m)[1],
    "a step function": lambda m, o: torch.compile(lambda x: m(x), **o),
    "a function that is given the model": lambda m, o: (
        lambda f: lambda x: f(m, x)
    )(torch.compile(lambda model, x: model(x), **o)),
    "forward": lambda m, o: (setattr(m, "forward", torch.compile(m.forward, **o)), m)[1],
}  # fmt: skip


@pytest.mark.style(
    "torch.compile",
    part=PROCESS,
    how="no hook is traced into compiled code; the wrapper's own call is outside of it",
    exact="gradients, updates, losses; no further graph, no graph break; for a compiled module its "
    "own input and output",
    missing="modules inside: `limits` and the banner say so; operations (cuts, functional "
    "activations) of a model that runs compiled code",
    situations=(29, 30, 31),
)
@pytest.mark.parametrize("late", [False, True], ids=["before the watching", "during it"])
@pytest.mark.parametrize("way", list(HOW))
def test_compile(both, way, late):
    backends = []

    def train(watching):
        torch._dynamo.reset()
        model, backend = Small(), Backend()
        backends.append(backend)
        options = {"backend": backend, "fullgraph": True}
        losses, sizes = [], []

        def loop(call):
            _loop(call, _sgd(model), 6, losses, lambda x: sizes.append(norm(model.b.weight.grad)))

        if late:
            with watching(model, activations_every=2):
                loop(HOW[way](model, options))
        else:
            call = HOW[way](model, options)
            root = call if isinstance(call, nn.Module) else model
            with watching(root, activations_every=2):
                loop(call)
        return Ran((model,), losses, {"norms": sizes})

    run, truth = both(train)
    torch._dynamo.reset()
    assert backends[1].graphs == backends[0].graphs == 1
    assert run.limits
    assert "compiled" in run.limits[0]
    inside = {"a", "a.0", "b"}
    assert not inside & set(run.activations["module"])
    for step, size in enumerate(truth["norms"]):
        found = gradient(run, "b.weight", step)
        both.number("gradient norm (and no graph more)", found, size, "another graph")


@pytest.mark.style(
    "torch.compile of a part: a block, a loss function",
    part=PROCESS,
    how="only what is compiled loses its inner modules",
    exact="everything outside of it",
    missing="modules inside the block: `limits` and the banner name it",
    situations=(29, 32),
)
@pytest.mark.parametrize("part", ["block", "loss"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compile_of_a_part(both, part):
    backends = []

    def train(watching):
        torch._dynamo.reset()
        model, backend = Small(), Backend()
        backends.append(backend)
        options = {"backend": backend, "fullgraph": True}
        if part == "block":
            model.a = torch.compile(model.a, **options)
            loss_of = F.mse_loss
        else:
            loss_of = torch.compile(lambda out, y: (out - y).square().mean(), **options)
        losses, seen = [], 0
        optimizer = _sgd(model)
        with watching(model, activations_every=2):
            for x, y in batches(6):
                optimizer.zero_grad()
                loss = loss_of(model(x), y)
                loss.backward()
                losses.append(loss.item())
                optimizer.step()
        return Ran((model,), losses, {"rows": seen})

    run, _ = both(train)
    torch._dynamo.reset()
    assert backends[1].graphs == backends[0].graphs == 1
    seen = set(run.activations["module"])
    if part == "block":
        assert seen == {"", "a", "b"}
        assert any(said.startswith("compiled a:") for said in run.limits)
    else:
        assert seen == {"", "a", "a.0", "b"}
        assert run.limits == ()
        assert (run.examined["operation"] == "relu").any()
    calls = len(
        run.activations[(run.activations["module"] == "b") & (run.activations["role"] == 1)]
    )
    both.number("sampled steps with rows of a module outside", calls, 3, "nothing at all")


@pytest.mark.style(
    "torch.compile with inductor",
    part=PROCESS,
    how="as above",
    exact="gradients; the result is bit-identical",
    missing="as above",
    situations=(29,),
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_inductor(both):
    def train(watching):
        torch._dynamo.reset()
        model = Small()
        call = torch.compile(model, fullgraph=True)
        losses, sizes = [], []
        with watching(call):
            _loop(call, _sgd(model), 3, losses, lambda x: sizes.append(norm(model.b.weight.grad)))
        return Ran((model,), losses, {"norms": sizes})

    run, truth = both(train)
    torch._dynamo.reset()
    both.number("gradient norm", gradient(run, "b.weight", 2), truth["norms"][2], "nothing")


@pytest.mark.style(
    "two threads that train two models of one size",
    part=PROCESS,
    how="a call counts if its graph reaches a watched parameter; an optimizer of unknown "
    "parameters counts only in a thread that ran the model",
    exact="each model's own steps and losses",
)
def test_two_threads(both, tmp_path):
    def train(watching):
        torch.manual_seed(0)
        model, other = mlp(4, 6, 2), mlp(4, 6, 2)
        turn = threading.Barrier(2, timeout=60)
        losses, others = [], []

        def other_loop():
            def waits(x):
                turn.wait()
                turn.wait()

            _loop(lambda x: other(3 * x), _sgd(other), 5, others, waits)

        thread = threading.Thread(target=other_loop)
        with watching(model):
            thread.start()

            def waits(x):
                turn.wait()  # the other one's backward has run too
                turn.wait()

            _loop(model, _sgd(model), 5, losses, waits)
            thread.join()
        return Ran((model, other), [*losses, *others], {"losses": losses, "others": others})

    run, truth = both(train)
    assert run.steps["loss"].tolist() == pytest.approx(truth["losses"], rel=1e-5)
    assert run.steps["backwards"].tolist() == [1] * 5
    assert module_row(run, "0", Role.OUTPUT, 2)["calls"] == 1
    both.number("loss of the third step", run.steps["loss"][2], truth["losses"][2],
                truth["others"][2])  # fmt: skip


@pytest.mark.style(
    "an ensemble: several models trained on one line, one of them watched",
    part=PROCESS,
    how="each backward call's graph is asked for a watched parameter",
    exact="the watched model's own steps",
)
def test_one_of_several_models(both):
    def train(watching):
        models = [mlp(4, 2) for _ in range(3)]
        optimizers = [_sgd(model) for model in models]
        losses = [[] for _ in models]
        with watching(models[1]):
            for x, y in batches(4):
                outs = [model(x) for model in models]
                for i, (out, optimizer) in enumerate(zip(outs, optimizers, strict=True)):
                    optimizer.zero_grad()
                    loss = F.mse_loss(out, y)
                    loss.backward()
                    losses[i].append(loss.item())
                for optimizer in optimizers:
                    optimizer.step()
        return Ran(tuple(models), sum(losses, []), {"losses": losses})  # noqa: RUF017  three lists

    run, truth = both(train)
    assert run.steps["backwards"].tolist() == [1] * 4
    naive = sum(each[0] for each in truth["losses"]) / 3
    both.number("loss of the first step", run.steps["loss"][0], truth["losses"][1][0], naive)


class Noisy(torch.utils.data.Dataset):
    """Runs a forward of the model in the worker, as a data pipeline with a model does."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.full((4,), float(index))
        return x, self.model(x[None])[0].detach() * 0 + 1


@pytest.mark.style(
    "DataLoader workers",
    part=PROCESS,
    how="hooks ask for the process: those of a forked worker do nothing; a spawned one has none",
    exact="the training's own forwards",
    situations=(50,),
)
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_data_loader_workers(both, start):
    def train(watching):
        model = mlp(4, 6, 2)
        optimizer = _sgd(model)
        losses = []
        with watching(model):
            context = multiprocessing.get_context(start)
            data = (
                Noisy(model)
                if start == "fork"
                else TensorDataset(torch.ones(8, 4), torch.ones(8, 2))
            )
            for x, y in DataLoader(
                data, batch_size=4, num_workers=1, multiprocessing_context=context
            ):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                losses.append(loss.item())
                optimizer.step()
        return Ran((model,), losses, {"calls": 1})

    run, truth = both(train)
    assert len(run.steps) == 2
    assert run.steps["loss"].notna().all()
    both.number("calls of a layer a step", module_row(run, "0", 1, 1)["calls"], truth["calls"], 5)


def test_what_is_not_seen_stands_in_the_banner_and_in_json(both):
    def train(watching):
        torch._dynamo.reset()
        model = Small()
        model.a = torch.compile(model.a, backend="eager")
        losses = []
        with watching(model):
            _loop(model, _sgd(model), 3, losses)
        return Ran((model,), losses)

    run, _ = both(train)
    torch._dynamo.reset()
    (said,) = run.limits
    diagnosis = judge(run)
    assert said in render(diagnosis, "json")
    for form in ("full", "html", "markdown"):
        shown = " ".join(render(diagnosis, form).split())
        assert "compiled a: parameters are recorded exactly" in shown, form
