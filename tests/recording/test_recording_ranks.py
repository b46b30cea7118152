"""Parts of sharded parameters put together: against the moments of the whole tensor."""

import math

import numpy as np
import pytest

from gradscope.recording.facts import GRADIENTS, SKETCHES, UPDATES, State
from gradscope.recording.load import load_run
from gradscope.recording.ranks import unfinished
from gradscope.recording.writer import Writer

GENERATOR = np.random.default_rng(3)
WHOLE = GENERATOR.normal(size=(4, 10))
"""A gradient of ten numbers on four steps."""
DELTA = GENERATOR.normal(size=(4, 10))


def write(folder, rank, numbers, steps, *, shard, identity=0, ranks=2, failed=None):
    """What a rank records of the elements ``numbers`` of parameter ``w``, and of a whole ``b``."""
    writer = Writer(folder, rank=rank)
    writer.set("world_size", ranks)
    if failed:
        writer.set("failed", failed)
    writer.records("modules", [{"module": 0, "root": 0, "path": "", "type": "Net", "step": 0}])
    for name, number, part in (("w", identity, shard), ("b", 1 - identity, None)):
        writer.records(
            "parameters",
            [{"parameter": number, "root": 0, "path": name, "module": 0, "optimizer": 0,
              "shard": part, "step": 0}],
        )  # fmt: skip
    for step in steps:
        rows = np.zeros(2, GRADIENTS.dtype)
        rows["step"], rows["parameter"] = step, [identity, 1 - identity]
        for row, values in zip(rows, (WHOLE[step, numbers], np.array([3.0])), strict=True):
            row["count"], row["sum"], row["sum_sq"] = len(values), values.sum(), values @ values
            row["max_abs"] = np.abs(values).max(initial=0)
            row["state"] = State.FINITE if len(values) else State.EXACT_ZERO
            row["nans"] = row["infs"] = -1
        writer.rows("gradients", rows)
        if len(numbers):
            update = np.zeros(1, UPDATES.dtype)
            update["step"], update["parameter"] = step, identity
            update["count"] = update["looked_at"] = update["changed"] = len(numbers)
            update["delta_sq"] = DELTA[step, numbers] @ DELTA[step, numbers]
            update["progress"] = -WHOLE[step, numbers] @ DELTA[step, numbers]
            writer.rows("updates", update)
            sketch = np.zeros(1, SKETCHES.dtype)
            sketch["step"], sketch["parameter"] = step, identity
            writer.rows("sketches", sketch)
        writer.records(
            "steps",
            [{"step": step, "optimizer": 0, "norm": 99.0, "parameters_sampled": True}],
        )
    writer.close()


def part(copy=False, parts=2):
    return {"parts": parts, "copy": copy}


def test_parts_add_up_to_the_whole(tmp_path):
    write(tmp_path, 0, range(7), range(4), shard=part())
    # the other rank has met the parameters in another order
    write(tmp_path, 1, range(7, 10), range(4), shard=part(), identity=1)
    run = load_run(tmp_path)
    w = run.gradients[run.gradients["parameter"] == "w"].set_index("step")
    for step in range(4):
        whole = WHOLE[step]
        assert w.loc[step, "count"] == 10
        assert w.loc[step, "sum"] == pytest.approx(whole.sum(), rel=1e-12)
        assert w.loc[step, "norm"] == pytest.approx(np.linalg.norm(whole), rel=1e-12)
        assert w.loc[step, "max_abs"] == np.abs(whole).max()
        assert run.steps["norm"][step] == pytest.approx(np.linalg.norm([*whole, 3.0]), rel=1e-12)
        update = run.updates.set_index("step").loc[step]
        assert (update["count"], update["looked_at"], update["changed"]) == (10, 10, 10)
        assert update["delta_sq"] == pytest.approx(DELTA[step] @ DELTA[step], rel=1e-12)
        assert update["progress"] == pytest.approx(-whole @ DELTA[step], rel=1e-12)
        assert math.isclose(run.gradients[run.gradients["parameter"] == "b"]["sum"].max(), 3.0)
    assert not run.has("sketches")
    assert run.limits == ()


def test_an_empty_part_changes_nothing(tmp_path):
    write(tmp_path, 0, range(10), range(4), shard=part())
    write(tmp_path, 1, [], range(4), shard=part())
    w = load_run(tmp_path).gradients.query("parameter == 'w'")
    assert list(w["state"]) == [State.FINITE] * 4
    assert list(w["norm"]) == pytest.approx(list(np.linalg.norm(WHOLE, axis=1)), rel=1e-12)


def test_copies_of_parts_are_not_counted_twice(tmp_path):
    for rank, numbers in enumerate((range(5), range(5, 10), range(5), range(5, 10))):
        write(tmp_path, rank, numbers, range(4), shard=part(copy=rank > 1), ranks=4)
    w = load_run(tmp_path).gradients.query("parameter == 'w'")
    assert list(w["norm"]) == pytest.approx(list(np.linalg.norm(WHOLE, axis=1)), rel=1e-12)


def test_steps_that_only_some_ranks_have_seen_are_left_out(tmp_path):
    write(tmp_path, 0, range(7), range(4), shard=part())
    write(tmp_path, 1, range(7, 10), range(2), shard=part(), failed="the script failed: OSError")
    run = load_run(tmp_path)
    assert list(run.gradients.query("parameter == 'w'")["step"]) == [0, 1]
    assert list(run.gradients.query("parameter == 'b'")["step"]) == [0, 1, 2, 3]
    assert run.limits == ("rank 1: the script failed: OSError",)


def test_without_the_other_parts_there_is_no_whole(tmp_path):
    write(tmp_path, 0, range(7), range(4), shard=part(parts=3), ranks=3)
    run = load_run(tmp_path)
    assert set(run.gradients["parameter"]) == {"b"}
    assert any("only parts of rank 0 were found" in limit for limit in run.limits)
    write(tmp_path, 1, range(7, 9), range(4), shard=part(parts=3), ranks=3)
    run = load_run(tmp_path)
    assert set(run.gradients["parameter"]) == {"b"}
    assert any("only parts of rank 0, 1 were found" in limit for limit in run.limits)


def test_replicas_are_not_added(tmp_path):
    for rank in range(2):
        write(tmp_path, rank, range(10), range(4), shard=None)
    w = load_run(tmp_path).gradients.query("parameter == 'w'")
    assert list(w["count"]) == [10] * 4


def test_a_rank_that_ended_without_a_word_is_named():
    done, gone = {"finished": "now"}, {}
    assert unfinished({0: (gone, 3, False)}) == []
    assert unfinished({0: (done, 9, False), 1: (gone, 1, False), 2: (gone, 4, True)}) == [
        "rank 1 ended after 1 step without finishing its file"
    ]
