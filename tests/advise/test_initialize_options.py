"""The further initialisations: what each sets in a live model, and what its diff sets."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.advise import lsuv_code
from gradscope.advise.advisor import advise, options
from gradscope.advise.source import Source
from gradscope.advise.treatments.lsuv import FromFirstBatch
from gradscope.advise.treatments.places import Place
from gradscope.advise.treatments.weights import Initialise
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding
from gradscope.observe.experiment.steering import Steering

HEAD = "import torch\nimport torch.nn as nn\n\n\n"
NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc1 = nn.Linear(288, 64)
        self.fc2 = nn.Linear(64, 64)
        self.out = nn.Linear(64, 4)
        for m in (self.fc1, self.fc2):
            nn.init.normal_(m.weight, std=0.001)

    def forward(self, x):
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
"""
)


def outputs_of(model, *inputs):
    """Each leaf's output, found without gradscope: a hook of the test's own."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda m, _i, out, n=name: seen.__setitem__(n, out))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
    return seen


def variants(done, code="GS101", kind="small-weights", **facts):
    """The options of ``initialize`` for a finding, by what tells them apart."""
    finding = done_finding(code, kind, **facts)
    advised = advise(Diagnosis(done.recording, (finding,)))
    (several,) = [
        several
        for several in options(advised)[0]
        if several and several[0].fix.name == "initialize"
    ]
    return several


def done_finding(code, kind, **facts):
    given = {"name": "x", "severity": "critical", "confidence": "strong", "summary": "it is sick"}
    return Finding(code=code, kind=kind, **{**given, **facts})


def titled(several, text):
    (found,) = [option for option in several if text in option.fix.title]
    return found


def test_lsuv_gives_each_output_a_variance_of_one(study):
    torch.manual_seed(3)
    model = study(NET, 3, 8, 8).model
    change = FromFirstBatch([Place("Net", name) for name in ("conv", "fc1", "fc2", "out")])
    change = pickle.loads(pickle.dumps(change))
    x = 7 + 3 * torch.randn(128, 3, 8, 8)
    change.model(model)
    assert not change.applied
    loss = F.cross_entropy(model(x), torch.zeros(128, dtype=torch.long))
    assert change.applied
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    for name, output in outputs_of(model, x).items():
        assert output.var().item() == pytest.approx(1, rel=1e-3), name
    for module in (model.fc1, model.fc2):
        # orthogonal up to the one factor
        gram = module.weight @ module.weight.T
        assert torch.allclose(gram, gram[0, 0] * torch.eye(64), atol=1e-4 * gram[0, 0].item())
    # the second batch is only looked at by the layers themselves
    weights = [p.detach().clone() for p in model.parameters()]
    model(x / 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_lsuv_under_autocast_uses_the_new_weights(study):
    torch.manual_seed(3)
    model = study(NET, 3, 8, 8).model
    FromFirstBatch([Place("Net", "fc1")]).model(model)
    x = torch.randn(64, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        outputs_of(model, x)
        first = outputs_of(model, x)["fc1"]
    with torch.no_grad():
        now = outputs_of(model, x)["fc1"]
    assert first.float().var().item() == pytest.approx(1, rel=0.05)
    assert now.var().item() == pytest.approx(1, rel=0.05)


def test_a_layer_without_signal_and_a_computed_weight_are_left(study):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.utils.parametrizations.weight_norm(model[0])
    change = FromFirstBatch([Place("Sequential", "0"), Place("Sequential", "1")])
    change.model(model)
    with torch.no_grad():
        model[0].bias.zero_()
    assert model(torch.zeros(8, 4)).eq(0).all()
    assert not change.applied


def test_the_diff_of_lsuv_does_the_same(study):
    done = study(NET, 3, 8, 8)
    option = titled(variants(done, modules=("fc1",)), "LSUV")
    assert option.fix.applicability == "may-change-results"
    text = done.mended(option.fix)
    assert text.count("orthogonal_") == 1
    model = done.rebuilt(option.fix)
    x = 7 + 3 * torch.randn(128, 3, 8, 8)
    model(x).sum().backward()
    for name, output in outputs_of(model, x).items():
        assert output.var().item() == pytest.approx(1, rel=1e-3), name
    assert [m._forward_hooks for m in model.modules() if m._forward_hooks] == []
    (change,) = option.treatment.interventions
    assert {place.path for place in change.places} == {"conv", "fc1", "fc2", "out"}


BUILT = (
    HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), LAST)


def spoil(m):
    if isinstance(m, nn.Linear):
        m.weight.data.mul_(0.001)


model = build_model()
model.apply(spoil)
"""
).replace("LAST", "nn.Linear(32, 4)")


