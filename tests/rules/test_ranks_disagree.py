import contextlib
import math
import tempfile
from pathlib import Path

import pytest
import torch
from synthetic import Synthetic, falling
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules.ranks_disagree import RanksDisagree

rule = RanksDisagree()
STEPS = 40


class Replica(Synthetic):
    """One rank's recording: two layers, all numbers equal on all ranks."""

    def __init__(self, rank=0, world=2, steps=STEPS, layers=2):
        super().__init__(steps)
        self.run |= {"rank": rank, "world_size": world}
        for index in range(layers):
            self.layer(str(index))
        # the loss is each rank's own
        self.loss(falling(steps) * (1 + rank / 10))

    def scale(self, table, column, factor, *, parameter=0, since=0, until=STEPS):
        for row in getattr(self, f"_{table}"):
            if row["parameter"] == parameter and since <= row["step"] < until:
                row[column] *= factor**2
        return self


def check(*ranks, names=None):
    first, *others = (made.build() for made in ranks)
    names = names or [f"rank{1 + i}" for i in range(len(others))]
    joined = first.with_shards(dict(zip(names, others, strict=True)), ())
    return rule.check(joined, RanksDisagree.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def test_equal_replicas_pass():
    outcome = check(Replica(0), Replica(1))
    assert isinstance(outcome, Passed)
    assert outcome.measured == (
        "2 parameters, their gradients and learning rates agree between 2 ranks on 40 steps"
    )


def test_one_process_is_not_applicable():
    assert isinstance(check(Replica(world=1)), NotApplicable)


def test_a_forked_process_is_no_rank():
    assert isinstance(check(Replica(world=1), Replica(1), names=["rank0-fork7"]), NotApplicable)


def test_missing_ranks_are_undecided():
    outcome = check(Replica(world=4))
    assert isinstance(outcome, Undecided)
    assert "only rank 0 of 4" in outcome.missing


@pytest.mark.parametrize(("steps", "kind"), [(3, Passed), (2, Undecided)])
def test_steps_in_common(steps, kind):
    assert isinstance(check(Replica(steps=steps), Replica(1, steps=steps)), kind)


@pytest.mark.parametrize(("factor", "kind"), [(1 + 2e-4, Findings), (1 + 5e-5, Passed)])
def test_the_limit_of_gradients(factor, kind):
    outcome = check(Replica(0), Replica(1).scale("gradients", "sum_sq", factor, since=7))
    assert isinstance(outcome, kind)
    if kind is Findings:
        finding = only(outcome)
        assert (finding.kind, finding.first_step) == ("gradient", 7)
        assert finding.modules == ("0",)


@pytest.mark.parametrize(("factor", "kind"), [(1 + 2e-6, Findings), (1 + 5e-7, Passed)])
def test_the_limit_of_parameters(factor, kind):
    outcome = check(Replica(0), Replica(1).scale("updates", "before_sq", factor, since=7))
    assert isinstance(outcome, kind)
    if kind is Findings:
        assert only(outcome).kind == "update"


@pytest.mark.parametrize(("rate", "kind"), [(0.1 * (1 + 1e-8), Findings), (0.1, Passed)])
def test_the_limit_of_rates(rate, kind):
    other = Replica(1)
    other.each_step(lr=[[0.1]] * 20 + [[rate]] * 20)
    outcome = check(Replica(0), other)
    assert isinstance(outcome, kind)
    if kind is Findings:
        finding = only(outcome)
        assert (finding.kind, finding.severity, finding.first_step) == (
            "learning-rate", "warning", 20,
        )  # fmt: skip


def test_what_differs_first_is_the_cause():
    other = Replica(1).scale("gradients", "sum_sq", 1.1, since=5)
    other.scale("updates", "before_sq", 1.1, since=6)
    finding = only(check(Replica(0), other))
    assert finding.kind == "gradient"
    assert finding.summary == (
        "The replicas of `0.weight` get different gradients from step 5 on: the gradient norm of "
        "`0.weight` is 1 on rank 0 and 1.1 on rank 1."
    )


def test_severity_by_share_of_the_network():
    one = Replica(1, layers=3).scale("gradients", "sum_sq", 2.0)
    assert only(check(Replica(layers=3), one)).severity == "warning"
    one.scale("gradients", "sum_sq", 2.0, parameter=1)
    assert only(check(Replica(layers=3), one)).severity == "critical"


def test_a_gradient_that_only_one_rank_has():
    other = Replica(1)
    for row in other._gradients:
        if row["parameter"] == 0:
            row["sum_sq"] = math.nan
    finding = only(check(Replica(0), other))
    assert finding.kind == "gradient"
    assert math.isnan(finding.evidence[1].value)


def test_other_initial_values_under_shared_gradients():
    assert only(check(Replica(0), Replica(1).scale("updates", "before_sq", 1.5))).kind == "start"


def test_a_parameter_of_its_own_on_each_rank_is_set_aside():
    other = Replica(1).scale("updates", "before_sq", 1.5).scale("gradients", "sum_sq", 1.5)
    outcome = check(Replica(0), other)
    assert isinstance(outcome, Passed)
    assert "1 parameter of its own on each rank set aside" in outcome.measured


def test_trainings_that_share_nothing_are_undecided():
    other = Replica(1)
    for parameter in (0, 1):
        other.scale("updates", "before_sq", 1.5, parameter=parameter)
        other.scale("gradients", "sum_sq", 1.5, parameter=parameter)
    assert isinstance(check(Replica(0), other), Undecided)


def test_local_steps_that_are_averaged_again_pass():
    other = Replica(1)
    for parameter in (0, 1):
        other.scale("gradients", "sum_sq", 1.5, parameter=parameter)
        other.scale("updates", "before_sq", 1.01, parameter=parameter, since=1, until=8)
    assert isinstance(check(Replica(0), other), Passed)


def test_parts_of_a_model_are_no_replicas():
    assert isinstance(check(Replica(layers=2), Replica(1, layers=3)), NotApplicable)
    halves = [Replica(rank).scale("gradients", "sum_sq", 1 + rank) for rank in range(2)]
    for half in halves:
        for row in half._parameters:
            row["shard"] = [64]
    assert isinstance(check(*halves), NotApplicable)


@pytest.mark.parametrize(("steps", "kind"), [(38, Findings), (39, Passed)])
def test_a_rank_that_ends_early(steps, kind):
    # the last of 40 steps is number 39, of which 5 % are 1.95 steps
    outcome = check(Replica(0), Replica(1, steps=steps))
    assert isinstance(outcome, kind)
    if kind is Findings:
        assert (only(outcome).kind, only(outcome).severity) == ("steps", "note")


def test_three_ranks():
    finding = only(
        check(Replica(0, 3), Replica(1, 3), Replica(2, 3).scale("gradients", "sum_sq", 3.0))
    )
    assert [e.value for e in finding.evidence[:3]] == [1.0, 1.0, 3.0]


# ---------------------------------------------------------------------- two real ranks


def _train(rank, store, folder, fault):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 4))
    parallel = DistributedDataParallel(model)
    decay = 0.1 if fault == "update" and rank else 0.0
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=3e-3, weight_decay=decay)
    writer = Writer(Path(folder), rank=rank)
    observer = Observer([parallel], writer=writer, budget=None)
    observer.attach()
    for step in range(STEPS):
        if fault == "learning-rate" and rank and step == 10:
            optimizer.param_groups[0]["lr"] = 2e-3
        optimizer.zero_grad()
        parts = 2 if fault == "accumulation" else 1
        for part in range(parts):
            x = torch.randn(8, 16)
            alone = (fault == "gradient" and step >= 10) or part < parts - 1
            with parallel.no_sync() if alone else contextlib.nullcontext():
                functional.cross_entropy(parallel(x), x[:, :4].argmax(1)).backward()
        optimizer.step()
    observer.detach()
    writer.close()
    distributed.destroy_process_group()


@pytest.mark.parametrize("fault", ["none", "accumulation", "gradient", "learning-rate", "update"])
def test_two_ranks(tmp_path, fault):
    store = Path(tempfile.mkdtemp(dir=tmp_path)) / "store"
    folder = tmp_path / "run"
    multiprocessing.spawn(_train, (str(store), str(folder), fault), nprocs=2)
    recording = load_run(folder)
    assert set(recording.shards) == {"rank1"}
    outcome = rule.check(recording, RanksDisagree.options)
    if fault in ("none", "accumulation"):
        assert isinstance(outcome, Passed), outcome
        return
    finding = only(outcome)
    assert (finding.kind, finding.severity) == (fault, "critical")
    assert finding.first_step == {"gradient": 10, "learning-rate": 10, "update": 1}[fault]
    assert finding.modules == ("0",)
