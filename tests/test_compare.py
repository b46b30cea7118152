"""Two sides of runs: the one changed layer is found, and seeds alone say nothing."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradscope
from gradscope.compare import compare
from gradscope.diagnose.apart.noise import noise, student
from gradscope.diagnose.apart.series import windows
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding
from gradscope.errors import RecordingError, UsageError
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.session.comparing import compare_folders, exit_code, runs_in

STEPS = 30


class Branched(nn.Module):
    """A convolution, a residual branch and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.stem(x.reshape(-1, 1, 4, 4)))
        return self.head((x + self.branch(x)).mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(),
        nn.Linear(32, 4),
    )  # fmt: skip


def train(folder: Path, seed: int, make=mlp, change=None, groups=None, steps: int = STEPS) -> Path:
    """One healthy run: four patterns with noise are told apart."""
    torch.manual_seed(seed)
    model = make()
    patterns = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
    if change is not None:
        with torch.no_grad():
            change(model)
    optimizer = torch.optim.Adam(groups(model) if groups else model.parameters(), 3e-3)
    with gradscope.watch(model, run_dir=folder, every=1, activations_every=1):
        for _ in range(steps):
            labels = torch.randint(4, (32,))
            x = patterns[labels] + 0.7 * torch.randn(32, 16)
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
    return folder


def quieter(model):
    model[2].weight.mul_(0.2)


def flatter(model):
    model[3] = nn.Sigmoid()


def slower(model):
    rest = [p for name, p in model.named_parameters() if not name.startswith("4.")]
    return [{"params": rest}, {"params": list(model[4].parameters()), "lr": 3e-4}]


def even(model):
    rest = [p for name, p in model.named_parameters() if not name.startswith("4.")]
    return [{"params": rest}, {"params": list(model[4].parameters()), "lr": 3e-3}]


@cache
def side(*folders: Path) -> tuple[Diagnosis, ...]:
    """Runs as one side, without findings: what the rules say is not what is tested here."""
    return tuple(Diagnosis(load_run(folder), ()) for folder in folders)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = {f"seed{seed}": train(folder / f"seed{seed}", seed) for seed in range(4)}
    made["again"] = train(folder / "again", 0)
    for name, change in (("quieter", quieter), ("flatter", flatter)):
        for seed in (0, 7):
            made[f"{name}{seed}"] = train(folder / f"{name}{seed}", seed, change=change)
    made["even"] = train(folder / "even", 0, groups=even)
    made["slower"] = train(folder / "slower", 0, groups=slower)
    made["slower7"] = train(folder / "slower7", 7, groups=slower)
    for seed in range(3):
        made[f"branched{seed}"] = train(folder / f"branched{seed}", seed, make=Branched)
    return made


def test_two_runs_of_one_seed_are_the_same_bit_for_bit(runs) -> None:
    found = compare(side(runs["seed0"]), side(runs["again"]))
    assert found.identical
    assert not found.apart
    assert not found.differences
    assert found.same_until == STEPS - 1
    assert "the same, bit for bit" in found.verdict


@pytest.mark.parametrize(
    ("before", "after", "layer", "what"),
    [("seed0", "quieter0", "2", "output"), ("seed0", "flatter0", "3", "output"),
     ("even", "slower", "4", "update")],
)  # fmt: skip
def test_of_one_seed_the_changed_layer_is_named_for_certain(
    runs, before, after, layer, what
) -> None:
    found = compare(side(runs[before]), side(runs[after]))
    assert found.first is not None
    step, layers, statistic = found.first
    assert (step, statistic) == (0, what)
    assert {name.split(".")[0] for name in layers} == {layer}
    assert f"`{layer}`" in found.verdict


@pytest.mark.parametrize(
    ("before", "after", "layer"),
    [("seed0", "quieter7", "2"), ("seed1", "quieter0", "2"), ("seed0", "flatter7", "3"),
     ("seed2", "slower7", "4")],
)  # fmt: skip
def test_of_two_seeds_the_changed_layer_is_the_most_changed_one(runs, before, after, layer) -> None:
    found = compare(side(runs[before]), side(runs[after]))
    assert found.layers[0] == layer
    assert found.first is None, "two seeds are no twins"
    assert found.same_until is None
    own = [d for d in found.differences if d.own]
    assert min(d.since for d in own if d.layer.split(".")[0] == layer) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [(f"{kind}{a}", f"{kind}{b}") for kind, count in (("seed", 4), ("branched", 3))
     for a in range(count) for b in range(a)],
)  # fmt: skip
def test_two_seeds_of_one_healthy_run_say_nothing(runs, one, other) -> None:
    found = compare(side(runs[one]), side(runs[other]))
    assert found.differences == ()
    assert found.structure == ()
    assert not found.apart
    assert found.regressions == () or "loss" not in found.regressions[0]
    assert "no more than seeds do" in found.verdict


def test_several_runs_a_side_find_the_layer_and_are_silent_without_a_change(runs) -> None:
    healthy = [runs["seed0"], runs["seed1"], runs["seed2"]]
    changed = compare(side(*healthy), side(runs["quieter0"], runs["quieter7"]))
    assert changed.layers[0] == "2"
    alike = compare(side(*healthy[:2]), side(runs["seed2"], runs["seed3"]))
    assert not alike.differences
    assert len(alike.a.folders) == len(alike.b.folders) == 2


