import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradscope.observe.autograd.graph import leaves_behind, loss_facts, reachable
from gradscope.observe.autograd.operations import aten_operation, node_operation
from gradscope.observe.private import node_sequence_nr


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, unused):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient, None


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("node", "operation"),
    [
        ("SqrtBackward0", "sqrt"),
        ("NllLossBackward0", "nll_loss"),
        ("NllLoss2DBackward0", "nll_loss2d"),
        ("PowBackward0", "pow"),
        ("SmoothL1LossBackward0", "smooth_l1_loss"),
        ("BinaryCrossEntropyWithLogitsBackward0", "binary_cross_entropy_with_logits"),
        ("MaxPool2DWithIndicesBackward0", "max_pool2d_with_indices"),
        ("LinalgVectorNormBackward0", "linalg_vector_norm"),
        ("Log1PBackward0", "log1p"),
        ("TBackward0", "t"),
        ("CopyBackwards", "copy"),
        ("MyReluBackward", "MyRelu"),
        ("torch::autograd::AccumulateGrad", "accumulate_grad"),
    ],
)
def test_node_operation(node, operation):
    assert node_operation(node) == operation


def test_node_names_are_aten_operators():
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    results = [
        x.sqrt(), x.exp(), x.log1p(), x.expm1(), x.acos(), x.sigmoid(), x.relu(), x.abs(), x.std(),
        F.max_pool2d(x, 2), F.gelu(x), F.silu(x), F.softmax(x, 1), F.layer_norm(x, (8,)),
        F.batch_norm(x, None, None, training=True), F.interpolate(x, scale_factor=2),
        F.interpolate(x, scale_factor=2, mode="bilinear"), F.adaptive_avg_pool2d(x, 3),
        F.conv2d(x, torch.rand(2, 3, 3, 3)), torch.linalg.vector_norm(x), x.logsumexp(1),
        F.scaled_dot_product_attention(x, x, x), torch.fft.rfft(x), x.cumsum(1), x.amax(1),
        F.smooth_l1_loss(x, x.detach()), F.huber_loss(x, x.detach()), F.grid_sample(
            x, torch.zeros(2, 4, 4, 2), align_corners=False), x.prod(), x.pow(2.5), x.index_fill(
            0, torch.tensor([0]), 1.0), torch.atan2(x, x), F.pad(x, (1, 1, 1, 1), mode="reflect"),
    ]  # fmt: skip
    for result in results:
        name = node_operation(result.grad_fn.name())
        assert hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, "_" + name), name


def test_aten_operation_agrees_with_the_node_made():
    assert aten_operation("aten::_softmax") == node_operation("SoftmaxBackward0")
    assert aten_operation("aten::add_") == node_operation("AddBackward0")
    assert aten_operation("aten::nll_loss_forward") == node_operation("NllLossBackward0")


# ------------------------------------------------------------------ reachable


