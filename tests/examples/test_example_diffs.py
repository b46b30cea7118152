"""The diff that gradscope shows for each sick example, applied by ``patch``, really mends it.

Whether it does is measured as for the examples themselves: in plain PyTorch, without gradscope.
"""

import importlib.util
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from gradscope import config
from gradscope.session.checking import check_file

SPEC = importlib.util.spec_from_file_location(
    "example_labels", Path(__file__).with_name("test_example_labels.py")
)
labels = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(labels)
FIRST = {
    "vanishing_sigmoid": "batch-norm",
    "exploding_init": "initialize",
    "dead_relu": "initialize",
    "nan_log": "add-epsilon",
    "detached_branch": "keep-graph",
    "missing_from_optimizer": "add-to-optimizer",
}
"""Name of the fix that mends each example."""


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch(1) is not installed")
@pytest.mark.parametrize("name", FIRST)
def test_the_diff_mends_the_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(labels.EXAMPLES / f"{name}.py", tmp_path)
    settings = config.Settings(steps=50, try_fixes=False)
    checked = check_file(f"{name}.py", settings)
    fixes = {fix.name: fix for finding in checked.diagnosis.findings for fix in finding.fixes}
    diff = fixes[FIRST[name]].diff
    assert diff is not None, fixes[FIRST[name]]
    done = subprocess.run(
        ["patch", "-p1", "--no-backup-if-mismatch", "--fuzz=0"],
        input=diff, text=True, cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    losses, moved = labels.train(name, 0, tmp_path)
    assert math.isfinite(labels.last(losses))
    assert labels.last(losses) < 0.5 * labels.LN_10
    assert all(moved.values()), moved
