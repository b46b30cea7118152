"""The table of the fixes benchmark, counted by hand; the rest of it on one small training."""

import pytest

from benchmarks.accuracy.cases import Case
from benchmarks.fixes import table
from benchmarks.fixes.evaluating import evaluate
from gradscope.advise.trials import Limits


def row(fault="dead-layers", share=0.8, status="helped", label="sick", **more):
    return {
        "key": f"{fault}{share}{status}{label}", "label": label, "twin": [0.8], "share": 0.0,
        "case": {"fault": fault}, "seconds": 4.0, "observed": 2.0,
        "top": {"fix": "initialize", "status": status, "share": share}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(("share", "hits"), [(0.73, 1), (0.71, 0)])
def test_within_a_tenth_of_the_twin_counts_as_reached(share, hits):
    assert f"| {hits}.00 |" in table.report([row(share=share)], part="reporting").splitlines()[4]


def test_every_kind_of_training_is_counted_where_it_belongs():
    rows = [
        row(),
        row(share=0.1, status="no-effect"),
        row(fault="wrong-labels", share=0.0, status="not-tried"),
        row(fault="nan-batch", top=None),
        row(fault="cosine", share=0.0),  # a look-alike: it has no known mend
        row(label="healthy", top=None, placebos={"nothing": "no-effect"}),
    ]
    lines = table.report(rows, part="reporting").splitlines()
    assert lines[0] == "4 sick and 1 healthy trainings of the reporting part."
    counted = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in lines[4:13]}
    assert list(counted.values()) == ["4", "2", "2", "2", "1", "0", "1", "0", "0"]


def test_helps_and_placebos_are_shares_of_all_of_them():
    rows = [
        row(fresh=[True, False, True], placebos={"nothing": "helped", "shuffled": "no-effect"}),
        row(share=0.7, fresh=[True], placebos={"nothing": "no-effect", "shuffled": "hurt"}),
    ]
    text = table.report(rows, part="reporting")
    assert "| `helped` that holds on two fresh seeds | 0.75 |" in text
    assert "| placebos called `helped` | 0.25 |" in text
    assert "| nothing | 1 of 2 | 0 of 0 |" in text


def test_a_figure_is_below_its_goal_only_beyond_its_interval():
    assert table.below_goals([row(), row(share=0.0)]) == []
    assert table.below_goals([row(share=0.0)] * 30) != []
    assert table.below_goals([row()] * 30) == []


def test_a_dead_network_is_mended_in_a_trial():
    case = Case("mlp", "small", "digits", "adam", "plain", fault="dead-layers", level=10, seed=0)
    found = evaluate(case, Limits(40, 2, 60), thorough=False, placebos=False)
    assert found["findings"][0]["code"] == "GS301"
    assert found["top"]["status"] == "helped"
    assert found["top"]["share"] > 0.5 > found["share"]