def test_lsuv_of_a_model_that_a_function_returns(study):
    done = study(BUILT, 16)
    option = titled(variants(done, modules=("0",)), "LSUV")
    model = done.rebuilt(option.fix)
    x = torch.randn(256, 16)
    model(x)
    assert all(o.var().item() == pytest.approx(1, rel=1e-3) for o in outputs_of(model, x).values())


def test_the_snippet_of_lsuv_runs(study):
    done = study(NET, 3, 8, 8)
    layers = Source(done.recording).layers.leaves
    weighted = [layer for layer in layers if layer.weighted]
    names = {"torch": torch, "nn": nn, "model": done.model}
    exec(lsuv_code.snippet(weighted), names)
    x = torch.randn(128, 3, 8, 8)
    done.model(x)
    found = outputs_of(done.model, x).values()
    assert all(o.var().item() == pytest.approx(1, rel=1e-3) for o in found)


def test_tied_weights_and_several_ranks_get_no_lsuv(study):
    done = study(NET, 3, 8, 8)
    assert "LSUV" in str([o.fix.title for o in variants(done, modules=("fc1",))])
    ranks = variants(done.run_facts(world_size=2), modules=("fc1",))
    assert "LSUV" not in str([o.fix.title for o in ranks])
    for row in done.records["parameters"]:
        if row["path"] == "fc1.weight":
            row["aliases"] = ["fc2.weight"]
    assert "LSUV" not in str([o.fix.title for o in variants(done, modules=("fc1",))])


@pytest.mark.parametrize(
    ("activation", "gain"), [("ReLU", math.sqrt(2)), ("Tanh", 5 / 3), ("Sigmoid", 1.0)]
)
def test_orthogonal_weights_keep_the_norm_up_to_the_gain(study, activation, gain):
    text = (
        HEAD
        + f"""
model = nn.Sequential(nn.Linear(64, 64), nn.{activation}(), nn.Linear(64, 4))
model[0].weight.data.fill_(0.001)
"""
    )
    done = study(text, 64)
    option = titled(variants(done, modules=("0",)), "orthogonal")
    live = study(text, 64).model
    (change,) = option.treatment.interventions
    change.model(live)
    x = torch.randn(64)
    for model in (done.rebuilt(option.fix), live):
        size = (model[0].weight @ x).norm() / x.norm()
        assert size.item() == pytest.approx(gain, rel=1e-4)


RECURRENT = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.KIND(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])
"""
)


def recurrent(study, layer, scale=0.1, **facts):
    """A recurrent net's options, whose recurrent weights are recorded as off by ``scale``."""
    done = study(RECURRENT.replace("KIND", layer), 5, 8)
    for row in done.records["parameters"]:
        if row["path"] == "rnn.weight_hh_l0":
            row["initial_std"] = scale / 4
    given = {"code": "GS101", "kind": "", "modules": ("rnn",), **facts}
    return done, variants(done, **given)