def test_what_is_made_differently_is_listed(runs) -> None:
    found = compare(side(runs["seed0"]), side(runs["flatter0"]))
    assert ("3", "`3` is a Tanh in A, a Sigmoid in B") in found.structure


def test_a_change_in_the_middle_is_dated(tmp_path) -> None:
    def run(folder, cut):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        with gradscope.watch(model, run_dir=folder, every=1, activations_every=1):
            for step in range(24):
                if cut and step == 14:
                    model[2].weight.requires_grad_(False)
                x = torch.randn(16, 16)
                optimizer.zero_grad()
                F.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
                optimizer.step()
        return folder

    found = compare(side(run(tmp_path / "a", False)), side(run(tmp_path / "b", True)))
    assert found.same_until == 13
    assert found.first is not None
    assert found.first[0] == 14
    assert "2" in {name.split(".")[0] for name in found.first[1]}


def finding(code: str, severity: str, layer: str = "fc") -> Finding:
    return Finding(code, "a-name", severity, "strong", f"`{layer}` is ill", modules=(layer,))  # type: ignore[arg-type]


def judged(*findings: Finding) -> Diagnosis:
    return Diagnosis(Recording({}, {}), findings)


def test_findings_are_new_gone_changed_or_the_same() -> None:
    old = judged(finding("GS101", "warning"), finding("GS301", "note"), finding("GS402", "note"))
    new = judged(
        finding("GS101", "critical"), finding("GS402", "note"), finding("GS104", "warning")
    )
    found = compare([old], [new])
    kinds = {change.finding.code: change.kind for change in found.changes}
    assert kinds == {"GS104": "new", "GS101": "changed", "GS301": "gone", "GS402": "same"}
    assert [r.split(":")[0] for r in found.regressions] == ["new", "worse"]
    assert exit_code(found, "regression") == 1
    assert exit_code(found, "never") == 0


def test_a_new_note_and_what_got_better_are_no_regressions() -> None:
    found = compare([judged(finding("GS101", "critical"))],
                    [judged(finding("GS101", "note"), finding("GS301", "note"))])  # fmt: skip
    assert found.regressions == ()
    assert exit_code(found, "regression") == 0


def test_a_finding_counts_for_a_side_when_most_of_its_runs_have_it() -> None:
    ill, well = judged(finding("GS103", "warning")), judged()
    found = compare([well, well, well], [ill, well, well])
    assert found.changes[0].kind == "now and then"
    assert not found.regressions
    found = compare([well, well, well], [ill, ill, well])
    assert found.changes[0].kind == "new"
    assert found.regressions


def test_a_loss_that_is_higher_than_seeds_explain_is_a_regression(runs, tmp_path) -> None:
    held = train(tmp_path / "held", 1, groups=lambda model: [model[0].bias])
    found = compare(side(runs["seed0"]), side(held))
    assert found.loss is not None
    assert found.loss.b > found.loss.a * found.loss.limit
    assert found.loss.worse
    assert any("the loss from step" in sentence for sentence in found.regressions)
    assert exit_code(found, "regression") == 1
    better = compare(side(held), side(runs["seed0"]))
    assert better.regressions == ()


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    # tables of Student's t: two-sided 5 %, 0.2 %, 0.1 %
    [(0.975, 8, 2.306), (0.999, 12, 3.930), (0.9995, 30, 3.646), (0.975, 4, 2.776)],
)
def test_students_quantiles(probability, freedom, expected) -> None:
    assert student(probability, freedom) == pytest.approx(expected, rel=3e-3)


def test_noise_of_runs_replaces_the_tables_as_they_become_many() -> None:
    generator = np.random.default_rng(0)
    quiet = generator.normal(0, 0.001, (12, 5))
    assert noise(0.1, quiet[:1], quiet[1:2]).spread == 0.1
    few = noise(0.1, quiet[:2], quiet[2:4]).spread
    many = noise(0.1, quiet[:6], quiet[6:]).spread
    assert 0.1 > few > many > 0.001


def test_windows_double_and_a_short_rest_joins_the_last_one() -> None:
    sizes = [len(group) for group in windows(np.arange(42))]
    assert sizes == [1, 4, 5, 10, 22]
    assert [len(group) for group in windows(np.arange(1))] == [1]
    assert np.concatenate(windows(np.arange(97))).tolist() == list(range(97))


def test_a_folder_of_runs_stands_for_all_of_them(runs, tmp_path) -> None:
    parent = runs["seed0"].parent
    assert runs["seed0"] in runs_in(parent)
    assert len(runs_in(parent)) > 3
    assert runs_in(runs["seed0"]) == [runs["seed0"]]
    with pytest.raises(RecordingError, match="holds no recording"):
        runs_in(tmp_path)
    with pytest.raises(RecordingError, match="cannot be read"):
        runs_in(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="side B has no run"):
        compare_folders([runs["seed0"]], [])
