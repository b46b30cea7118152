"""What ``gradscope doctor`` looks at, in this process."""

from importlib import metadata

import torch

from gradscope.session import doctor


def checks(folder):
    return {check.name: check for check in doctor.examine(folder)}


def test_versions_are_those_that_are_installed(tmp_path):
    found = checks(tmp_path)
    assert found["torch"].value == torch.__version__
    assert found["pandas"].value == metadata.version("pandas")
    assert found["lightning"].value == metadata.version("lightning")
    assert all(check.state == "ok" for check in found.values() if check.area == "private names")
    assert not any(check.state == "bad" for check in found.values())
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("plotly", "lightning"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    found = checks(tmp_path)
    assert (found["plotly"].state, found["plotly"].do) == ("bad", "python -m pip install plotly")
    assert found["lightning"].state == "absent"
    assert "gradscope-torch[lightning]" in found["lightning"].do
    probe = found["torch._C._current_graph_task_id"]
    assert probe.state == "degraded"
    assert "second forward" in probe.value


def test_where_runs_cannot_be_recorded(tmp_path, monkeypatch):
    (tmp_path / ".gradscope").write_text("a file")
    assert checks(tmp_path)["run folder"].state == "bad"
    assert checks(tmp_path / "nowhere")["run folder"].state == "bad"
    monkeypatch.setenv("GRADSCOPE", "0")
    assert checks(tmp_path)["GRADSCOPE"].state == "degraded"
    monkeypatch.setenv("GRADSCOPE_STEPZ", "3")
    assert checks(tmp_path)["settings"].state == "bad"
