"""The benchmark's figures against numbers counted by hand."""

import math

import pytest

from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.scoring import Judged, Said, Share, is_at, score, score_code
from benchmarks.accuracy.table import below_limits

CASE = Case("mlp", "small", "digits", "sgd", "plain")


def judged(label, codes=(), said=(), at_fault=()):
    alarms = tuple(Said(*alarm) if isinstance(alarm, tuple) else Said(alarm) for alarm in said)
    return Judged(CASE, label, tuple(codes), tuple(at_fault), alarms)


SOME = (
    judged("sick", ["GS101", "GS404"], ["GS101"]),
    judged("sick", ["GS101", "GS404"], ["GS404", "GS301"]),
    judged("sick", ["GS301"], [("GS301", "layers.2")], ["layers.2"]),
    judged("sick", ["GS301"], [("GS301", "layers.4")], ["layers.2"]),
    judged("sick", ["GS402"], ["GS505"]),
    judged("sick", ["GS402"], []),
    judged("healthy", [], []),
    judged("healthy", [], ["GS301"]),
    judged("healthy", ["GS101"], ["GS101", "GS301"]),
    judged("healthy", ["GS101"], []),
    judged("between", ["GS101"], ["GS302"]),
    judged("unjudged", ["GS101"], ["GS302"]),
)


def test_figures_over_all():
    found = score(SOME)
    assert found.trainings == {"sick": 6, "healthy": 4, "between": 1, "unjudged": 1}
    assert (found.named.hits, found.named.count) == (4, 6)
    assert (found.alarmed.hits, found.alarmed.count) == (5, 6)
    # of 9 alarms: GS301 beside GS404, and the three on healthy trainings are wrong
    assert (found.precise.hits, found.precise.count) == (5, 9)
    assert (found.located.hits, found.located.count) == (1, 2)
    assert (found.false_alarms.hits, found.false_alarms.count) == (2, 4)


def test_figures_of_one_code():
    found = score_code(SOME, "GS301")
    assert (found.named.hits, found.named.count) == (2, 2)
    # alarms of GS301: two right ones, one beside GS404, two on healthy trainings
    assert (found.precise.hits, found.precise.count) == (2, 5)
    assert (found.false_alarms.hits, found.false_alarms.count) == (2, 4)
    assert found.located.value == 0.5
    other = score_code(SOME, "GS101")
    # both sick trainings with this fault are named, one of them by its other code
    assert (other.named.hits, other.named.count) == (2, 2)
    assert (other.precise.hits, other.precise.count) == (1, 2)


def test_not_learning_is_right_for_sick_trainings_only_and_names_nothing():
    sick = judged("sick", ["GS402"], ["GS505"])
    assert not sick.named
    assert score([sick]).precise.value == 1.0
    assert score([judged("healthy", [], ["GS505"])]).precise.value == 0.0


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # the examples of Newcombe (1998), Statistics in Medicine 17, 857-872, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(hits, count, low, high):
    found = Share(hits, count).interval()
    assert found == pytest.approx((low, high), abs=6e-5)


def test_an_interval_of_nothing_is_not_a_number():
    share = Share(0, 0)
    assert math.isnan(share.value)
    assert all(math.isnan(end) for end in share.interval())


@pytest.mark.parametrize(
    ("name", "at_fault", "right"),
    [
        ("layers.2", ["layers.2"], True),
        ("layers.2.inner", ["layers.2"], True),
        ("layers.20", ["layers.2"], False),
        ("model.layers.2", ["layers.2"], True),
        ("critic.body", ["body"], True),
        ("layers", ["layers.2"], False),
        ("layers.3", ["layers.2"], False),
        ("a.2", ["layers.2", "a.2"], True),
        ("", ["layers.2"], False),
        (None, ["layers.2"], False),
    ],
)
def test_where_a_name_is(name, at_fault, right):
    assert is_at(name, at_fault) is right


def test_limits_are_told_on_both_sides():
    good = [judged("sick", ["GS301"], ["GS301"])] * 92 + [judged("sick", ["GS301"])] * 8
    silent = [judged("healthy")] * 99 + [judged("healthy", [], ["GS505"])]
    assert below_limits([*good, *silent]) == []
    worse = [*good, judged("sick", ["GS301"]), *silent]
    assert [sentence.split()[0] for sentence in below_limits(worse)] == ["recall"]
    louder = [*good, *silent, judged("healthy", [], ["GS505"])]
    assert [sentence.split()[0] for sentence in below_limits(louder)] == ["false"]
    assert below_limits(louder, surely=True) == []
    loudest = [*louder, *[judged("healthy", [], ["GS505"])] * 3]
    assert [sentence.split()[0] for sentence in below_limits(loudest, surely=True)] == ["false"]
