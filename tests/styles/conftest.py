"""Makes ``style`` importable, and compares each style's row of docs/styles.md with its test."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from style import PAGE, Both, Table


def pytest_configure(config):
    config.addinivalue_line("markers", "style(...): a row of docs/styles.md, see style.py")


@pytest.fixture
def both(request, tmp_path, record_property):
    """Runs a training plainly and watched; see ``style.Both``."""
    runs = Both(tmp_path, request.node.name)
    yield runs
    marker = request.node.get_closest_marker("style")
    if marker is None or not runs.shown:
        return
    case = getattr(request.node, "callspec", None)
    row = Table.row(marker, runs.shown[0], None if case is None else case.id)
    record_property("style", json.dumps(row))
    if not request.config.pluginmanager.has_plugin("styles-page"):
        assert Table.line(row) in PAGE.read_text(encoding="utf-8"), (
            "docs/styles.md does not say what this test measured: python docs/make_styles.py"
        )


@pytest.fixture(autouse=True)
def _no_mode_is_left():
    yield
    assert not torch.overrides._get_current_function_mode_stack()
