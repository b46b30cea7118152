"""What holds for every test: one thread, no setting from the outside, the installed package."""

import os
import sys
from pathlib import Path

# Several threads change the order of sums, and with it the last digits; they also make small
# models slower. Set before torch is imported anywhere.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import gradscope

sys.path.append(str(Path(__file__).parent / "processes"))

from warm import WarmPython

torch.set_num_threads(1)


def pytest_report_header():
    """Say which gradscope is tested: CI asserts that it is the installed one."""
    return f"gradscope: {gradscope.__file__}"


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GRADSCOPE")]:
        monkeypatch.delenv(name)
    # trials train a model many times over: only the tests of trials ask for them
    monkeypatch.setenv("GRADSCOPE_TRY_FIXES", "0")


@pytest.fixture(scope="session")
def python():
    """Runs commands of Python in processes of their own, without loading torch for each."""
    warm = WarmPython()
    yield warm
    warm.close()


@pytest.fixture(autouse=True)
def nothing_stays_compiled():
    """What one test compiles would change what gradscope may look at in the tests after it."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and getattr(frames, "cached_backends", None):
        dynamo.reset()
