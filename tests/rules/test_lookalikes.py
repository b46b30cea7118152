"""Healthy trainings that look sick to a simple rule: none of them may raise more than a note."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.diagnose.engine import diagnose
from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules import RULES

STEPS = 100


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def batches(digits, size=64):
    generator = torch.Generator().manual_seed(0)
    images, labels = digits
    while True:
        picked = torch.randint(len(images), (size,), generator=generator)
        yield images[picked], labels[picked]


def mlp(depth=3, activation=nn.ReLU, width=48):
    layers, size = [], 64
    for _ in range(depth):
        layers += [nn.Linear(size, width), activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 10))


def trained(digits, model, steps=500):
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _, (x, y) in zip(range(steps), batches(digits), strict=False):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def watched(models, step, folder, steps=STEPS):
    """The diagnosis of ``step`` called ``steps`` times."""
    writer = Writer(folder)
    observer = Observer(models, writer=writer, budget=None, every=1, activations_every=1)
    observer.attach()
    try:
        for _ in range(steps):
            step()
    finally:
        observer.detach()
        writer.close()
    return diagnose(load_run(folder), RULES)


def loop(model, optimizer, data, loss=functional.cross_entropy):
    def step():
        x, y = next(data)
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def alarms(diagnosis):
    assert diagnosis.errors == ()
    return [(f.code, f.kind, f.severity) for f in diagnosis.findings]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_accumulation(digits, tmp_path):
    model, data = mlp(), batches(digits)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def step():
        optimizer.zero_grad()
        for _ in range(4):
            x, y = next(data)
            (functional.cross_entropy(model(x), y) / 4).backward()
        optimizer.step()

    assert alarms(watched([model], step, tmp_path / "run")) == []


def test_a_loss_divided_by_ten_thousand_under_adam(digits, tmp_path):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    step = loop(
        model, optimizer, batches(digits), lambda o, y: functional.cross_entropy(o, y) / 1e4
    )
    assert alarms(watched([model], step, tmp_path / "run")) == []


class Lora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, base.in_features) / 8)
        self.up = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def test_lora_whose_first_step_has_zero_gradients(digits, tmp_path):
    model = trained(digits, mlp()).requires_grad_(False)
    model[0], model[2] = Lora(model[0]), Lora(model[2])
    held = [p for p in model.parameters() if p.requires_grad]
    step = loop(model, torch.optim.Adam(held, lr=1e-3), batches(digits))
    assert alarms(watched([model], step, tmp_path / "run")) == []


def test_a_head_on_a_frozen_backbone(digits, tmp_path):
    model = trained(digits, mlp())
    model[:-1].requires_grad_(False)
    model[-1] = nn.Linear(48, 10)
    optimizer = torch.optim.Adam(model[-1].parameters(), lr=1e-2)
    assert alarms(watched([model], loop(model, optimizer, batches(digits)), tmp_path / "run")) == []


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(48, 48), nn.Linear(48, 48)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


def test_zero_initialised_branches_and_head(digits, tmp_path):
    model = nn.Sequential(nn.Linear(64, 48), *[Block() for _ in range(6)], nn.Linear(48, 10))
    nn.init.zeros_(model[-1].weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    assert alarms(watched([model], loop(model, optimizer, batches(digits)), tmp_path / "run")) == []


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_a_converged_start(digits, tmp_path, activation):
    model = trained(digits, mlp(activation=activation), steps=900)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    assert alarms(watched([model], loop(model, optimizer, batches(digits)), tmp_path / "run")) == []


def test_a_warm_up_from_zero(digits, tmp_path):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, n / 60))
    inner = loop(model, optimizer, batches(digits))

    def step():
        inner()
        schedule.step()

    assert alarms(watched([model], step, tmp_path / "run", steps=70)) == []


def test_a_gan(tmp_path):
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    of_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
    of_c = torch.optim.Adam(critic.parameters(), lr=1e-3)
    bce, ones, zeros = (
        functional.binary_cross_entropy_with_logits,
        torch.ones(32, 1),
        torch.zeros(32, 1),
    )

    def step():
        fake = generator(torch.randn(32, 4))
        of_c.zero_grad()
        real = torch.randn(32, 2) * 0.3 + 1
        (bce(critic(real), ones) + bce(critic(fake.detach()), zeros)).backward()
        of_c.step()
        of_g.zero_grad()
        bce(critic(fake), ones).backward()
        of_g.step()

    assert alarms(watched([generator, critic], step, tmp_path / "run")) == []


def test_a_narrow_autoencoder(digits, tmp_path):
    model = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2),
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 64),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images = ((x, x) for x, _ in batches(digits))
    step = loop(model, optimizer, images, functional.mse_loss)
    assert alarms(watched([model], step, tmp_path / "run")) == []


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.spare = nn.Linear(64, 48), nn.Linear(48, 10), nn.Linear(48, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def test_an_unused_head_is_a_note(digits, tmp_path):
    model = Heads()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = watched([model], loop(model, optimizer, batches(digits)), tmp_path / "run")
    assert alarms(found) == [("GS104", "unused", "note")]
    assert found.findings[0].modules == ("spare",)
    assert found.exit_code == 0


def test_noise_in_the_targets(tmp_path):
    x = torch.randn(2_000, 8)
    y = 0.4 * x[:, :1] + torch.randn(2_000, 1)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    diagnosis = gradscope.check(
        model,
        batches=torch.utils.data.TensorDataset(x, y),
        loss=functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        steps=STEPS,
        run_dir=tmp_path / "run",
    )
    assert alarms(diagnosis) == []


def test_the_same_network_with_a_fault_is_found(digits, tmp_path):
    """The guard of the guards: the way these tests watch does find faults."""
    model = mlp(8, nn.Sigmoid)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = watched([model], loop(model, optimizer, batches(digits)), tmp_path / "run")
    assert alarms(found) == [("GS101", "activation-slope", "critical")]
