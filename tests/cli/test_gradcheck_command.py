"""``gradscope gradcheck`` as a person runs it."""

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
MODEL = """
import torch
from torch import nn

class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 0.5 * grad * (1 - x.tanh() ** 2)

class Act(nn.Module):
    def forward(self, x):
        return Halved.apply(x)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), Act(), nn.Linear(4, 2))
batches = [(torch.randn(8, 4), torch.randint(2, (8,)))]
loss = nn.CrossEntropyLoss()
"""


def test_the_faulty_example_is_named_and_the_mended_one_passes(terminal):
    sick, mended = (str(EXAMPLES / f"wrong_backward{end}.py") for end in ("", "_mended"))
    result = terminal.run("gradcheck", sick, "--report", "a.html", "-o", "a.json", "--run-dir", "a")
    assert result.returncode == 1, result.stderr
    document = json.loads((terminal.folder / "a.json").read_text())
    jsonschema.validate(document, SCHEMA)
    (finding,) = document["findings"]
    assert (finding["code"], finding["modules"]) == ("GS601", ["blocks.1.act"])
    assert finding["location"]["file"].endswith("wrong_backward.py")
    page = (terminal.folder / "a.html").read_text()
    assert "blocks.1.act" in page
    assert 'id="backward"' in page
    assert "would have been seen with a probability of 99 %" in " ".join(page.split())
    well = terminal.run("gradcheck", mended, "--run-dir", "b")
    assert well.returncode == 0, well.stdout
    assert "no finding; 1 passed" in well.stdout


def test_report_judges_the_folder_again(terminal):
    terminal.write(MODEL)
    first = terminal.run("gradcheck", "model.py", "--run-dir", "run", "-o", "a.json")
    again = terminal.run("report", "run", "-o", "b.json")
    assert first.returncode == again.returncode == 1
    a, b = (json.loads((terminal.folder / f"{n}.json").read_text()) for n in "ab")
    assert a == b
    assert a["command"] == "gradcheck"
    assert a["findings"][0]["kind"] == "factor"


def test_fail_on_and_ignore_decide_the_exit_code(terminal):
    terminal.write(MODEL)
    never = terminal.run("gradcheck", "model.py", "--fail-on", "never", "--run-dir", "a")
    ignored = terminal.run("gradcheck", "model.py", "--ignore", "GS601:1", "--run-dir", "b")
    assert (never.returncode, ignored.returncode) == (0, 0)
    assert "0.5 times the true derivative" in " ".join(never.stdout.split())


def test_check_includes_a_quick_form(terminal):
    terminal.write(MODEL)
    result = terminal.run("check", "model.py", "--steps", "60", "--no-try-fixes", "-o", "a.json")
    assert result.returncode == 1, result.stderr
    document = json.loads((terminal.folder / "a.json").read_text())
    wrong = [f for f in document["findings"] if f["code"] == "GS601"]
    assert [f["modules"] for f in wrong] == [["1"]]
    assert wrong[0]["fixes"][0]["name"] == "correct-backward"


def test_a_file_needs_no_loss(terminal):
    """The backward of a model is right or wrong whatever is made of its output."""
    bare = MODEL.replace(
        "batches = [(torch.randn(8, 4), torch.randint(2, (8,)))]", "batch = torch.randn(8, 4)"
    )
    bare = bare.replace("loss = nn.CrossEntropyLoss()\n", "")
    terminal.write(bare)
    result = terminal.run("gradcheck", "model.py", "-o", "a.json")
    assert result.returncode == 1, result.stderr
    (finding,) = json.loads((terminal.folder / "a.json").read_text())["findings"]
    assert (finding["code"], finding["kind"], finding["modules"]) == ("GS601", "factor", ["1"])
    assert "loss none: the model's output" in " ".join(result.stderr.split())
    terminal.write(bare.replace("0.5 * grad", "grad"))
    assert terminal.run("gradcheck", "model.py").returncode == 0


def test_a_model_without_parameters_is_checked_too(terminal):
    text = MODEL.replace("model = ", "trained = ") + "\nmodel = Act()\n"
    terminal.write(text)
    result = terminal.run("gradcheck", "model.py")
    assert result.returncode == 1, result.stderr
    assert "0.5 times the true derivative" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere.py",), 2, "there is no file 'nowhere.py'"),
        (("model.py", "--directions", "0"), 2, "--directions"),
        (("model.py", "--seconds", "0"), 2, "--seconds"),
        (("broken.py",), 3, "ValueError: no"),
    ],
)
def test_bad_input_is_one_clear_line(terminal, arguments, code, says):
    terminal.write(MODEL)
    terminal.write(
        """
        import torch
        from torch import nn

        class Broken(nn.Module):
            def forward(self, x):
                raise ValueError("no")

        model = Broken()
        batches = [torch.randn(2, 3)]

        def loss(model, batch):
            return model(batch).sum()
        """,
        "broken.py",
    )
    result = terminal.run("gradcheck", *arguments)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
