"""Which forwards of a step count."""

from gradscope.observe.steps.passes import EVALUATIONS, OUTSIDE, ROOT_CALLS, Passes


def _forward(passes, root=0, training=True):
    room = passes.begin(root, training=training)
    number, read = passes.current, passes.reading
    passes.end()
    return number, read, room


def test_a_forward_without_a_gradient_is_idle_beside_one_with():
    passes = Passes()
    evaluation, _, _ = _forward(passes)
    trained, _, _ = _forward(passes)
    assert set(passes.idle()) == set()
    passes.arrived(trained)
    assert set(passes.idle()) == {evaluation}
    other, _, _ = _forward(passes, root=1)
    assert other not in passes.idle(), "its root had no gradient in any forward"


def test_as_many_forwards_as_are_read_and_no_more():
    passes = Passes()
    for _ in range(ROOT_CALLS):
        number, read, room = _forward(passes)
        assert (read, room) == (True, None)
        passes.arrived(number)
    assert _forward(passes)[1] is False
    passes.clear()
    assert _forward(passes)[1] is True


def test_evaluations_make_room_for_the_training():
    passes = Passes()
    numbers = [_forward(passes)[0] for _ in range(ROOT_CALLS)]
    assert _forward(passes)[2] == numbers[0]
    assert _forward(passes)[2] == numbers[1]


def test_a_long_validation_in_eval_mode_is_read_no_more():
    passes = Passes()
    passes.arrived(_forward(passes)[0])
    passes.clear()
    reads = [_forward(passes, training=False)[1] for _ in range(EVALUATIONS + 5)]
    assert reads == [True] * EVALUATIONS + [False] * 5
    assert _forward(passes)[1] is True, "the training's own forward"


def test_the_first_forward_of_each_root():
    passes = Passes()
    passes.begin(0, training=True)
    assert passes.first(0)
    passes.end()
    assert passes.current == OUTSIDE
    passes.begin(0, training=True)
    assert not passes.first(0)
    assert passes.first(1)
