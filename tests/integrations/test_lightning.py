"""Lightning, under both of its names."""

import importlib
import pickle
import sys

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.errors import UsageError
from gradscope.integrations.lightning import GradscopeCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and pytrees

QUIET = {
    "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 1,
}  # fmt: skip


NAMES = ("lightning.pytorch", "pytorch_lightning")


def only(name, monkeypatch):
    """The framework under one of its names, as if the other were not installed."""
    framework = importlib.import_module(name)
    for other in set(NAMES) - {name}:
        monkeypatch.setitem(sys.modules, other, None)
    return framework


@pytest.fixture(params=NAMES)
def either(request, monkeypatch):
    return only(request.param, monkeypatch)


@pytest.fixture
def pl(monkeypatch):
    return only("lightning.pytorch", monkeypatch)


def task(pl, network, *, fails_at=None):
    class Digits(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network

        def training_step(self, batch, index):
            if self.global_step == fails_at:
                raise RuntimeError("the data is gone")
            x, y = batch
            return nn.functional.cross_entropy(self.network(x), y)

        def validation_step(self, batch, index):
            self.network(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Digits()


def fit(pl, digits, network, callbacks, *, fails_at=None, epochs=2, **options):
    torch.manual_seed(1)
    data = DataLoader(TensorDataset(*digits), batch_size=32)
    module = task(pl, network, fails_at=fails_at)
    trainer = pl.Trainer(
        max_epochs=epochs, accumulate_grad_batches=2, gradient_clip_val=0.05, callbacks=callbacks,
        **{"logger": False, **QUIET, **options},
    )  # fmt: skip
    trainer.fit(module, data, data)
    return trainer, module


def test_steps_names_and_numbers_are_those_of_plain_autograd(
    either, digits, plain, made, compared, folder
):
    watcher = GradscopeCallback(run_dir="run", every=1)
    assert isinstance(watcher, either.Callback)
    trainer, module = fit(either, digits, made(), [watcher])
    recording = watcher.scope.recording
    compared(recording, plain, prefix="network.")
    assert len(recording.steps) == trainer.global_step
    for name, value in plain.weights.items():
        assert torch.equal(module.state_dict()[f"network.{name}"], value), "bit for bit"
    assert recording.limits == ()
    assert set(recording.features["kind"]) == {"input"}, "the network's input was described"
    assert (folder / "run" / "report.html").stat().st_size > 20_000


def test_the_training_is_bit_identical(pl, digits, made, folder):
    def trained(callbacks):
        network = nn.Sequential(made()[0], nn.Dropout(0.3), nn.ReLU(), made()[2])
        _, module = fit(pl, digits, network, callbacks, epochs=1)
        return [*module.state_dict().values(), torch.get_rng_state()]

    without, watched = trained([]), trained([GradscopeCallback()])
    assert all(map(torch.equal, without, watched))


def test_findings_go_to_the_loggers_and_to_the_log(pl, digits, made, folder, caplog):
    logger = pl.loggers.CSVLogger("logs")
    watcher = GradscopeCallback(report="out/r.json", every=1)
    with caplog.at_level("INFO", logger=pl.__name__):
        fit(pl, digits, made(), [watcher], epochs=14, logger=logger)
    assert [finding.code for finding in watcher.diagnosis.findings] == ["GS502"]
    table = pd.read_csv(f"{logger.log_dir}/metrics.csv")
    assert table["gradscope/warning"].dropna().tolist() == [1.0]
    assert table["gradscope/critical"].dropna().tolist() == [0.0]
    told = [record.getMessage() for record in caplog.records if record.name == pl.__name__]
    assert any("gradscope: GS502 clipping-binds-always" in text for text in told)
    assert (folder / "out" / "r.json").exists()


def test_what_was_recorded_before_a_failure_is_reported(pl, digits, made, folder):
    watcher = GradscopeCallback(run_dir="run")
    with pytest.raises(RuntimeError, match="the data is gone"):
        fit(pl, digits, made(), [watcher], fails_at=3)
    assert "failed at step 3" in watcher.diagnosis.failed
    assert "the data is gone" in (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert not watcher.scope.attached


def test_steps_go_on_where_a_checkpoint_ended(pl, digits, made, folder):
    trainer, _ = fit(pl, digits, made(), [], epochs=1)
    trainer.save_checkpoint("a.ckpt")
    watcher = GradscopeCallback(every=1)
    data = DataLoader(TensorDataset(*digits), batch_size=32)
    again = pl.Trainer(
        max_epochs=2, accumulate_grad_batches=2, callbacks=[watcher], logger=False, **QUIET
    )
    again.fit(task(pl, made()), data, ckpt_path="a.ckpt", weights_only=False)
    assert watcher.scope.recording.steps["step"].tolist() == [4, 5, 6, 7]


def test_a_callback_that_begins_anew_elsewhere(pl):
    """Launchers of several processes pickle it."""
    watcher = GradscopeCallback("r.html", every=3)
    copied = pickle.loads(pickle.dumps(watcher))
    assert isinstance(copied, pl.Callback)
    assert (copied._report, copied._watching) == ("r.html", {"every": 3})


def test_an_own_subclass_stays_a_callback(either):
    class Mine(GradscopeCallback):
        """A user's."""

    mine = Mine(every=2)
    assert isinstance(mine, Mine)
    assert isinstance(mine, either.Callback)
    assert type(pickle.loads(pickle.dumps(GradscopeCallback()))) is type(GradscopeCallback())


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"(?s)not installed.*gradscope-torch\[lightning\]"):
        GradscopeCallback()
