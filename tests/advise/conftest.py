"""Real files, real models and real patches for the tests of the advising stage.

``study`` writes a file, runs it, looks at the model while it is built and while it computes once,
and makes a recording in memory from what it saw: independent of gradscope's own observer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradscope.advise.advisor import advise
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix
from gradscope.recording.facts import ACTIVATIONS, UPDATES, Activation
from gradscope.recording.reader import Recording

KINDS = {
    "ReLU": Activation.RELU,
    "Sigmoid": Activation.SIGMOID,
    "Tanh": Activation.TANH,
    "GELU": Activation.GELU,
    "LeakyReLU": Activation.LEAKY,
}
SETTINGS = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size")


@dataclass
class Study:
    """A file that was run, and what was recorded of it."""

    folder: Path
    file: str
    text: str
    namespace: dict[str, Any]
    model: nn.Module | None
    records: dict[str, list[dict[str, Any]]]
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def recording(self) -> Recording:
        return Recording(self.rows, self.records)

    def run_facts(self, **facts: Any) -> Study:
        more = [{"key": key, "value": value} for key, value in facts.items()]
        return replace(self, records={**self.records, "run": [*self.records["run"], *more]})

    def add(self, table: str, *items: dict[str, Any]) -> Study:
        return replace(self, records={**self.records, table: [*self.records[table], *items]})

    def with_updates(self, ratio: float, steps: int = 5) -> Study:
        rows = np.zeros(steps, UPDATES.dtype)
        rows["step"], rows["before_sq"], rows["delta_sq"] = np.arange(steps), 1.0, ratio**2
        return replace(self, rows={**self.rows, "updates": rows})

    def fixes(self, code: str = "GS101", kind: str = "", **facts: Any) -> dict[str, Fix]:
        finding = finding_of(code, kind, **facts)
        advised = advise(Diagnosis(self.recording, (finding,)))
        assert advised.errors == ()
        return {fix.name: fix for fix in advised.findings[0].fixes}

    def mended(self, fix: Fix) -> str:
        """The file's text after the real ``patch`` applied the diff; it must compile."""
        assert fix.diff is not None, fix
        assert fix.snippet is None
        (self.folder / self.file).write_text(self.text, encoding="utf-8", newline="")
        return patched(self.folder, self.file, fix.diff)

    def ran(self, fix: Fix) -> dict[str, Any]:
        """The names of the mended file after it ran."""
        return run_text(self.folder / self.file, self.mended(fix))

    def rebuilt(self, fix: Fix) -> nn.Module:
        return model_of(self.ran(fix))


def finding_of(code: str = "GS101", kind: str = "", **facts: Any) -> Finding:
    given = {"name": "x", "severity": "critical", "confidence": "strong", "summary": "it is sick"}
    return Finding(code=code, kind=kind, **{**given, **facts})


def patched(folder: Path, file: str, diff: str) -> str:
    program = shutil.which("patch")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("patch(1) is not installed")
        pytest.skip("patch(1) is not installed")
    done = subprocess.run(
        [program, "-p1", "--no-backup-if-mismatch", "--fuzz=0", "--binary"],
        input=diff.encode("utf-8", "surrogateescape"), cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode() + diff
    assert b"offset" not in done.stdout, done.stdout
    assert not list(folder.rglob("*.rej"))
    with (folder / file).open(encoding="utf-8", newline="") as stream:
        text = stream.read()
    compile(text.removeprefix("\ufeff"), file, "exec", dont_inherit=True)
    return text


def run_text(path: Path, text: str) -> dict[str, Any]:
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "studied"}
    exec(compile(text.removeprefix("\ufeff"), str(path), "exec", dont_inherit=True), namespace)
    return namespace


