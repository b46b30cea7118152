"""Which loss is taken or inferred: against torch's own functions on the same tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradscope.errors import LoadError

HEAD = "model = nn.Linear(3, {0})\nx = torch.randn(8, 3)\n"


def value(found):
    batch = next(found.batches())
    return found.loss(found.model, batch), found.model(batch[0]), batch[1]


@pytest.mark.parametrize(
    ("width", "target", "oracle", "name"),
    [
        (5, "torch.randint(5, (8,))", functional.cross_entropy, "cross-entropy"),
        (5, "torch.randint(5, (8,), dtype=torch.int32)", None, "cross-entropy"),
        (2, "torch.randn(8, 2)", functional.mse_loss, "mean squared error"),
        (1, "torch.randn(8)", lambda o, t: functional.mse_loss(o[:, 0], t), "mean squared error"),
        (
            1,
            "torch.randint(2, (8,))",
            lambda o, t: functional.binary_cross_entropy_with_logits(o[:, 0], t.float()),
            "binary cross-entropy with logits",
        ),
        (
            1,
            "torch.arange(8)",
            lambda o, t: functional.mse_loss(o[:, 0], t.float()),
            "mean squared",
        ),
    ],
)
def test_a_loss_is_inferred_from_output_and_target(desk, width, target, oracle, name):
    found = desk.load(HEAD.format(width) + f"batch = x, {target}\n")
    loss, output, goal = value(found)
    expected = (
        functional.cross_entropy(output, goal.long()) if oracle is None else oracle(output, goal)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    sentences = [s for s in found.assumptions if s.startswith("No loss was found")]
    assert len(sentences) == 1
    assert name in sentences[0]


def test_classes_of_a_sequence_stand_last(desk):
    found = desk.load(
        "model = nn.Linear(3, 5)\nbatch = torch.randn(2, 7, 3), torch.randint(5, (2, 7))\n"
    )
    loss, output, goal = value(found)
    expected = functional.cross_entropy(output.reshape(14, 5), goal.reshape(14))
    assert loss.item() == pytest.approx(expected.item())


def test_classes_of_an_image_are_its_channels(desk):
    found = desk.load(
        "model = nn.Conv2d(1, 4, 1)\nbatch = torch.randn(2, 1, 5, 6), torch.randint(4, (2, 5, 6))\n"
    )
    loss, output, goal = value(found)
    assert loss.item() == pytest.approx(functional.cross_entropy(output, goal).item())


@pytest.mark.parametrize(("last", "log"), [("Softmax", torch.log), ("LogSoftmax", lambda o: o)])
def test_probabilities_get_no_second_softmax(desk, last, log):
    found = desk.load(
        f"model = nn.Sequential(nn.Linear(3, 5), nn.{last}(-1))\n"
        "batch = torch.randn(8, 3), torch.randint(5, (8,))\n"
    )
    loss, output, goal = value(found)
    assert loss.item() == pytest.approx(functional.nll_loss(log(output), goal).item(), rel=1e-5)


def test_loss_of_model_and_batch_goes_first(desk):
    found = desk.load(
        HEAD.format(2)
        + "batch = x, x[:, :2]\ncriterion = nn.L1Loss()\n"
        + "def loss(model, batch):\n    return 7 * model(batch[0]).sum()\n"
    )
    loss, output, _ = value(found)
    assert found.took["loss"] == "`loss(model, batch)`"
    assert loss.item() == pytest.approx(7 * output.sum().item())


@pytest.mark.parametrize("name", ["loss", "loss_fn", "criterion"])
def test_a_criterion_compares_output_and_target(desk, name):
    found = desk.load(HEAD.format(2) + f"batch = x, x[:, :2]\n{name} = nn.L1Loss()\n")
    loss, output, goal = value(found)
    assert found.took["loss"] == f"`{name}`"
    assert loss.item() == pytest.approx(functional.l1_loss(output, goal).item())


def test_a_criterion_is_never_left_to_broadcast(desk):
    found = desk.load(HEAD.format(1) + "batch = x, x[:, 0]\ncriterion = nn.MSELoss()\n")
    loss, output, goal = value(found)
    assert loss.item() == pytest.approx(functional.mse_loss(output[:, 0], goal).item())
    assert any("shape of the output" in s for s in found.assumptions)


def test_a_criterion_gets_a_sequence_flattened(desk):
    found = desk.load(
        "model = nn.Linear(3, 5)\ncriterion = nn.CrossEntropyLoss()\n"
        "batch = torch.randn(2, 7, 3), torch.randint(5, (2, 7))\n"
    )
    loss, output, goal = value(found)
    expected = functional.cross_entropy(output.reshape(14, 5), goal.reshape(14))
    assert loss.item() == pytest.approx(expected.item())


MODULE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)
    def forward(self, {arguments}):
        out = self.fc(x)
        {body}
model = Net()
"""


