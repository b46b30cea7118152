"""Every example through the command line: the sick ones get their code at the right module.

That each example is what it claims to be is measured in test_example_labels.py, without gradscope.
"""

import functools
import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = json.loads(
    resources.files("gradscope.report")
    .joinpath("schema/gradscope-1.schema.json")
    .read_text(encoding="utf-8")
)
SICK = {
    "vanishing_sigmoid": ("GS101", "0"),
    "exploding_init": ("GS102", "stem"),
    "dead_relu": ("GS301", "fc2"),
    "nan_log": ("GS201", "ink"),
    "nan_in_loss": ("GS201", ""),
    "nan_in_data": ("GS201", ""),
    "detached_branch": ("GS104", "right"),
    "missing_from_optimizer": ("GS403", "block2"),
    "wrong_backward": ("GS601", "blocks.1.act"),
}
"""Code and module of the one fault in each sick example."""
WELL = (
    *(f"{name}_mended" for name in SICK),
    "healthy_resnet",
    "healthy_transformer",
    "healthy_lstm",
    "healthy_autoencoder",
)


@pytest.fixture
def check(python, tmp_path):
    """Gives the process and the JSON result of ``gradscope check`` on an example."""
    return functools.partial(checked, python, tmp_path)


def checked(python, folder, name):
    outputs = ["--run-dir", "run", "--report", "report.html", "--output", "result.json"]
    file = str(EXAMPLES / f"{name}.py")
    result = python.run("-m", "gradscope", "check", file, *outputs, folder=folder)
    # Python itself exits with 1 when an import fails: then there is no result
    assert result.returncode in (0, 1), result.stderr
    assert (folder / "result.json").exists(), result.stderr
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, SCHEMA)
    assert document["exit_code"] == result.returncode
    assert (folder / "report.html").stat().st_size > 20_000
    return result, document


def seen(document):
    return [(f["code"], f["severity"], f["modules"][:1]) for f in document["findings"]]


@pytest.mark.parametrize("name", SICK)
def test_sick_example_gets_its_code_at_the_right_module(name, check):
    code, module = SICK[name]
    result, document = check(name)
    assert result.returncode == 1, seen(document)
    first = document["findings"][0]
    assert first["code"] == code, seen(document)
    path = first["modules"][0]
    assert path == module or path.startswith(f"{module}."), seen(document)
    assert first["location"]["file"].endswith(f"{name}.py")
    harmful = [f for f in document["findings"] if f["severity"] != "note"]
    assert [f["code"] for f in harmful] == [code], seen(document)
    assert first["summary"].rstrip(".") in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", WELL)
def test_well_example_gets_exit_code_0(name, check):
    result, document = check(name)
    assert result.returncode == 0, seen(document)


def test_logarithm_of_zero_is_found_in_operation_line_and_samples(check):
    _, document = check("nan_log")
    origin = document["findings"][0]["origin"]
    source = (EXAMPLES / "nan_log.py").read_text(encoding="utf-8").splitlines()
    assert origin["operation"] == "log"
    assert origin["phase"] == "forward"
    assert "torch.log(" in source[origin["location"]["line"] - 1]
    assert len(origin["samples"]) == 1


def test_every_example_is_checked():
    checked = {*SICK, *WELL, "wrapped_loop"}
    assert checked == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize(("flags", "expected"), [([], ["GS403"]), (["--mended"], [])])
def test_wrapped_loop_finds_the_head_that_is_not_trained(flags, expected, python, tmp_path):
    script = str(EXAMPLES / "wrapped_loop.py")
    result = python.run(script, "--run-dir", "runs/loop", *flags, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    found = [line for line in result.stdout.splitlines() if line.startswith("GS")]
    assert [line.split()[0] for line in found] == expected
    assert all("head" in line for line in found)
    assert (tmp_path / "wrapped_loop.html").stat().st_size > 20_000
    assert (tmp_path / "runs" / "loop").is_dir()
