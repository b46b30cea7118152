"""Loops that are interrupted, share a process with other models, or change what they train."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from watching import observed, recording

from gradscope.recording.facts import Role


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 2)
        self.interrupt = False

    def forward(self, x):
        h = self.body(x)
        if self.interrupt:
            raise KeyboardInterrupt
        return self.head(h)


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _step(model, optimizer, call=None):
    optimizer.zero_grad()
    loss = (call or model)(torch.randn(8, 6)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def _losses(folder):
    return pytest.approx(recording(folder).steps["loss"].tolist(), rel=1e-6)


def test_a_forward_ended_by_ctrl_c_hides_nothing_that_follows(tmp_path):
    model = Two()
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model):
        losses = [_step(model, optimizer)]
        model.interrupt = True
        with pytest.raises(KeyboardInterrupt):
            _step(model, optimizer)
        model.interrupt = False
        losses += [_step(model, optimizer) for _ in range(3)]
        assert not _get_current_function_mode_stack()
    assert losses == _losses(tmp_path / "run")
    frame = recording(tmp_path / "run").activations
    rows = frame[(frame["module"] == "head") & (frame["role"] == Role.OUTPUT)]
    assert rows["step"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_step_that_fails_is_not_open_for_ever(tmp_path, error):
    model = Two()
    optimizer = _sgd(model)

    def fail(*_):
        raise error

    with observed(tmp_path / "run", model):
        _step(model, optimizer)
        handle = optimizer.register_step_pre_hook(fail)
        with pytest.raises(error):
            _step(model, optimizer)
        handle.remove()
        for _ in range(3):
            _step(model, optimizer)
    assert len(recording(tmp_path / "run").steps) == 4


def test_another_model_that_trains_before_makes_no_steps(tmp_path):
    model, other = Two(), Two()
    ours, theirs = _sgd(model), _sgd(other)
    with observed(tmp_path / "run", model):
        for _ in range(4):
            _step(other, theirs)
        losses = [_step(model, ours) for _ in range(3)]
    assert losses == _losses(tmp_path / "run")


def test_a_critic_beside_the_watched_generator_is_not_counted(tmp_path):
    generator, critic = nn.Linear(6, 3), nn.Linear(3, 1)
    ours, theirs = _sgd(generator), _sgd(critic)
    losses = []
    with observed(tmp_path / "run", generator):
        for _ in range(4):
            fake = generator(torch.randn(8, 6))
            theirs.zero_grad()
            critic(fake.detach()).square().mean().backward()
            theirs.step()
            losses.append(_step(generator, ours, lambda x: critic(generator(x)) - 3))
    run = recording(tmp_path / "run")
    assert losses == _losses(tmp_path / "run")
    assert run.steps["backwards"].tolist() == [1] * 4
    assert set(run.parameter_names.values()) == {"weight", "bias"}


def test_parts_called_without_their_root_have_losses(tmp_path):
    model = Two()
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model):
        losses = [_step(model, optimizer)]
        losses += [_step(model, optimizer, lambda x: model.head(model.body(x))) for _ in range(3)]
    assert losses == _losses(tmp_path / "run")


def test_gradients_of_autograd_grad_are_not_taken_for_those_of_the_loss(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(8, 6, requires_grad=True)

    def loss():
        hidden = model[0](x)
        y = model[2](model[1](hidden))
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y.mean() + (slope.norm(dim=1) - 1).square().mean(), hidden

    total, hidden = loss()
    (truth,) = torch.autograd.grad(total, hidden)
    with observed(tmp_path / "run", model):
        loss()[0].backward()
        _sgd(model).step()
    frame = recording(tmp_path / "run").activations
    row = frame[(frame["module"] == "0") & (frame["role"] == Role.GRAD_OUTPUT)].iloc[0]
    assert row["calls"] == 1
    assert row["rms"] == pytest.approx(float(truth.square().mean().sqrt()), rel=1e-4)


def test_transforms_of_torch_func_pass_by(tmp_path):
    model = Two()
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model) as observer:
        for _ in range(2):
            parameters = {k: v.detach() for k, v in model.named_parameters()}
            torch.func.grad(
                lambda p: torch.func.functional_call(model, p, (torch.ones(3, 6),)).sum()
            )(parameters)
            torch.func.vmap(torch.func.grad(lambda x: model(x).sum()))(torch.ones(3, 6))
            _step(model, optimizer)
        assert observer.failure is None
    frame = recording(tmp_path / "run").activations
    rows = frame[(frame["module"] == "body") & (frame["role"] == Role.OUTPUT)]
    assert rows["count"].tolist() == [32, 32]


def test_parameters_replaced_below_a_root_are_found_again(tmp_path):
    model = Two()
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model):
        _step(model, optimizer)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        optimizer = _sgd(model)
        _step(model, optimizer)
        norm = float(model.head.weight.grad.norm())
    rows = recording(tmp_path / "run").gradients
    rows = rows[(rows["step"] == 1) & rows["parameter"].str.startswith("head")]
    assert rows["norm"].max() >= norm * 0.999
    assert len(recording(tmp_path / "run").steps) == 2


def test_a_conversion_that_swaps_tensors_works_and_keeps_the_ids(tmp_path):
    model = nn.Linear(6, 2)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with observed(tmp_path / "run", model):
            _step(model, _sgd(model))
            model.zero_grad()
            model.half().float()
            _step(model, _sgd(model))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    run = recording(tmp_path / "run")
    assert run.gradients["parameter"].tolist() == ["weight", "bias"] * 2


def test_lazy_parameters_are_met_when_they_have_a_shape(tmp_path):
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    with observed(tmp_path / "run", model):
        model(torch.randn(2, 6))
        optimizer = _sgd(model)
        for _ in range(2):
            _step(model, optimizer)
    run = recording(tmp_path / "run")
    frame = run.parameters.set_index("name")
    assert frame["count"].to_dict() == {"0.weight": 24, "0.bias": 4, "2.weight": 8, "2.bias": 2}
    assert len(run.gradients) == 8


def test_a_parameter_whose_data_grow_is_compared_with_its_new_beginning(tmp_path):
    model = nn.Linear(6, 2, bias=False)
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model) as observer:
        _step(model, optimizer)
        model.weight.grad = None
        model.weight.data = torch.randn(5, 6)
        for _ in range(2):
            _step(model, optimizer)
        assert observer.failure is None
    rows = recording(tmp_path / "run").updates
    assert rows["count"].tolist() == [12, 30, 30]


def test_nothing_of_the_training_is_held(tmp_path):
    model = Two()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model) as observer:
        for _ in range(2):
            optimizer.zero_grad()
            scaled = scaler.scale(model(torch.randn(8, 6)).mean())
            scaled.backward()
            graph = weakref.ref(scaled)
            del scaled
            assert graph() is None
            scaler.step(optimizer)
            scaler.update()
        old = weakref.ref(model.head.weight)
        model.head, optimizer = nn.Linear(4, 2), None
        gc.collect()
        assert old() is None
        _step(model, _sgd(model))
    kept = weakref.ref(model.body.weight)
    del model
    gc.collect()
    assert kept() is None
    assert observer.steps == 3


def test_backward_takes_what_it_takes_without_us(tmp_path):
    model = nn.Linear(6, 2)
    optimizer = _sgd(model)
    with observed(tmp_path / "run", model):
        for form in (
            lambda loss: (loss for loss in (loss,)),
            torch.autograd.graph.get_gradient_edge,
        ):
            optimizer.zero_grad()
            loss = model(torch.ones(8, 6)).sum()
            torch.autograd.backward(form(loss), torch.ones(()))
            assert float(model.bias.grad[0]) == 8
            optimizer.step()
        with pytest.raises(TypeError, match="tensors"):
            torch.autograd.backward()
    assert len(recording(tmp_path / "run").steps) == 2


def test_a_thread_that_evaluates_leaves_the_look_alone(tmp_path):
    model = Two()
    optimizer = _sgd(model)

    def evaluate():
        with torch.no_grad():
            model(torch.ones(4, 6))

    class Meanwhile(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=evaluate)
            if threading.current_thread() is threading.main_thread():
                thread.start()
                thread.join()
            return x

    model.head = nn.Sequential(Meanwhile(), model.head)
    with observed(tmp_path / "run", model) as observer:
        _step(model, optimizer)
        assert not _get_current_function_mode_stack()
        assert observer.failure is None
    assert len(recording(tmp_path / "run").steps) == 1


def test_the_last_step_of_a_hand_written_loop_has_its_modules(tmp_path):
    model = Two()
    with observed(tmp_path / "run", model):
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(8, 6)).square().mean().backward()
            for parameter in model.parameters():
                parameter.data -= 0.1 * parameter.grad
    assert sorted(recording(tmp_path / "run").activations["step"].unique()) == [0, 1, 2]