@pytest.mark.parametrize(
    ("arguments", "body", "batch"),
    [
        (
            "x, labels=None",
            "loss = None if labels is None else nn.functional.cross_entropy(out, labels)\n"
            "        from types import SimpleNamespace as Output\n"
            "        return Output(logits=out, loss=loss)",
            "{'x': torch.randn(8, 3), 'labels': torch.randint(5, (8,))}",
        ),
        (
            "x, labels=None",
            "return {'logits': out, 'loss': nn.functional.cross_entropy(out, labels)}",
            "(torch.randn(8, 3), torch.randint(5, (8,)))",
        ),
        (
            "x, targets=None",
            "return out, nn.functional.cross_entropy(out, targets)",
            "(torch.randn(8, 3), torch.randint(5, (8,)))",
        ),
        (
            "x, wanted",
            "return nn.functional.cross_entropy(out, wanted)",
            "(torch.randn(8, 3), torch.randint(5, (8,)))",
        ),
    ],
)
def test_the_loss_in_the_output_is_taken(desk, arguments, body, batch):
    found = desk.load(MODULE.format(arguments=arguments, body=body) + f"batch = {batch}\n")
    assert found.took["loss"] == "the loss in the model's output"
    batch = next(found.batches())
    x, y = batch.values() if isinstance(batch, dict) else batch
    expected = functional.cross_entropy(found.model.fc(x), y)
    assert found.loss(found.model, batch).item() == pytest.approx(expected.item())


def test_an_autoencoder_is_compared_with_its_input(desk):
    found = desk.load("model = nn.Linear(3, 3)\nbatches = [torch.randn(8, 3)]\n")
    batch = next(found.batches())
    expected = functional.mse_loss(found.model(batch), batch)
    assert found.loss(found.model, batch).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD.format(5) + "batch = x, torch.randn(8, 4)\n", "no loss fits an output of 8 x 5"),
        (HEAD.format(5) + "batch = x\n", "no target to infer one from"),
        (
            HEAD.format(5) + "batch = x, torch.randn(8, 4)\ncriterion = nn.MSELoss()\n",
            "the loss does not accept an output of 8 x 5 and a target of 8 x 4",
        ),
        (
            HEAD.format(5) + "criterion = nn.MSELoss()\nbatch = x\n",
            "there is no target in the batch",
        ),
        (HEAD.format(5) + "loss = 3\nbatch = x, x\n", "loss is a int, not a loss function"),
        (
            "model = nn.Linear(4, 2)\nbatch = torch.randn(8, 3), torch.randn(8, 2)\n",
            "a first forward pass failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_does_not_fit_is_told_with_its_shapes(desk, text, words):
    with pytest.raises(LoadError) as caught:
        desk.load(text)
    assert words in caught.value.what
    assert caught.value.hint


def test_looking_at_the_output_changes_nothing(desk):
    """Running statistics and random numbers are those of a first step without a look."""
    text = (
        "norm = nn.BatchNorm1d(4)\n"
        "model = nn.Sequential(nn.Linear(3, 4), norm, nn.Dropout(0.5), nn.Linear(4, 2))\n"
        "batch = torch.randn(8, 3), torch.randint(2, (8,))\n"
    )
    inferred = desk.load(text)
    drawn = torch.rand(1)
    norm = inferred.model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(4))
    desk.load(text + "def loss(model, batch):\n    return model(batch[0]).sum()\n")
    assert torch.equal(drawn, torch.rand(1))