def gates(rnn):
    return rnn.weight_hh_l0.detach().chunk(rnn.weight_hh_l0.shape[0] // 16)


def both(done, option, study, kind):
    """The layer as the diff makes it, and as the trial does."""
    live = study(RECURRENT.replace("KIND", kind), 5, 8).model
    for change in option.treatment.interventions:
        change.model(live)
        assert change.applied
    return done.rebuilt(option.fix).rnn, live.rnn


@pytest.mark.parametrize(("kind", "count"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_each_gate_gets_an_orthogonal_matrix(study, kind, count):
    done, several = recurrent(study, kind)
    option = titled(several, "orthogonal matrices")
    for rnn in both(done, option, study, kind):
        assert len(gates(rnn)) == count
        for gate in gates(rnn):
            assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)
        forget = rnn.bias_ih_l0.detach() + rnn.bias_hh_l0.detach()
        assert forget.sum().item() == pytest.approx(16.0 if kind == "LSTM" else 0.0)


def test_an_identity_hands_the_state_on(study):
    done, several = recurrent(study, "RNN")
    option = titled(several, "with the identity")
    for rnn in both(done, option, study, "RNN"):
        assert torch.equal(rnn.weight_hh_l0, torch.eye(16))
        assert rnn.bias_ih_l0.eq(0).all()
        assert rnn.bias_hh_l0.eq(0).all()


def test_what_helps_where_a_gradient_vanishes_through_time(study):
    found = {"kind": "through-time", "modules": ("rnn",)}
    done, several = recurrent(study, "RNN", scale=0.3, **found)
    assert titled(several, "orthogonal matrices")
    assert titled(several, "with the identity")
    fixes = done.fixes("GS101", **found)
    # not what helps a gradient over the layers before and behind
    assert list(fixes) == ["initialize", "lstm-or-gru"]
    done, several = recurrent(study, "LSTM", scale=1.0, **found)
    assert titled(several, "forget gates")
    assert "lstm-or-gru" not in done.fixes("GS101", **found)


def test_where_a_state_grows_the_identity_is_scaled(study):
    done, several = recurrent(study, "RNN", scale=3.0, code="GS102", kind="through-time")
    option = titled(several, "0.9 times the identity")
    for rnn in both(done, option, study, "RNN"):
        assert torch.allclose(rnn.weight_hh_l0, 0.9 * torch.eye(16))
    # weights that are too small make no state grow
    small = study(RECURRENT.replace("KIND", "RNN"), 5, 8)
    for row in small.records["parameters"]:
        if row["path"] == "rnn.weight_hh_l0":
            row["initial_std"] = 0.01
    assert "initialize" not in small.fixes("GS102", "through-time", modules=("rnn",))


def test_an_open_forget_gate_keeps_the_cell(study):
    done, several = recurrent(study, "LSTM")
    option = titled(several, "forget gates")
    x, cell = torch.zeros(1, 1, 8), torch.ones(1, 1, 16)
    for rnn in both(done, option, study, "LSTM"):
        with torch.no_grad():
            for weight in (rnn.weight_hh_l0, rnn.weight_ih_l0):
                weight.zero_()
            # all but the forget gate: nothing new comes in
            rnn.bias_ih_l0[32:48] = rnn.bias_hh_l0[32:48] = 0
            _, (_, after) = rnn(x, (torch.zeros(1, 1, 16), cell))
        assert torch.allclose(after, torch.sigmoid(torch.ones(1, 1, 16)))


@pytest.mark.parametrize(("mean", "advised"), [(0.19, True), (0.21, False)])
def test_gates_that_are_open_already_are_left(study, mean, advised):
    done = study(RECURRENT.replace("KIND", "LSTM"), 5, 8)
    for row in done.records["parameters"]:
        if row["path"] == "rnn.weight_hh_l0":
            row["initial_std"] = 0.25
        if row["path"] == "rnn.bias_ih_l0":
            row["initial_mean"] = mean
    fixes = done.fixes("GS101", modules=("rnn",))
    assert ("initialize" in fixes) is advised
    if advised:
        assert "forget" in fixes["initialize"].reason


def test_a_file_that_sets_recurrent_weights_itself_gets_a_snippet(study):
    text = RECURRENT.replace("KIND", "LSTM").replace(
        "        self.head",
        "        nn.init.normal_(self.rnn.weight_hh_l0, std=0.01)\n        self.head",
    )
    done = study(text, 5, 8)
    fix = done.fixes("GS101", modules=("rnn",))["initialize"]
    assert fix.diff is None
    names = {"torch": torch, "nn": nn, "model": done.model}
    exec(fix.snippet, names)
    for gate in gates(done.model.rnn):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)


def test_a_gru_has_no_identity_and_no_forget_gate(study):
    _, several = recurrent(study, "GRU")
    assert len(several) == 1
    change = Initialise([Place("Net", "rnn")], "identity")
    model = study(RECURRENT.replace("KIND", "GRU"), 5, 8).model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    change.model(model)
    assert not change.applied
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_treated_training_begins_with_unit_variance(study):
    """Through the machinery of a trial, with the batch that the loop itself brings."""
    torch.manual_seed(0)
    model = study(NET, 3, 8, 8).model
    change = FromFirstBatch([Place("Net", name) for name in ("conv", "fc1", "fc2", "out")])
    steering = Steering((change,), lambda step: None, roots=(model,))
    state = torch.get_rng_state()
    steering.install()
    try:
        assert torch.equal(state, torch.get_rng_state())
        x = torch.randn(64, 3, 8, 8)
        found = outputs_of(model, x)
    finally:
        steering.remove()
    assert found["out"].var().item() == pytest.approx(1, rel=1e-3)
