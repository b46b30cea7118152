"""Faults that reach a training from outside, and the promise that it does not notice."""

from __future__ import annotations

import itertools
import logging
import socket
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from watching import fingerprint, observed, recording, seed_everything

import gradscope
from gradscope.observe.recorder import Recorder

STEPS = 12


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    seed_everything()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def test_a_clock_that_goes_backwards_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = fresh()
    plain = fingerprint(model, losses=train(model, optimizer))
    model, optimizer = fresh()
    ticks = itertools.count(1_000.0, -0.25)
    with observed(tmp_path / "run", model, optimizer=optimizer), monkeypatch.context() as patched:
        patched.setattr(time, "perf_counter", lambda: next(ticks))
        patched.setattr(time, "time", lambda: next(ticks))
        losses = train(model, optimizer)
    assert fingerprint(model, losses=losses) == plain
    steps = recording(tmp_path / "run").steps
    assert list(steps["step"]) == list(range(STEPS))
    for column in ("time", "step_seconds", "own_seconds"):
        assert (steps[column].dropna() >= 0).all(), column


def test_nothing_of_a_run_opens_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    class Refused(socket.socket):
        def __init__(self, *args: object, **kwargs: object) -> None:
            opened.append(args)
            raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", Refused)
    model, optimizer = fresh()
    with gradscope.watch(model, optimizer=optimizer, run_dir=tmp_path / "run") as scope:
        train(model, optimizer)
    scope.report(tmp_path / "report.html")
    scope.report(tmp_path / "report.json")
    assert opened == []


def test_nothing_is_written_outside_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    model, optimizer = fresh()
    with gradscope.watch(model, optimizer=optimizer, run_dir=tmp_path / "run"):
        train(model, optimizer)
    assert list(work.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "work"]


@pytest.mark.parametrize("step", [0, 5])
def test_a_failure_of_our_own_never_stops_a_training(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = fresh()
    plain = fingerprint(model, losses=train(model, optimizer))
    before = Recorder.before_update

    def fails(self: Recorder, optimizer: object) -> None:
        if self.steps == step:
            raise KeyError("on purpose")
        before(self, optimizer)

    monkeypatch.setattr(Recorder, "before_update", fails)
    model, optimizer = fresh()
    with (
        caplog.at_level(logging.ERROR, "gradscope"),
        observed(tmp_path / "run", model, optimizer=optimizer) as observer,
    ):
        losses = train(model, optimizer)
    assert fingerprint(model, losses=losses) == plain
    assert len(caplog.records) == 1, "told once, not on every step"
    assert f"step {step}" in str(observer.failure)
    assert "on purpose" in str(observer.failure)
    kept = recording(tmp_path / "run")
    assert len(kept.steps) == step, "what was recorded before it is there"
    assert any("its own failure" in limit for limit in kept.run["limits"])
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