def test_leaves_are_those_that_autograd_gives_a_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 2))
    extra = nn.Linear(4, 2)
    x = torch.randn(3, 4)
    hidden = model[1](model[0](x)).detach()
    loss = model[3](model[2](hidden)).sum() + 0 * extra(x).detach().sum()
    parameters = [*model.parameters(), *extra.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    expected = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    view = reachable(loss)
    assert view.leaves == expected
    assert view.complete
    assert [view.reaches(p) for p in extra.parameters()] == [False, False]


def test_several_roots_custom_functions_and_a_leaf_root():
    a, b, c, unused = (torch.ones(2, requires_grad=True) for _ in range(4))
    view = reachable([Double.apply(a, unused.detach()).sum(), b.exp().sum(), c])
    assert view.leaves == {id(a), id(b), id(c)}
    assert reachable(torch.ones(())).leaves == frozenset()
    assert reachable([]).nodes == 0


def test_consumers_count_the_edges_that_read_a_tensor():
    w = torch.ones(2, requires_grad=True)
    h = w.exp()
    once = h.sin()
    loss = (once + h * h + h.unbind()[0]).sum()
    view = reachable(loss)
    # sin, both sides of the product, unbind
    assert view.consumers(h) == 4
    assert view.consumers(once) == 1
    assert view.consumers(w) == 1
    assert view.consumers(loss) == 0
    assert view.consumers(h.cos()) == 0
    assert view.consumers(torch.ones(2)) == -1
    assert view.edge_consumers(node_sequence_nr(h.grad_fn), h.output_nr) == 4
    first, second = (w * 1).chunk(2)
    split = reachable(first.sum() + first.mean() + second.sum())
    assert (split.consumers(first), split.consumers(second)) == (2, 1)


def test_a_tied_parameter_has_an_edge_for_each_use():
    w = torch.randn(3, 3, requires_grad=True)
    assert reachable(F.linear(F.linear(torch.ones(2, 3), w), w).sum()).consumers(w) == 2


def test_a_derivative_of_zero_blocks_what_lies_behind_it_only():
    w, v, u = (torch.rand(3, requires_grad=True) for _ in range(3))
    loss = (w.round() + v.sign() * v + u).sum()
    view = reachable(loss)
    loss.backward()
    assert view.leaves == {id(w), id(v), id(u)}
    assert view.blocked == {id(w)}
    assert not w.grad.any()
    assert v.grad.any()


def test_a_hundred_thousand_nodes():
    w, v = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    rows = [w * 1 for _ in range(100)]
    for _ in range(998):
        rows = [row + 1 for row in rows]
    loss = torch.stack(rows).sum() + v
    view = reachable(loss)
    assert view.nodes == 100 * 999 + 5
    assert view.complete
    assert view.leaves == {id(w), id(v)}
    assert leaves_behind(loss) == (view.leaves, view.nodes)


def test_a_deep_chain_neither_crashes_when_freed_nor_claims_anything():
    # torch frees a chain of nodes that Python has seen recursively: 45,000 overflow the stack
    w = torch.ones((), requires_grad=True)
    h = w
    for _ in range(100_000):
        h = h + 1
    view = reachable(h)
    assert view.hidden_by == ("depth",)
    assert view.reaches(w) is None
    assert id(w) not in leaves_behind(h)[0]
    del h


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_graphs(reentrant):
    calls = []
    block = nn.Linear(3, 3)

    def run(x):
        calls.append(None)
        return block(x).exp()

    x = torch.ones(2, 3, requires_grad=True)
    loss = checkpoint(run, x, use_reentrant=reentrant).sum()
    view = reachable(loss)
    loss_facts(loss)
    assert len(calls) == 1, "looking must not run the block again"
    # a reentrant checkpoint hides its parameters: that must not be called unreachable
    assert view.complete is not reentrant
    assert view.reaches(block.weight) is (None if reentrant else True)
    loss.backward()
    assert block.weight.grad is not None


def test_nothing_is_kept_alive():
    model = nn.Linear(3, 3)
    hidden = model(torch.ones(2, 3)).exp()
    loss = F.mse_loss(hidden, torch.zeros(2, 3))
    kept = weakref.ref(hidden)
    view, facts = reachable(loss), loss_facts(loss)
    random = torch.get_rng_state()
    del hidden, loss
    gc.collect()
    assert kept() is None
    assert view.nodes > 3
    assert not facts[0].value.requires_grad
    assert torch.equal(random, torch.get_rng_state())


# ------------------------------------------------------------------ losses


def facts_of(loss):
    facts = loss_facts(loss)
    assert len(facts) == 1, facts
    return facts[0]


def data(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, requires_grad=True) * 1


def labels(*shape, classes):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(classes, shape, generator=generator)


WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.1])
PAIRS = {
    "vector": ((5, 4), (5,), {}),
    "one sample": ((4,), (), {}),
    "sequence": ((3, 4, 6), (3, 6), {}),
    "image": ((3, 4, 5, 5), (3, 5, 5), {}),
    "volume": ((2, 4, 3, 3, 2), (2, 3, 3, 2), {}),
    "weight": ((5, 4), (5,), {"weight": WEIGHT}),
    "image weight": ((3, 4, 5, 5), (3, 5, 5), {"weight": WEIGHT}),
    "ignore": ((9, 4), (9,), {"ignore_index": 2}),
    "smooth": ((5, 4), (5,), {"label_smoothing": 0.1}),
    "smooth weight": ((5, 4), (5,), {"label_smoothing": 0.3, "weight": WEIGHT}),
    "smooth image": ((3, 4, 5, 5), (3, 5, 5), {"label_smoothing": 0.2, "ignore_index": 1}),
}  # fmt: skip


