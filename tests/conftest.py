"""What holds for every test: one thread, no setting from the outside, the installed package."""

import os

# Several threads change the order of sums, and with it the last digits; they also make small
# models slower. Set before torch is imported anywhere.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import gradscope

torch.set_num_threads(1)


def pytest_report_header():
    """Say which gradscope is tested: CI asserts that it is the installed one."""
    return f"gradscope: {gradscope.__file__}"


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GRADSCOPE")]:
        monkeypatch.delenv(name)
