"""The Trainer of transformers, whose own hook before the step comes after clipping."""

import logging
import sys

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from gradscope.errors import UsageError
from gradscope.integrations.transformers import GradscopeCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own


class Digits(nn.Module):
    def __init__(self, network, dropout=0.0):
        super().__init__()
        self.network, self.dropout = network, nn.Dropout(dropout)

    def forward(self, x, labels=None):
        logits = self.network(self.dropout(x))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trained(digits, model, callbacks, folder, *, resume=None, **options):
    data = [{"x": x, "labels": y} for x, y in zip(*digits, strict=True)]
    settings = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 2, "num_train_epochs": 2, "max_grad_norm": 0.05,
        "learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd", "weight_decay": 0.0,
        "report_to": [], "logging_steps": 1, "use_cpu": True, "save_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip
    trainer = InOrder(
        model, TrainingArguments(**{**settings, **options}), train_dataset=data, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Late(TrainerCallback):
    """What the Trainer's only hook before the step can see."""

    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **given):
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        self.norms.append(gradients.norm().item())


def test_steps_names_and_numbers_are_those_of_plain_autograd(digits, plain, made, compared, folder):
    watcher, late = GradscopeCallback(run_dir="run", every=1), Late()
    model = Digits(made())
    trainer = trained(digits, model, [watcher, late], folder)
    recording = watcher.scope.recording
    compared(recording, plain, prefix="network.")
    assert len(recording.steps) == trainer.state.global_step
    assert late.norms == pytest.approx([0.05] * 8, rel=1e-3), "the hook is too late"
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert recording.steps["norm_before_clip"].tolist() == pytest.approx(logged, rel=1e-6)
    for name, value in plain.weights.items():
        assert torch.equal(model.state_dict()[f"network.{name}"], value), "bit for bit"
    assert (folder / "run" / "report.html").stat().st_size > 20_000


def test_the_training_is_bit_identical(digits, made, folder):
    def end(callbacks):
        model = Digits(made(), dropout=0.3)
        trained(digits, model, callbacks, folder, num_train_epochs=1, optim="adamw_torch_fused")
        return [*model.state_dict().values(), torch.get_rng_state()]

    without, watched = end([]), end([GradscopeCallback()])
    assert all(map(torch.equal, without, watched))


def test_findings_go_to_the_log_and_to_the_history(digits, made, folder, caplog):
    logging.getLogger("transformers").propagate = True
    watcher = GradscopeCallback(report="r.json", every=1)
    with caplog.at_level("INFO", logger="transformers"):
        trainer = trained(digits, Digits(made()), [watcher], folder, num_train_epochs=14)
    assert [finding.code for finding in watcher.diagnosis.findings] == ["GS502"]
    last = trainer.state.log_history[-1]
    assert (last["gradscope/warning"], last["step"]) == (1.0, trainer.state.global_step)
    assert any("GS502 clipping-binds-always" in record.getMessage() for record in caplog.records)
    assert (folder / "r.json").exists()


def test_steps_go_on_where_a_checkpoint_ended(digits, made, folder):
    trained(digits, Digits(made()), [], folder, num_train_epochs=1, save_strategy="epoch")
    watcher = GradscopeCallback(every=1)
    checkpoint = str(folder / "out" / "checkpoint-4")
    trained(digits, Digits(made()), [watcher], folder, resume=checkpoint)
    assert watcher.scope.recording.steps["step"].tolist() == [4, 5, 6, 7]


def test_a_nan_that_the_trainer_hides_is_seen(digits, made, folder):
    class Breaks(Digits):
        calls = 0

        def forward(self, x, labels=None):
            self.calls += 1
            found = super().forward(x, labels)
            return found if self.calls != 5 else {**found, "loss": found["loss"] * float("nan")}

    watcher = GradscopeCallback(every=1)
    trainer = trained(digits, Breaks(made()), [watcher], folder, num_train_epochs=1)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(loss == loss for loss in logged), "the Trainer's log shows none"
    alarms = watcher.scope.recording.alarms
    assert alarms.loc[alarms["kind"] == "loss-nonfinite", "step"].iloc[0] == 2
    assert watcher.diagnosis.findings[0].code == "GS201"


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "gradscope.integrations.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"(?s)not installed.*gradscope-torch\[transformers\]"):
        import gradscope.integrations.transformers  # noqa: F401
