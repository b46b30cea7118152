"""Accelerate: as one of its trackers, and as plain ``watch`` around its loop."""

import logging
import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope
from gradscope.errors import UsageError
from gradscope.integrations.accelerate import GradscopeTracker

pytestmark = pytest.mark.filterwarnings("ignore")  # Accelerate's own


def train(accelerator, digits, model, epochs=2):
    data = DataLoader(TensorDataset(*digits), batch_size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    accelerator.init_trackers("digits", config={"lr": 0.1})
    for epoch in range(epochs):
        for x, y in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.05)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.log({"loss": loss.item()}, step=epoch)
    accelerator.end_training()


def test_as_a_tracker_its_numbers_are_those_of_plain_autograd(
    digits, plain, made, compared, folder, caplog
):
    model = made()
    tracker = GradscopeTracker(model, run_dir="run", every=1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with=[tracker])
    with caplog.at_level(logging.INFO, logger="accelerate"):
        train(accelerator, digits, model)
    compared(tracker.tracker.recording, plain)
    for name, value in plain.weights.items():
        assert torch.equal(model.state_dict()[name], value), "bit for bit"
    assert accelerator.get_tracker("gradscope", unwrap=True) is tracker.tracker
    assert not tracker.tracker.attached
    assert tracker.diagnosis.command == "watch"
    assert any("report in" in record.getMessage() for record in caplog.records)
    assert (folder / "run" / "report.html").stat().st_size > 20_000


def test_plain_watch_gives_the_same(digits, plain, made, compared, folder):
    model = made()
    with gradscope.watch(model, every=1) as scope:
        train(Accelerator(cpu=True, gradient_accumulation_steps=2), digits, model)
    compared(scope.recording, plain)


def test_the_training_is_bit_identical(digits, made, folder):
    def end(trackers):
        model = nn.Sequential(made()[0], nn.Dropout(0.3), made()[2])
        given = [tracker(model) for tracker in trackers]
        train(Accelerator(cpu=True, log_with=given or None), digits, model)
        return [*model.state_dict().values(), torch.get_rng_state()]

    without, watched = end([]), end([GradscopeTracker])
    assert all(map(torch.equal, without, watched))


def test_without_accelerate_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "gradscope.integrations.accelerate")
    for name in ("accelerate", "accelerate.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"(?s)not installed.*gradscope-torch\[accelerate\]"):
        import gradscope.integrations.accelerate  # noqa: F401
