"""What each example claims to be is measured here, in plain PyTorch, without gradscope.

A sick example must not learn (or, where only a part of it is sick, that part must not move); its
mended twin and the healthy ones must learn, every part of them. Three seeds each.
"""

import functools
import inspect
import itertools
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 200
SEEDS = (0, 1, 2)
LN_10 = math.log(10)
"""Loss of the best constant answer for ten equally frequent classes, in nats."""

NOT_FINITE = ("nan_log", "nan_in_loss", "nan_in_data")
NOT_LEARNING = ("vanishing_sigmoid", "exploding_init", "dead_relu", *NOT_FINITE)
PART_STANDS_STILL = {
    "detached_branch": {"right.1.weight", "right.1.bias", "right.3.weight", "right.3.bias"},
    "missing_from_optimizer": {"block2.0.weight", "block2.0.bias"},
}
MENDED = tuple(f"{name}_mended" for name in (*NOT_LEARNING, *PART_STANDS_STILL))
WRONG_GRADIENT = "wrong_backward"
"""It learns, along a direction that is not the gradient."""
HEALTHY = ("healthy_resnet", "healthy_transformer", "healthy_lstm")


@functools.cache
def train(name, seed, folder=EXAMPLES):
    """Train the example; return its losses and whether each parameter went from its start."""
    torch.manual_seed(seed)
    found = runpy.run_path(str(folder / f"{name}.py"), run_name=name)
    model = model_of(found)
    optimizer = found.get("optimizer") or found["make_optimizer"](model)
    start = {path: value.detach().clone() for path, value in model.named_parameters()}
    losses = []
    for batch in itertools.islice(batches_of(found), STEPS):
        optimizer.zero_grad()
        loss = loss_of(found, model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = {path: not torch.equal(value, start[path]) for path, value in model.named_parameters()}
    return losses, moved


def model_of(found):
    if "model" in found:
        return found["model"]
    if "build_model" in found:
        return found["build_model"]()
    (only,) = [
        value
        for value in found.values()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and not inspect.signature(value).parameters
    ]
    return only()


def batches_of(found):
    while True:
        if "batches" in found:
            yield from found["batches"]()
        elif "train_loader" in found:
            yield from found["train_loader"]
        elif "dataset" in found:
            yield from DataLoader(found["dataset"], batch_size=32, shuffle=True)
        else:
            yield found["get_batch"]() if "get_batch" in found else found["batch"]


def loss_of(found, model, batch):
    if "loss" in found:
        return found["loss"](model, batch)
    inputs, targets = batch
    return (found.get("criterion") or found["loss_fn"])(model(inputs), targets)


def last(losses):
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NOT_LEARNING)
def test_sick_example_does_not_learn(name, seed):
    losses, _ = train(name, seed)
    assert not last(losses) < 0.95 * LN_10  # "not <" is also true of NaN


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PART_STANDS_STILL)
def test_sick_part_never_moves_and_all_others_do(name, seed):
    _, moved = train(name, seed)
    assert {path for path, has_moved in moved.items() if not has_moved} == PART_STANDS_STILL[name]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [*MENDED, *HEALTHY])
def test_mended_and_healthy_examples_learn_with_every_part(name, seed):
    losses, moved = train(name, seed)
    assert last(losses) < 0.5 * LN_10
    assert all(moved.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_autoencoder_explains_most_of_the_variance(seed):
    losses, moved = train("healthy_autoencoder", seed)
    batch = runpy.run_path(str(EXAMPLES / "healthy_autoencoder.py"))["batch"]
    assert last(losses) < 0.5 * batch.var(dim=0).mean().item()
    assert all(moved.values())


@pytest.mark.parametrize("name", NOT_LEARNING)
def test_only_those_of_a_nan_make_anything_non_finite(name):
    losses, _ = train(name, 0)
    assert all(map(math.isfinite, losses)) == (name not in NOT_FINITE)


@pytest.mark.parametrize(("end", "right"), [("", False), ("_mended", True)])
def test_the_hand_written_backward_is_what_its_example_says(end, right):
    found = runpy.run_path(str(EXAMPLES / f"{WRONG_GRADIENT}{end}.py"), run_name="example")
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    agrees = torch.autograd.gradcheck(found["FastGelu"].apply, (x,), raise_exception=False)
    assert agrees is right


def test_every_example_has_a_label():
    labelled = {*NOT_LEARNING, *PART_STANDS_STILL, *MENDED, *HEALTHY}
    labelled |= {WRONG_GRADIENT, f"{WRONG_GRADIENT}_mended"}
    labelled |= {"healthy_autoencoder", "wrapped_loop"}
    assert labelled == {path.stem for path in EXAMPLES.glob("*.py")}
