"""One training under each tool, the results file, and the command from end to end."""

import json

import pytest

from benchmarks.accuracy import judging
from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.detectors.observations import Observations
from benchmarks.accuracy.detectors.rules import autotrainer, deepdiagnosis, sagemaker
from benchmarks.accuracy.running import TOOLS, run
from benchmarks.accuracy.store import Job, Store, _sources, version

DEAD = Case("mlp", "small", "digits", "sgd", "plain", "dead-layers", 10)


def test_gradscope_is_really_run(tmp_path):
    store = Store(tmp_path / "results.jsonl")
    run([*judging.label_jobs(DEAD), Job("plain", DEAD), Job("gradscope", DEAD)], store)
    (judged,) = judging.under_gradscope([DEAD], store)
    assert judged.label == "sick"
    assert store[Job("gradscope", DEAD)]["errors"] == []
    assert judged.named
    assert judged.located
    # watching does not change the training
    watched, alone = store[Job("recorded", DEAD)], store[Job("plain", DEAD)]
    assert watched["share"] == alone["share"]


def test_published_rules_know_a_dead_network(tmp_path):
    result = TOOLS["published"](DEAD, tmp_path)
    assert "GS301" in result["codes"]["SageMaker Debugger"]
    assert "GS301" in result["codes"]["DeepDiagnosis"]


@pytest.mark.parametrize(("size", "rings"), [(0.9e-7, True), (1.1e-7, False)])
def test_limits_of_published_rules(size, rings):
    seen = Observations(losses=[1.0])
    row = {"mean_abs": size, "norm": 1.0, "zeros": 0.0, "count": 4, "spread": 1.0, "finite": 1.0}
    seen.gradients["0.weight"].append(row)
    assert ("GS101" in sagemaker(seen)) is rings
    assert ("GS101" in deepdiagnosis(seen)) is rings
    assert autotrainer(seen) is None


def test_results_survive_and_a_torn_line_does_not_matter(tmp_path):
    path = tmp_path / "results.jsonl"
    store = Store(path)
    job, other = Job("plain", DEAD), Job("plain", DEAD.reseeded(1))
    store.add(job, {"share": 0.5})
    with path.open("a") as file:
        file.write('{"key": "plain:torn')
    again = Store(path)
    assert again[job] == {"share": 0.5}
    assert again.missing([other, job, other]) == [other]


def test_results_of_other_code_are_left_aside(tmp_path):
    path = tmp_path / "results.jsonl"
    job = Job("plain", DEAD)
    Store(path).add(job, {"share": 0.5})
    item = json.loads(path.read_text())
    path.write_text(json.dumps(item | {"version": "older"}) + "\n")
    assert job not in Store(path)
    assert job in Store(path, any_version=True)


def test_a_label_depends_on_what_makes_its_training_and_on_nothing_else():
    made_of = {file.name for file in _sources("benchmarks.accuracy.families.gru")}
    assert {"gru.py", "recurrent.py", "common.py"} <= made_of
    assert "cnn.py" not in made_of
    gru = Case("gru", "last", "digits", "adam", "plain")
    versions = {version(Job(tool, gru)) for tool in ("plain", "recorded", "gradscope")}
    assert len(versions) == 3
    assert version(Job("plain", gru)) == version(Job("plain", gru.reseeded(1)))


@pytest.mark.slow
def test_the_command_from_end_to_end(tmp_path, capsys):
    arguments = ["--part", "tuning", "--fault", "broadcast", "--fault", "unregistered"]
    results = tmp_path / "results.jsonl"
    main([*arguments, "--results", str(results)])
    table, lines = capsys.readouterr().out, results.read_text().splitlines()
    assert "| GS503 |" in table
    main([*arguments, "--results", str(results)])
    assert results.read_text().splitlines() == lines
    assert capsys.readouterr().out == table