def model_of(namespace: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    if isinstance(namespace.get("model"), nn.Module):
        return namespace["model"]
    return namespace["build_model"]() if "build_model" in namespace else namespace["Net"]()


class _Functional(TorchFunctionMode):
    def __init__(self, path: Path, running: list[nn.Module]) -> None:
        super().__init__()
        self.path, self.running = str(path), running
        self.seen: list[tuple[str, nn.Module, int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name.rstrip("_") in ("relu", "sigmoid", "tanh", "gelu", "leaky_relu") and self.running:
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename != self.path:
                frame = frame.f_back
            if frame is not None:
                self.seen.append((name, self.running[-1], frame.f_lineno))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Run a text as a file, watch its model being built and called once."""

    def make(
        text: str, *shape: int, file: str = "model.py", batch: int = 32, newline: str = "\n"
    ) -> Study:
        folder = tmp_path / hashlib.sha256((file + text).encode()).hexdigest()[:12]
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text.lstrip("\n").replace("\n", newline)
        path.write_text(text, encoding="utf-8", newline="")
        built: dict[int, int] = {}
        original = nn.Module.__init__

        def remember(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            frame = sys._getframe(1)
            # the frame that called the class, not one of its own constructors
            while frame is not None and (
                frame.f_code.co_filename != str(path)
                or (frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is module)
            ):
                frame = frame.f_back
            if frame is not None:
                built[id(module)] = frame.f_lineno
            original(module, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "__init__", remember)
        namespace = run_text(path, text)
        model = model_of(namespace)
        monkeypatch.setattr(nn.Module, "__init__", original)
        records, rows = _records(model, built, file, path, batch, shape)
        records["sources"] = [{"file": file, "sha256": "", "text": text}]
        return Study(folder, file, text, namespace, model, records, rows)

    return make


def _records(
    model: nn.Module, built: dict[int, int], file: str, path: Path, batch: int, shape: tuple
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, np.ndarray]]:
    ids = {id(m): i for i, (_, m) in enumerate(model.named_modules())}
    order: dict[int, int] = {}
    calls: dict[int, int] = {}
    sizes: list[tuple[int, int, torch.Tensor]] = []
    running: list[nn.Module] = []

    def enter(module: nn.Module, inputs: tuple) -> None:
        running.append(module)
        order.setdefault(id(module), len(order))
        calls[id(module)] = calls.get(id(module), 0) + 1
        sizes.append((ids[id(module)], 0, inputs[0]))

    def leave(module: nn.Module, inputs: tuple, output: Any) -> None:
        running.pop()
        if isinstance(output, torch.Tensor):
            sizes.append((ids[id(module)], 1, output))

    handles = []
    for module in model.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    seen = _Functional(path, running)
    with seen, torch.no_grad():
        model(torch.randn(batch, *shape))
    for handle in handles:
        handle.remove()
    modules = [
        {
            "module": ids[id(m)],
            "root": 0,
            "root_label": None if name else "model",
            "path": name,
            "type": type(m).__name__,
            "torch_type": next(
                c.__name__ for c in type(m).__mro__ if c.__module__.startswith("torch.nn")
            ),
            "leaf": not list(m.children()),
            "registered": True,
            "activation": KINDS.get(type(m).__name__),
            "order": order.get(id(m)),
            "calls": calls.get(id(m)),
            "settings": {k: getattr(m, k) for k in SETTINGS if hasattr(m, k)},
            "file": file if id(m) in built else None,
            "line": built.get(id(m)),
            "trained": True,
            "step": 0,
        }
        for name, m in model.named_modules()
    ]
    owners = {
        f"{name}.{own}" if name else own: ids[id(m)]
        for name, m in model.named_modules()
        for own, _ in m.named_parameters(recurse=False)
    }
    parameters = [
        {
            "parameter": i,
            "root": 0,
            "path": name,
            "module": owners[name],
            "shape": list(p.shape),
            "count": p.numel(),
            "requires_grad": p.requires_grad,
            "registered": True,
            "optimizer": 0,
            "initial_mean": float(p.detach().mean()),
            "initial_std": float(p.detach().std(correction=0)),
            "fan_in": p[0].numel() if p.dim() > 1 else None,
            "fan_out": p[:, 0].numel() if p.dim() > 1 else None,
            "step": 0,
        }
        for i, (name, p) in enumerate(model.named_parameters())
    ]
    examined = [
        {
            "step": 0,
            "kind": "activation",
            "operation": operation,
            "module": ids[id(m)],
            "file": file,
            "line": line,
            "calls": 1,
        }
        for operation, m, line in seen.seen
    ]
    rows = np.zeros(len(sizes), ACTIVATIONS.dtype)
    for row, (module, role, tensor) in zip(rows, sizes, strict=True):
        row["module"], row["role"], row["count"], row["batch"] = module, role, tensor.numel(), batch
        row["calls"], row["sum"], row["sum_sq"] = 1, tensor.sum(), tensor.square().sum()
    run = [{"key": "batch", "value": batch}, {"key": "model", "value": type(model).__name__}]
    run.append({"key": "command", "value": "watch"})
    tables = {"modules": modules, "parameters": parameters, "examined": examined, "run": run}
    return {"steps": [], "events": [], **tables}, {"activations": rows}
