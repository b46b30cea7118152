"""Training scripts as other people write them, run unmodified: nothing in them changes.

Each is run by Python and by ``gradscope run``, and both are compared: what they print, how they
end, what they save, and the random states of torch, numpy and random at their end. The steps and
the names of the parameters are written down here by hand.
"""

import functools
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope

SCRIPTS = Path(__file__).parents[1] / "scripts"
AT_EXIT = """
import atexit, random
import numpy
random.seed(1)
numpy.random.seed(1)

def states():
    import hashlib, json, random, sys
    digest = hashlib.sha256(repr(random.getstate()).encode())
    digest.update(repr(numpy.random.get_state()).encode())
    if "torch" in sys.modules:
        digest.update(sys.modules["torch"].get_rng_state().numpy().tobytes())
    with open("states.txt", "w") as file:
        file.write(digest.hexdigest())

atexit.register(states)
"""
IN_A_PROCESS = ("digits_cnn",)
"""Run by interpreters of their own; the others by forks of a warm one, see tests/processes."""


@dataclass(frozen=True)
class Case:
    """A script, its command line, and what is right."""

    words: tuple[str, ...]
    steps: int
    parameters: str
    saved: str
    code: int = 0
    limits: int = 0


CASES = {
    "digits_cnn": Case(
        ("digits_cnn.py", "--epochs", "2", "--lr", "0.002"), 20,
        "conv1.weight conv1.bias conv2.weight conv2.bias fc1.weight fc1.bias fc2.weight fc2.bias",
        "digits_cnn.pt",
    ),
    "from_scratch": Case(("from_scratch.py",), 30, "W1 b1 W2", "weights.pt"),
    "curve_lbfgs": Case(("curve_lbfgs.py",), 8, "0.weight 0.bias 2.weight 2.bias", "curve.pt"),
    "gan": Case(
        ("gan.py", "--niter", "12"), 24,
        "netD.0.weight netD.0.bias netD.2.weight netD.2.bias "
        "netG.0.weight netG.0.bias netG.2.weight netG.2.bias",
        "gan.pt",
    ),
    "word_lm": Case(
        ("word_lm.py", "--clip", "0.3"), 16,
        "encoder.weight decoder.bias "
        + " ".join(f"rnn.{kind}_l{i}" for i in (0, 1)
                   for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "model.pt",
    ),
    "trainer": Case(
        ("trainer.py",), 21,
        "norm.weight norm.bias layers.0.weight layers.0.bias layers.1.weight layers.1.bias "
        "head.weight head.bias",
        "checkpoints/last.pt",
    ),
    "textclf": Case(
        ("-m", "textclf.train", "-m", "0.5"), 16,
        "embedding.weight fc.weight fc.bias", "textclf.pt",
    ),
    "accumulate": Case(
        ("accumulate.py",), 12,
        "transformer.wte.weight transformer.wpe.weight transformer.ln_f.weight "
        "transformer.ln_f.bias " + " ".join(
            f"transformer.h.{i}.{name}" for i in (0, 1) for name in (
                "ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias",
                "attn.out_proj.weight", "attn.out_proj.bias", "ln_2.weight", "ln_2.bias",
                "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")),
        "ckpt.pt", limits=1,  # nn.MultiheadAttention reads out_proj's weight without calling it
    ),
    "mixed_precision": Case(
        ("mixed_precision.py",), 24, "inp.weight inp.bias out.weight out.bias", "net.pt"
    ),
    "workers": Case(("workers.py",), 16, "0.weight 0.bias 2.weight 2.bias", "digits.pt"),
    "reinforce": Case(
        ("reinforce.py",), 20, "affine1.weight affine1.bias affine2.weight affine2.bias",
        "policy.pt",
    ),
    "two_phases": Case(
        ("two_phases.py",), 20,
        "autoencoder.0.0.weight autoencoder.0.0.bias autoencoder.0.2.weight autoencoder.0.2.bias "
        "autoencoder.2.weight autoencoder.2.bias classifier.head.weight classifier.head.bias",
        "classifier.pt",
    ),
    "distill": Case(
        ("distill.py", "20"), 40,
        "scale shared.bias shared.parametrizations.weight.original0 "
        "shared.parametrizations.weight.original1 out.weight out.bias",
        "student.pt", 3,
    ),
    "hooks_and_pickle": Case(
        ("hooks_and_pickle.py",), 12,
        "block0.weight block0.bias block1.weight block1.bias norm.weight norm.bias",
        "residual.pt",
    ),
}  # fmt: skip


def copied(folder):
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(AT_EXIT)
    return folder


def environment(folder):
    return os.environ | {"PYTHONPATH": str(folder / "site")}


def in_a_process(folder, *words):
    """Exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(folder), capture_output=True,
        text=True, timeout=600, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def in_a_fork(python, folder, *words):
    """The same, without loading torch anew."""
    done = python.run(*words, folder=folder, environment=environment(folder))
    return done.returncode, done.stdout, done.stderr


def saved(file):
    """A digest of everything in a file that torch has saved, in its order."""
    digest = hashlib.sha256()

    def take(thing):
        if isinstance(thing, torch.Tensor):
            digest.update(repr((thing.dtype, thing.shape)).encode())
            digest.update(thing.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(thing, nn.Module):
            for module in thing.modules():
                take([type(module).__name__, module.training])
                take([module._parameters, module._buffers])
                take([len(module._forward_hooks), len(module._forward_pre_hooks)])
        elif isinstance(thing, dict):
            for key, value in thing.items():
                digest.update(repr(key).encode())
                take(value)
        elif isinstance(thing, list | tuple):
            for item in thing:
                take(item)
        else:
            digest.update(repr(thing).encode())

    take(torch.load(file, weights_only=file.name != "model.pt"))
    return digest.hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_a_script_runs_as_it_always_did_and_is_seen_right(name, tmp_path, python, monkeypatch):
    case = CASES[name]
    options = ("--every", "1", "--run-dir", "run", "--quiet", "-o", "out.json")
    before, after = copied(tmp_path / "plain"), copied(tmp_path / "ours")
    execute = in_a_process if name in IN_A_PROCESS else functools.partial(in_a_fork, python)
    plain = execute(before, *case.words)
    ours = execute(after, "-m", "gradscope", "run", *options, *case.words)
    assert plain[0] == case.code, plain[2]
    assert ours == plain

    if name == "word_lm":  # a whole model, of a class of the script
        names = runpy.run_path(str(SCRIPTS / "word_lm.py"), run_name="word_lm")
        monkeypatch.setattr(sys.modules["__main__"], "RNNModel", names["RNNModel"], raising=False)
    assert saved(after / case.saved) == saved(before / case.saved)

    recording = gradscope.load_run(after / "run")
    document = json.loads((after / "out.json").read_text())
    assert len(recording.steps) == document["run"]["steps_seen"] == case.steps
    assert recording.count("gradients") == case.steps
    assert set(recording.gradients["parameter"]) == set(case.parameters.split())
    assert len(document["limits"]) == case.limits, document["limits"]
    assert document["errors"] == []
    assert document["exit_code"] == case.code
    assert (after / "run" / "report.html").stat().st_size > 10_000
