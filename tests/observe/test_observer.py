"""What the observer records of real trainings, against numbers that the loop itself computes."""

import copy
import inspect
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from watching import fingerprint, observed, recording, seed_everything

from gradscope.observe.model.construction import ConstructionTrace
from gradscope.recording.facts import Role, State


class Net(nn.Module):
    """Reused layers, dropout, batch norm, in-place activations, a dict output."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.act = nn.ReLU(inplace=True)
        self.twice = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.act(self.norm(self.first(x)))
        h = F.gelu(self.twice(h))
        h += self.twice(self.drop(h))
        return {"logits": self.head(h), "hidden": h}


def _data(n=40):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 16, 6, generator=generator)
    y = torch.randint(0, 3, (n, 16), generator=generator)
    return list(zip(x, y, strict=True))


def _train(model, steps=40, clip=None, accumulate=1, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)
    losses, norms = [], []
    for i, (x, y) in enumerate(_data(steps * accumulate)):
        loss = F.cross_entropy(model(x)["logits"], y)
        loss.backward()
        losses.append(loss.item())
        if (i + 1) % accumulate:
            continue
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        norms.append({n: float(p.grad.double().norm()) for n, p in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms


def test_training_is_bit_identical_with_and_without(tmp_path):
    prints = []
    for number, options in enumerate([None, {}, {"every": None}, {"every": None, "budget": None}]):
        seed_everything()
        model = Net()
        if options is None:
            losses, _ = _train(model, clip=1.0)
        else:
            with observed(tmp_path / str(number), model, **options):
                losses, _ = _train(model, clip=1.0)
        prints.append(fingerprint(model, losses=losses))
    assert len(set(prints)) == 1


def test_gradients_are_those_that_the_optimizer_used(tmp_path):
    seed_everything()
    model = Net()
    with observed(tmp_path / "run", model):
        losses, norms = _train(model, steps=6, clip=0.1, accumulate=2)
    run = recording(tmp_path / "run")
    assert len(run.steps) == 6
    assert run.steps["backwards"].tolist() == [2] * 6
    assert run.steps["loss"].tolist() == pytest.approx(
        [np.mean(losses[2 * i : 2 * i + 2]) for i in range(6)], rel=1e-6
    )
    for step, truth in enumerate(norms):
        rows = run.gradients[run.gradients["step"] == step].set_index("parameter")["norm"]
        assert set(rows.index) == set(truth)
        for name, value in truth.items():
            assert rows[name] == pytest.approx(value, rel=1e-4, abs=1e-9)
        total = np.sqrt(sum(v**2 for v in truth.values()))
        assert run.steps["norm"][step] == pytest.approx(total, rel=1e-4)
        assert run.steps["norm_before_clip"][step] > run.steps["norm"][step]
    assert (run.steps["clip_limit"] == 0.1).all()
    kinds = run.events[run.events["step"] == 1]["kind"].tolist()
    assert kinds == ["zero-grad", "backward", "backward", "clip", "step"]
    assert run.events["site"].iloc[0].startswith("tests/observe/test_observer.py:")


def test_module_gradients_equal_those_of_autograd(tmp_path):
    seed_everything()
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    with observed(tmp_path / "run", model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    a = model[0](x)
    b = model[1](a)
    c = model[2](b)
    truth = torch.autograd.grad(F.mse_loss(c, y), (a, b, c))
    run = recording(tmp_path / "run")
    frame = run.activations.set_index(["module", "role"])
    for name, value, gradient in zip("012", (a, b, c), truth, strict=True):
        row = frame.loc[(name, int(Role.OUTPUT))]
        assert row["rms"] == pytest.approx(float(value.detach().square().mean().sqrt()), rel=1e-5)
        spread = float(
            (value.var(0, unbiased=False).mean() / value.square().mean()).detach().sqrt()
        )
        assert row["spread"] == pytest.approx(spread, rel=1e-5)
        row = frame.loc[(name, int(Role.GRAD_OUTPUT))]
        assert row["rms"] == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-5)
    assert frame.loc[("2", int(Role.GRAD_INPUT))]["rms"] == pytest.approx(
        frame.loc[("1", int(Role.GRAD_OUTPUT))]["rms"]
    )
    inputs = run.activations[run.activations["role"] == Role.INPUT].set_index("module")
    assert run.module_names[inputs.loc["2"]["source_id"]] == "1"
    assert (inputs.loc[["0", "1", "2"]]["consumers"].tolist()) == [-1, 1, 1]


def test_a_tensor_with_two_readers_is_marked(tmp_path):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.inner(x)

    model = nn.Sequential(nn.Linear(4, 4), Residual())
    with observed(tmp_path / "run", model):
        model(torch.randn(3, 4)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    frame = recording(tmp_path / "run").activations
    rows = frame[(frame["module"] == "1.inner") & (frame["role"] == Role.INPUT)]
    assert rows["consumers"].tolist() == [2]


def test_detach_leaves_nothing_behind(tmp_path):
    model = Net()
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    with pytest.raises(ZeroDivisionError), observed(tmp_path / "run", model):
        _train(model, steps=2)
        raise ZeroDivisionError
    for name, module in model.named_modules():
        assert set(vars(module)) == set(before[name])
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert not getattr(module, hooks)
        assert module._is_full_backward_hook is None
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not hasattr(torch.autograd.backward, "__wrapped__")
    _train(model, steps=2)
    assert len(recording(tmp_path / "run").steps) == 2


def test_a_watched_model_pickles_and_deep_copies_as_before(tmp_path):
    model = Net()
    with observed(tmp_path / "run", model):
        _train(model, steps=1)
        twin = copy.deepcopy(model)
        again = pickle.loads(pickle.dumps(model))
        file = io.BytesIO()
        torch.save(model, file)
        for other in (twin, again):
            F.cross_entropy(other(_data(1)[0][0])["logits"], _data(1)[0][1]).backward()
        _train(model, steps=1)
    assert set(twin.state_dict()) == set(model.state_dict())
    run = recording(tmp_path / "run")
    assert len(run.steps) == 2
    assert set(run.modules["name"]) == {name for name, _ in model.named_modules()}
    outputs = run.activations[
        (run.activations["module"] == "first") & (run.activations["role"] == 1)
    ]
    assert outputs["calls"].tolist() == [1, 1]


def test_states_of_frozen_unused_and_zero_gradients(tmp_path):
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.zero = nn.Parameter(torch.zeros(3))
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.used(x)) + 0 * self.zero

    model = Partial()
    with observed(tmp_path / "run", model):
        model(torch.randn(2, 3)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    run = recording(tmp_path / "run")
    state = run.gradients.set_index("parameter")["state"]
    assert state["used.weight"] == State.FINITE
    assert state["unused.weight"] == State.NONE
    assert state["zero"] == State.EXACT_ZERO
    assert "frozen.weight" not in state.index
    parameters = run.parameters.set_index("name")
    assert not parameters.loc["frozen.weight", "requires_grad"]
    assert np.isnan(run.gradients.set_index("parameter")["norm"]["unused.weight"])
    assert parameters.loc["used.weight", "reached"]
    assert not parameters.loc["unused.weight", "reached"]
    assert parameters.loc["unused.weight", "unreached_reason"] == "unused"


def test_a_closure_is_read_when_its_gradients_are_there(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        seen.append(float(model.weight.grad.norm()))
        return loss

    with observed(tmp_path / "run", model):
        firsts = []
        for _ in range(3):
            seen.clear()
            optimizer.step(closure)
            firsts.append(seen[0])
    run = recording(tmp_path / "run")
    rows = run.gradients[run.gradients["parameter"] == "weight"]
    assert rows["norm"].tolist() == pytest.approx(firsts, rel=1e-5)
    assert len(run.steps) == 3


def test_a_step_that_calls_super_counts_once(tmp_path):
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    model = nn.Linear(2, 1)
    with observed(tmp_path / "run", model):
        optimizer = Twice(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert len(recording(tmp_path / "run").steps) == 3


def test_a_gan_keeps_two_models_and_two_optimizers_apart(tmp_path):
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    g_step = torch.optim.SGD(generator.parameters(), lr=0.1)
    c_step = torch.optim.SGD(critic.parameters(), lr=0.1)
    truth = []
    with observed(tmp_path / "run", generator, critic, labels=("generator", "critic")):
        for _ in range(4):
            noise, real = torch.randn(8, 2), torch.randn(8, 2)
            c_step.zero_grad()
            (critic(generator(noise).detach()) - critic(real)).mean().backward()
            truth.append(("critic.weight", float(critic.weight.grad.norm())))
            c_step.step()
            g_step.zero_grad()
            (-critic(generator(noise)).mean()).backward()
            truth.append(("generator.weight", float(generator.weight.grad.norm())))
            g_step.step()
    run = recording(tmp_path / "run")
    assert len(run.steps) == 8
    assert run.steps["optimizer"].tolist() == [0, 1] * 4
    for step, (name, value) in list(enumerate(truth))[2:]:
        rows = run.gradients[run.gradients["step"] == step].set_index("parameter")["norm"]
        assert rows[name] == pytest.approx(value, rel=1e-5)
        assert {n.split(".")[0] for n in rows.index} == {name.split(".")[0]}
    assert run.steps["site"].nunique() == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scaler_is_taken_out_of_losses_and_gradients(tmp_path, fused):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    truth = []
    with observed(tmp_path / "run", model):
        for step in range(5):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y) * (float("inf") if step == 3 else 1.0)
            (true,) = torch.autograd.grad(loss, model.weight, retain_graph=True)
            truth.append((float(loss.detach()), float(true.norm())))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    run = recording(tmp_path / "run")
    assert run.steps["skipped"].tolist() == [False, False, False, True, False]
    rows = run.gradients[run.gradients["parameter"] == "weight"].set_index("step")["norm"]
    for step in (0, 1, 2, 4):
        assert run.steps["loss"][step] == pytest.approx(truth[step][0], rel=1e-5)
        assert rows[step] == pytest.approx(truth[step][1], rel=1e-4)


def test_a_hand_written_update_has_steps(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    truth = []
    with observed(tmp_path / "run", model):
        for _ in range(6):
            model.zero_grad()
            F.mse_loss(model(x), y).backward()
            truth.append(float(model.weight.grad.norm()))
            for parameter in model.parameters():
                parameter.data.add_(parameter.grad, alpha=-0.1)
    run = recording(tmp_path / "run")
    assert len(run.steps) == 6
    assert (run.steps["optimizer"] == -1).all()
    rows = run.gradients[run.gradients["parameter"] == "weight"].set_index("step")["norm"]
    # the first step is known to be one only when the second backward comes
    assert rows.loc[1:].tolist() == pytest.approx(truth[1:], rel=1e-5)


def test_sparse_and_shared_parameters(tmp_path):
    torch.manual_seed(0)
    table = nn.Embedding(50, 4, sparse=True)
    head = nn.Linear(4, 50, bias=False)
    model = nn.Sequential(table, head)
    tied = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 50, bias=False))
    tied[1].weight = tied[0].weight
    index = torch.tensor([1, 1, 2])
    with observed(tmp_path / "run", model, tied):
        optimizer = torch.optim.SGD([*model.parameters(), *tied.parameters()], lr=0.1)
        (model(index).square().sum() + tied(index).square().sum()).backward()
        expected = {
            "sequential.0.weight": float(table.weight.grad.to_dense().norm()),
            "sequential2.0.weight": float(tied[0].weight.grad.norm()),
        }
        optimizer.step()
    run = recording(tmp_path / "run")
    rows = run.gradients.set_index("parameter")["norm"]
    for name, value in expected.items():
        assert rows[name] == pytest.approx(value, rel=1e-5)
    assert len(rows) == 3
    parameters = run.parameters.set_index("name")
    assert parameters.loc["sequential2.0.weight", "aliases"] == ["1.weight"]


def test_updates_come_from_the_real_step(tmp_path):
    seed_everything()
    model = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ratios = []
    with observed(tmp_path / "run", model):
        for _ in range(4):
            before = model.weight.detach().double().clone()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            ratios.append(float((model.weight.detach().double() - before).norm() / before.norm()))
    run = recording(tmp_path / "run")
    rows = run.updates[run.updates["parameter"] == "weight"]
    assert rows["ratio"].tolist() == pytest.approx(ratios, rel=1e-4)


def test_losses_carry_the_trivial_baseline(tmp_path):
    seed_everything()
    model = Net()
    with observed(tmp_path / "run", model):
        losses, _ = _train(model, steps=10)
    run = recording(tmp_path / "run")
    assert set(run.losses["operation"]) == {"cross_entropy"}
    assert run.losses["value"].tolist() == pytest.approx(losses, rel=1e-5)
    labels = torch.cat([y for _, y in _data(10)])
    share = torch.bincount(labels).double() / len(labels)
    entropy = -float((share * share.log()).sum())
    assert run.losses["baseline"].iloc[-1] == pytest.approx(entropy, rel=1e-5)


def test_functional_and_module_activations_have_unit_states(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 9), nn.Linear(9, 7), nn.Linear(7, 2)
            self.act = nn.ReLU()
            with torch.no_grad():
                self.a.bias[:3] = -100
                self.b.bias[:2] = -100

        def forward(self, x):
            return self.c(F.relu(self.b(self.act(self.a(x)))))

    seed_everything()
    model = Mixed()
    with observed(tmp_path / "run", model):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(64, 4)).sum().backward()
            optimizer.step()
    run = recording(tmp_path / "run")
    frame = run.units.reset_index(drop=True)
    module = frame[frame["module"] == "act"]
    assert (module["units"] == 9).all()
    active, _ = run.unit_states(module.index[0])
    assert not active[:3].any()
    assert active[3:].any()
    functional = frame[frame["module"] == "c"]
    assert (functional["role"] == Role.INPUT).all()
    active, _ = run.unit_states(functional.index[-1])
    assert not active[:2].any()


def test_own_failure_never_stops_the_training(tmp_path, monkeypatch, caplog):
    seed_everything()
    model = Net()
    with observed(tmp_path / "run", model) as observer:
        _train(model, steps=2)
        monkeypatch.setattr(observer._recorder._updates, "before", lambda *_, **__: 1 / 0)
        losses, _ = _train(model, steps=3)
        assert len(losses) == 3
        assert "ZeroDivisionError" in observer.failure
    assert len(caplog.records) == 1
    run = recording(tmp_path / "run")
    assert len(run.steps) == 2
    assert any("stopped observing at step 2" in limit for limit in run.limits)


def test_a_compiled_model_says_that_modules_are_not_seen(tmp_path):
    seed_everything()
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    with observed(tmp_path / "run", model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            norm = float(model._orig_mod[0].weight.grad.norm())
            optimizer.step()
    run = recording(tmp_path / "run")
    assert [limit for limit in run.limits if "compiled model" in limit]
    rows = run.gradients[run.gradients["parameter"] == "0.weight"]
    assert rows["norm"].iloc[-1] == pytest.approx(norm, rel=1e-5)
    # the root's own input and output pass outside of the compiled code
    assert set(run.activations["module"]) == {""}


def test_evaluation_in_between_changes_nothing(tmp_path):
    seed_everything()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with observed(tmp_path / "run", model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model.eval()
            with torch.no_grad():
                model(torch.randn(100, 4))
            model.train()
            optimizer.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    frame = recording(tmp_path / "run").activations
    rows = frame[(frame["module"] == "0") & (frame["role"] == Role.OUTPUT)]
    assert rows["count"].tolist() == [12, 12, 12]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_are_counted_once(tmp_path, reentrant):
    seed_everything()
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(4, 4), block, nn.Linear(4, 1)

        def forward(self, x):
            x = torch.utils.checkpoint.checkpoint(self.block, self.stem(x), use_reentrant=reentrant)
            return self.head(x)

    model = Outer()
    with observed(tmp_path / "run", model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    run = recording(tmp_path / "run")
    frame = run.activations
    for role in (Role.OUTPUT, Role.GRAD_OUTPUT):
        rows = frame[(frame["module"] == "block.0") & (frame["role"] == role)]
        assert rows["calls"].tolist() == [1, 1], role


def test_calls_are_those_of_one_forward(tmp_path):
    seed_everything()
    model = Net()
    with observed(tmp_path / "run", model):
        _train(model, steps=3, accumulate=2)
    modules = recording(tmp_path / "run").modules.set_index("name")
    assert modules.loc["twice", "calls"] == 2
    assert modules.loc["first", "calls"] == 1
    order = modules.sort_values("order").index.tolist()
    assert order == ["", "first", "norm", "act", "twice", "drop", "head"]


def test_the_line_that_builds_an_optimizer_is_kept(tmp_path):
    with ConstructionTrace():
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        line = inspect.currentframe().f_lineno - 1
    with observed(tmp_path / "run", model, optimizer=optimizer):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    events = recording(tmp_path / "run").events
    (site,) = events[events["kind"] == "optimizer-built"]["site"]
    assert site == f"tests/observe/test_observer.py:{line}"


def test_inputs_and_targets_are_described_feature_by_feature(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    y = torch.randn(50, 2) * 7 + 3
    model = nn.Linear(3, 2)
    with observed(tmp_path / "run", model):
        F.mse_loss(model(x), y).backward()
        torch.optim.SGD(model.parameters(), lr=1e-6).step()
    features = recording(tmp_path / "run").features.set_index("kind")
    given, wanted = features.loc["input"], features.loc["target"]
    assert given["features"] == 3
    assert given["mean"] == pytest.approx(x.double().mean(0).tolist())
    assert given["std"] == pytest.approx(x.double().std(0, unbiased=False).tolist())
    assert given["low"] == pytest.approx(x.amin(0).tolist())
    assert given["high"] == pytest.approx(x.amax(0).tolist())
    assert wanted["mean"] == pytest.approx(y.double().mean(0).tolist())
    assert wanted["std"] == pytest.approx(y.double().std(0, unbiased=False).tolist())
    assert wanted["count"] == 50


def test_channels_of_images_are_features_and_many_features_are_strided(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(16, 1))
    wide = nn.Linear(3000, 1)
    with observed(tmp_path / "run", model, wide):
        loss = model(torch.ones(5, 2, 4, 4)).sum() + wide(torch.ones(2, 3000)).sum()
        loss.backward()
        torch.optim.SGD([*model.parameters(), *wide.parameters()], lr=1e-6).step()
    features = recording(tmp_path / "run").features
    assert features["features"].tolist() == [2, 3000]
    assert features["count"].tolist() == [5 * 16, 2]
    assert features["stride"].tolist() == [1, 3]
    assert len(features["mean"].iloc[1]) == 1000


def test_a_cut_is_the_users_own_line_not_a_hook_of_ours(tmp_path):

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            h = F.relu(self.a(x))
            h = F.relu(self.b(h))
            self.line = inspect.currentframe().f_lineno + 1
            h = h.detach()
            return self.c(h)

    model = Cut()
    with observed(tmp_path / "run", model):
        model(torch.randn(4, 3)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    run = recording(tmp_path / "run")
    cuts = run.examined[run.examined["kind"] == "cut"]
    assert cuts[["operation", "line"]].to_numpy().tolist() == [["detach", model.line]]
    parameters = run.parameters.set_index("name")
    for name in ("a.weight", "b.bias"):
        assert parameters.loc[name, "unreached_line"] == model.line
        assert parameters.loc[name, "unreached_reason"] == "detached"