def wrapped(loss, reduction):
    """The loss as scripts hand it to backward: reduced by hand, scaled, summed, cast."""
    loss = loss.mean() if reduction == "none" else loss
    return (65536.0 * loss / 4).to(torch.float64).sum() * torch.tensor(3.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", PAIRS)
def test_cross_entropy(case, reduction):
    shape, target_shape, options = PAIRS[case]
    logits, target = data(*shape).tanh(), labels(*target_shape, classes=4)
    loss = wrapped(F.cross_entropy(logits, target, reduction=reduction, **options), reduction)
    facts = facts_of(loss)
    double = {k: v.double() if k == "weight" else v for k, v in options.items()}
    expected = F.cross_entropy(logits.detach().double(), target, **double)
    assert facts.operation == "cross_entropy"
    assert facts.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert facts.value.dim() == 0
    assert facts.reduction == reduction
    assert facts.input_operation == "TanhBackward0"
    assert facts.input_shape == shape
    assert facts.classes == 4


@pytest.mark.parametrize("case", PAIRS)
def test_baseline_of_cross_entropy_is_the_loss_of_the_best_constant_logits(case):
    shape, target_shape, options = PAIRS[case]
    logits, target = data(*shape), labels(*target_shape, classes=4)
    facts = facts_of(F.cross_entropy(logits, target, **options))
    constant = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    double = {k: v.double() if k == "weight" else v for k, v in options.items()}
    optimizer = torch.optim.LBFGS([constant], max_iter=500, line_search_fn="strong_wolfe")
    axis = 1 if len(shape) > 1 else 0
    view = [1] * len(shape)
    view[axis] = 4

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(constant.reshape(view).expand(shape), target, **double)
        loss.backward()
        return loss

    for _ in range(20):
        best = optimizer.step(closure)
    assert facts.target.baseline().item() == pytest.approx(best.item(), abs=2e-3)


def test_soft_targets():
    logits = data(6, 4)
    target = torch.softmax(data(6, 4).detach(), 1)
    for options in ({}, {"label_smoothing": 0.1}, {"weight": WEIGHT}, {"reduction": "sum"}):
        facts = facts_of(F.cross_entropy(logits, target, **options) / 8)
        options.pop("reduction", None)
        expected = F.cross_entropy(logits, target, **options)
        assert facts.operation == "cross_entropy"
        assert facts.value.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = facts_of(F.cross_entropy(logits, target)).target
    mean = target.double().mean(0)
    assert plain.baseline().item() == pytest.approx(-(mean * mean.log()).sum().item(), rel=1e-6)


def test_nll_of_raw_scores_and_of_probabilities():
    target = labels(5, classes=4)
    scores = F.linear(data(5, 3), torch.randn(4, 3, requires_grad=True), torch.zeros(4))
    raw = facts_of(F.nll_loss(scores, target))
    assert (raw.operation, raw.input_operation) == ("nll", "AddmmBackward0")
    assert raw.value.item() == pytest.approx(F.nll_loss(scores, target).item())
    soft = facts_of(F.nll_loss(F.softmax(scores, 1), target))
    assert (soft.operation, soft.input_operation) == ("nll", "SoftmaxBackward0")
    twice = facts_of(F.cross_entropy(F.softmax(scores, 1), target))
    assert (twice.operation, twice.input_operation) == ("cross_entropy", "SoftmaxBackward0")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("mse", F.mse_loss),
        ("smooth_l1", F.smooth_l1_loss),
        ("huber", F.huber_loss),
        ("bce_with_logits", F.binary_cross_entropy_with_logits),
        ("bce", F.binary_cross_entropy),
    ],
)
def test_elementwise_losses(operation, function, reduction):
    inside = data(6, 3)
    prediction = inside.sigmoid() if operation == "bce" else inside.tanh()
    target = torch.rand(6, 3, generator=torch.Generator().manual_seed(3))
    facts = facts_of(wrapped(function(prediction, target, reduction=reduction), reduction))
    expected = function(prediction.detach().double(), target.double())
    assert facts.operation == operation
    assert facts.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert facts.reduction == reduction
    assert facts.input_operation == ("SigmoidBackward0" if operation == "bce" else "TanhBackward0")
    assert (facts.input_shape, facts.target_shape) == ((6, 3), (6, 3))
    assert facts.target.mean().item() == pytest.approx(target.mean().item(), rel=1e-6)
    assert facts.target.std().item() == pytest.approx(target.std(correction=0).item(), rel=1e-5)
    if operation == "mse":
        constant = target.double().mean(0, keepdim=True).expand(6, 3)
        best = F.mse_loss(constant, target.double())
        assert facts.target.baseline().item() == pytest.approx(best.item(), rel=1e-6)
    elif operation.startswith("bce"):
        constant = target.double().mean().expand(6, 3)
        best = F.binary_cross_entropy(constant, target.double())
        assert facts.target.baseline().item() == pytest.approx(best.item(), rel=1e-6)
    else:
        assert facts.target.baseline() is None


