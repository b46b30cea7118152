"""Which model is taken from a file, in which order, and what is said when there is none."""

import pytest
from torch import nn

from gradscope.errors import LoadError

NET = """
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)
    def forward(self, x):
        return self.fc(x)
"""


def test_an_instance_goes_before_a_function_and_a_class(desk):
    found = desk.load(NET + "net = Net(6)\ndef build_model():\n    return Net(8)\n")
    assert found.took["model"] == "`net`"
    assert found.model.fc.in_features == 6
    assert found.label == "net"


@pytest.mark.parametrize("name", ["build_model", "make_model", "get_model"])
def test_a_function_goes_before_a_class(desk, name):
    found = desk.load(NET + f"def {name}():\n    return Net(8)\n")
    assert found.took["model"] == f"`{name}()`"
    assert found.model.fc.in_features == 8


def test_the_only_class_without_arguments_is_built(desk):
    found = desk.load(NET)
    assert found.took["model"] == "`Net()`"
    assert type(found.model).__name__ == "Net"


def test_parts_are_told_from_the_whole(desk):
    part = """
        class Block(nn.Module):
            def __init__(self, width=4):
                super().__init__()
                self.fc = nn.Linear(width, width)
            def forward(self, x):
                return self.fc(x)

        class Base(nn.Module):
            def forward(self, x):
                return self.layers(x)

        class Whole(Base):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(*[Block() for _ in range(2)], nn.Linear(4, 2))
        """
    import textwrap

    found = desk.load(textwrap.dedent(part))
    assert type(found.model).__name__ == "Whole"
    assert any("`Whole` is the model" in sentence for sentence in found.assumptions)


def test_a_loss_an_activation_and_a_part_are_no_models(desk):
    found = desk.load(
        NET
        + "encoder = Net(4)\nmodel = nn.Sequential(encoder, nn.ReLU())\nalso = model\n"
        + "criterion = nn.CrossEntropyLoss()\nact = nn.ReLU()\n"
        + "batch = torch.randn(8, 4), torch.randint(2, (8,))\n"
    )
    assert isinstance(found.model, nn.Sequential)
    assert found.took["model"] == "`model`"


def test_an_imported_class_is_not_taken(desk):
    desk.write("from torch import nn\nclass Other(nn.Module):\n    pass\n", "other.py")
    found = desk.load("from other import Other\n" + NET)
    assert type(found.model).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "width"), [("small", 4), ("make", 6), ("Net", 5), ("box.inner", 7)]
)
def test_what_was_asked_for_is_taken(desk, name, width):
    text = NET.replace("width=4", "width=5") + (
        "small, large = Net(4), Net(9)\ndef make():\n    return Net(6)\n"
        "class box:\n    inner = Net(7)\n"
    )
    assert desk.load(text, name).model.fc.in_features == width


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("x = 1\n", None, "no model found in model.py"),
        (NET + "a, b = Net(), Net()\n", None, "several models in model.py: a, b"),
        (NET + "class Other(Net):\n    pass\nclass Third(Net):\n    pass\n", None, "Other, Third"),
        (
            NET.replace("width=4", "width"),
            None,
            "Net cannot be built without arguments: it needs width",
        ),
        (
            NET + "def build_model(depth):\n    pass\n",
            None,
            "build_model() needs the argument depth",
        ),
        (NET + "def build_model():\n    return 3\n", None, "build_model() returned a int"),
        (NET, "Nett", "there is no 'Nett' in model.py"),
        (NET + "model = Net()\n", "model.head", "'model.head' has no attribute 'head'"),
        (NET + "width = 3\n", "width", "'width' is a int, not a model"),
    ],
)
def test_bad_files_are_told_apart(desk, text, name, words):
    with pytest.raises(LoadError) as caught:
        desk.load(text, name)
    assert words in caught.value.what
    assert caught.value.hint or "attribute" in words


def test_a_constructor_that_fails_shows_the_users_line(desk):
    with pytest.raises(LoadError, match=r"building the model with Net\(\) failed: ValueError") as e:
        desk.load(
            "class Net(nn.Module):\n    def __init__(self):\n        raise ValueError('odd')\n"
        )
    assert e.value.where == "model.py:5"