def test_weighted_binary_loss_and_its_baseline():
    logits, target = data(50, 1), (torch.arange(50)[:, None] % 5 == 0).float()
    weight = torch.tensor([4.0])
    facts = facts_of(F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight))
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    assert facts.value.item() == pytest.approx(expected.item(), rel=1e-6)
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    losses = [
        F.binary_cross_entropy_with_logits(
            z.expand(50, 1), target.double(), pos_weight=weight.double()
        )
        for z in grid
    ]
    assert facts.target.baseline().item() == pytest.approx(torch.stack(losses).min().item(), 1e-5)


def test_composite_losses():
    a, b = data(6, 4).tanh(), data(4, 6).detach().T
    l1 = facts_of(F.l1_loss(a, b))
    assert (l1.operation, l1.reduction, l1.input_operation) == ("l1", "mean", "TanhBackward0")
    assert l1.value.item() == pytest.approx(F.l1_loss(a, b).item())
    target = torch.softmax(b, 1)
    for log_target, goal in ((False, target), (True, target.log())):
        kl = facts_of(F.kl_div(a.log_softmax(1), goal, reduction="sum", log_target=log_target))
        expected = F.kl_div(a.log_softmax(1), target, reduction="batchmean")
        assert kl.operation == "kl_div"
        assert kl.value.item() == pytest.approx(expected.item(), rel=1e-5)
        constant = target.double().mean(0).log().expand(6, 4)
        best = F.kl_div(constant, target.double(), reduction="batchmean")
        assert kl.target.baseline().item() == pytest.approx(best.item(), rel=1e-5)
    scores = data(10, 2, 5).log_softmax(2)
    lengths = torch.tensor([10, 10]), torch.tensor([3, 2])
    goal = torch.ones(2, 3, dtype=torch.long)
    ctc = facts_of(F.ctc_loss(scores, goal, *lengths))
    assert (ctc.operation, ctc.classes) == ("ctc", 5)
    assert ctc.value.item() == pytest.approx(F.ctc_loss(scores, goal, *lengths).item(), rel=1e-6)


def test_hand_written_losses():
    a, b = data(6, 4).tanh(), data(4, 6).detach().T
    goal = labels(6, classes=4)
    mse, ce = F.mse_loss(a, b).item(), F.cross_entropy(a, goal).item()
    difference = b - a
    for loss in (((a - b) ** 2).mean(), (a - b).square().sum(), (difference * difference).mean()):
        facts = facts_of(loss)
        assert (facts.operation, facts.input_operation) == ("mse", "TanhBackward0")
        assert facts.value.item() == pytest.approx(mse, rel=1e-5)
        assert facts.target is None
    root = facts_of(((a - b) ** 2).mean().sqrt())
    assert (root.operation, root.value.item()) == ("mse", pytest.approx(mse, rel=1e-5))
    scores = a.log_softmax(1)
    for loss in (
        -scores.gather(1, goal[:, None]).mean(),
        -scores[range(6), goal].mean(),
        -(scores * F.one_hot(goal, 4)).sum(1).mean(),
        F.cross_entropy(a, goal, reduction="none").mean(),
    ):
        facts = facts_of(loss)
        assert (facts.operation, facts.classes) == ("cross_entropy", 4)
        assert facts.value.item() == pytest.approx(ce, rel=1e-5)
        counts = torch.bincount(goal, minlength=4)
        assert facts.target.mass.tolist() == pytest.approx(counts.tolist())


def test_masked_positions_do_not_count():
    logits, goal = data(6, 4), labels(6, classes=4)
    mask = torch.tensor([1.0, 1, 1, 0, 0, 1])
    each = F.cross_entropy(logits, goal, reduction="none")
    facts = facts_of((each * mask).sum() / mask.sum())
    expected = F.cross_entropy(logits[mask > 0], goal[mask > 0])
    assert facts.value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert facts.target.mass.sum().item() == 4
    square = F.mse_loss(logits[:, 0], logits.detach()[:, 1], reduction="none")
    facts = facts_of((square * mask).sum())
    expected = F.mse_loss(logits[:, 0][mask > 0], logits[:, 1][mask > 0])
    assert facts.value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_several_terms_and_what_is_no_loss():
    a = data(6, 4)
    goal = labels(6, classes=4)
    both = F.cross_entropy(a, goal) + 0.5 * F.mse_loss(a.sigmoid(), torch.zeros(6, 4))
    assert [f.operation for f in loss_facts(both)] == ["cross_entropy", "mse"]
    assert [f.operation for f in loss_facts([F.l1_loss(a, a.detach()), both])] == [
        "l1", "cross_entropy", "mse",
    ]  # fmt: skip
    penalty = F.cross_entropy(a, goal) + a.tanh().norm()
    assert [f.operation for f in loss_facts(penalty)] == [
        "cross_entropy", "other:LinalgVectorNormBackward0",
    ]  # fmt: skip
    # a sum inside the model is not two losses
    assert facts_of((a.relu() + a.tanh()).mean()).operation == "other:ReluBackward0"
    critic = F.linear(a, torch.ones(1, 4, requires_grad=True), torch.zeros(1))
    assert facts_of(-critic.mean()).operation == "other:AddmmBackward0"
    policy = -(a.log_softmax(1).gather(1, goal[:, None])[:, 0] * torch.randn(6)).mean()
    assert facts_of(policy).operation == "other:GatherBackward0"
    assert facts_of(Double.apply(a, None).sum()).operation == "other:DoubleBackward"
    assert facts_of(a.detach().requires_grad_().relu().sum()).value is None
    assert loss_facts(torch.ones(())) == []


def test_a_broadcast_target_shows_its_own_shape():
    with pytest.warns(UserWarning, match="broadcast"):
        facts = facts_of(F.mse_loss(data(5, 1), torch.arange(5.0)))
    assert (facts.input_shape, facts.target_shape) == ((5, 1), (1, 5))


def test_many_classes_and_half_precision():
    logits = data(8, 2000).to(torch.bfloat16)
    goal = labels(8, classes=2000)
    facts = facts_of(F.cross_entropy(logits, goal))
    assert facts.classes == 2000
    assert facts.target.mass is None
    assert facts.target.baseline() is None
    with torch.autocast("cpu", torch.bfloat16):
        out = F.linear(data(5, 3), torch.randn(4, 3, requires_grad=True)).softmax(1)
        loss = F.cross_entropy(out.view(-1, 4).to(torch.float32), labels(5, classes=4))
    assert facts_of(loss).input_operation == "SoftmaxBackward0"


def test_targets_add_up_over_steps():
    logits, goal = data(40, 4), labels(40, classes=4)
    parts = [facts_of(F.cross_entropy(logits[i::3], goal[i::3])).target for i in range(3)]
    whole = facts_of(F.cross_entropy(logits, goal)).target
    total = parts[0].plus(parts[1]).plus(parts[2])
    assert total.mass.tolist() == whole.mass.tolist()
    assert total.baseline().item() == pytest.approx(whole.baseline().item(), rel=1e-9)
    long, short = (facts_of(F.mse_loss(data(3, n), torch.rand(3, n))).target for n in (5, 4))
    assert long.plus(short).sum.shape == (1,)
    assert long.plus(short).count.item() == 27


def test_a_freed_graph_gives_the_operation_without_a_value():
    loss = F.mse_loss(data(5, 1).tanh(), torch.zeros(5, 1))
    loss.backward()
    facts = facts_of(loss)
    assert (facts.operation, facts.value, facts.target) == ("mse", None, None)


def test_facts_inside_autocast_are_those_outside():
    prediction, target = data(6, 3).sigmoid(), torch.rand(6, 3)
    loss = F.binary_cross_entropy(prediction, target)
    outside = facts_of(loss)
    with torch.autocast("cpu", torch.bfloat16):
        inside = facts_of(loss)
    assert inside.value.dtype == torch.float32
    assert inside.value.item() == outside.value.item()
