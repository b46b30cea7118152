"""Trials stand in the run folder: a report that is made later tells of them, and of no others."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradscope
from gradscope import config
from gradscope.advise.fixes import FIXES
from gradscope.advise.kept_trials import change_of, records_of, with_kept
from gradscope.cli import main
from gradscope.diagnose.finding import Mended, Reach, Trial
from gradscope.recording import facts
from gradscope.recording.appending import append
from gradscope.recording.writer import Writer
from gradscope.report.formats import render
from gradscope.session.checking import check_file
from gradscope.session.judging import from_folder, judge
from gradscope.session.trying import kept

MODEL = """
import torch
from torch import nn

layers = []
for index in range(9):
    layers.append(nn.Linear(20 if index == 0 else 32, 32))
    layers.append(nn.Sigmoid())
model = nn.Sequential(*layers, nn.Linear(32, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
criterion = nn.CrossEntropyLoss()


def get_batch():
    x = torch.randn(64, 20)
    return x, x[:, :5].argmax(1)
"""


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def loss_of(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A check with its trials, in a folder that tests copy before they change it."""
    here = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        (here / "model.py").write_text(MODEL)
        settings = config.Settings(steps=60, trial_steps=40, trial_seeds=2)
        yield check_file("model.py", settings, run_dir=here / "run")


@pytest.fixture
def folder(checked, tmp_path):
    return shutil.copytree(checked.folder, tmp_path / "run")


def document(diagnosis):
    return json.loads(render(diagnosis, "json"))


def test_a_report_from_the_folder_says_what_the_check_said(checked):
    again = from_folder(checked.folder)
    now, then = document(again), document(checked.diagnosis)
    assert now["findings"] == then["findings"]
    first = now["findings"][0]["fixes"][0]["trial"]
    assert first["status"] == "helped"
    assert len(first["curves_treated"][0]) == 40
    assert len(first["loss_treated"]) == 2
    assert now["mended"] == then["mended"] is not None
    assert [f.fixes for f in again.findings] == [f.fixes for f in checked.diagnosis.findings]
    page = render(again, "html")
    assert page.count("<svg") == render(checked.diagnosis, "html").count("<svg")
    assert "mean and range of 2 seeds" in page


@pytest.mark.parametrize("format", ["json", "full", "markdown", "html"])
def test_the_command_reports_them_in_each_format(checked, tmp_path, format):
    target = tmp_path / "out"
    words = ["report", str(checked.folder), "--format", format, "--output", str(target), "--quiet"]
    assert main(words) == 1
    assert target.read_text(encoding="utf-8").count("helped") >= 1


def test_a_script_that_was_run_keeps_them_too(python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = """
for step in range(60):
    x, y = get_batch()
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
    (tmp_path / "train.py").write_text(MODEL + loop)
    words = ["--try-fixes", "--trial-steps", "30", "--trial-seeds", "2", "--run-dir", "run"]
    outputs = ["--format", "json", "--output", "then.json"]
    python.run(
        "-m", "gradscope", "run", *words, *outputs, "train.py", folder=tmp_path
    ).check_returncode()
    main(["report", "run", "--format", "json", "--output", "now.json", "--quiet"])
    then, now = (
        json.loads((tmp_path / name).read_text(encoding="utf-8"))
        for name in ("then.json", "now.json")
    )
    assert then["findings"][0]["fixes"][0]["trial"]["status"] == "helped"
    assert now["findings"] == then["findings"]
    assert now["mended"] == then["mended"]


def test_a_fix_without_a_kept_trial_is_not_tried(checked, folder):
    recording = gradscope.load_run(folder)
    plain = judge(recording, trials=False)
    assert {fix.trial.status for f in plain.findings for fix in f.fixes} == {"not-tried"}
    (finding, *_) = checked.diagnosis.findings
    # a later round that knows one fix only: what an earlier round said does not hold for the rest
    one = replace(checked.diagnosis, findings=(finding.with_fixes(finding.fixes[:1]),), mended=None)
    append(folder, "trials", records_of(one, recording))
    (now, *others) = from_folder(folder).findings
    assert now.fixes[0] == finding.fixes[0]
    rest = [*now.fixes[1:], *(fix for f in others for fix in f.fixes)]
    assert rest
    assert {(fix.trial.status, fix.trial.reason) for fix in rest} == {
        ("not-tried", "it was not among the fixes that were tried")
    }


def test_a_trial_of_another_change_is_not_this_ones(checked, folder):
    recording = gradscope.load_run(folder)
    (finding, *rest) = checked.diagnosis.findings
    other = replace(finding.fixes[0], title="put a norm elsewhere", diff=None)
    changed = finding.with_fixes((other, *finding.fixes[1:]))
    tried = replace(checked.diagnosis, findings=(changed, *rest))
    append(folder, "trials", records_of(tried, recording))
    found = from_folder(folder)
    fix = next(f for f in found.findings[0].fixes if f.name == other.name)
    assert fix.trial == Trial("not-tried", "another change was tried then: put a norm elsewhere")
    # what helped together is told only where each of its parts stands there as a help
    assert found.mended is None
    assert {f.name for f in found.findings[0].fixes} == {f.name for f in finding.fixes}


def test_every_number_comes_back(checked, folder):
    (finding, *rest) = checked.diagnosis.findings
    nan, inf = float("nan"), float("inf")
    trial = Trial(
        "helped", "float:because", 2, 3, (inf, 1 / 3), (0.1, -inf), "error",
        ((1e-300, 2.0, inf), (1.0,)), ((0.1, 0.2, 0.3), ()), (Reach("a.b", nan, 1e-9),),
    )  # fmt: skip
    fixes = (replace(finding.fixes[0], trial=trial), *finding.fixes[1:])
    tried = replace(
        checked.diagnosis,
        findings=(finding.with_fixes(fixes), *rest),
        mended=Mended(((finding.code, fixes[0].title),), trial),
    )
    append(folder, "trials", records_of(tried, gradscope.load_run(folder)))
    again = from_folder(folder)
    # repr: NaN is not equal to itself
    assert repr(again.findings[0].fixes[0].trial) == repr(trial)
    assert repr(again.mended) == repr(tried.mended)


def test_a_recording_without_trials_loads_and_says_not_asked_for(folder):
    segments = sorted(folder.glob("rank0.*.frames"))
    segments[-1].unlink()
    recording = gradscope.load_run(folder)
    assert recording.lost == ()
    assert recording.trials.empty
    assert recording.count("trials") == 0
    reasons = {fix.trial.reason for f in judge(recording).findings for fix in f.fixes}
    assert reasons == {"trials were not asked for"}


def test_an_older_version_reads_a_recording_with_trials(folder, monkeypatch):
    """Its schema knows no such table: the rest is there, and nothing is said to be lost."""
    older = {name: table for name, table in facts.BY_NAME.items() if name != "trials"}
    monkeypatch.setattr("gradscope.recording.layout.BY_NAME", older)
    recording = gradscope.load_run(folder)
    assert recording.lost == ()
    assert recording.count("steps") == 60
    assert recording.trials.empty


@pytest.mark.parametrize(
    "damage",
    [
        {"status": "wonderful"}, {"control": None}, {"curves_treated": [1, 2]}, {"seeds": None},
        {"reach": [["a"]]}, {"measure": "beauty"}, {"control": [{}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_no_trial(checked, folder, damage):
    records = records_of(checked.diagnosis, gradscope.load_run(folder))
    append(folder, "trials", [{**record, **damage} for record in records])
    found = from_folder(folder)
    assert {fix.trial.status for f in found.findings for fix in f.fixes} == {"not-tried"}
    assert found.mended is None


def test_appending_leaves_every_file_as_it_is(checked, folder):
    before = contents(folder)
    records = records_of(checked.diagnosis, gradscope.load_run(folder))
    append(folder, "trials", records)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    recording = gradscope.load_run(folder)
    assert recording.lost == ()
    assert set(recording.trials["round"]) == {0, 1}


def test_what_cannot_be_kept_is_still_told(checked, tmp_path):
    gone = kept(checked.diagnosis, tmp_path / "nowhere")
    assert gone.findings == checked.diagnosis.findings
    assert "is not kept" in gone.errors[-1]
    writer = Writer(tmp_path / "busy")
    busy = kept(checked.diagnosis, tmp_path / "busy")
    writer.close()
    assert "being written by process" in busy.errors[-1]
    assert gradscope.load_run(tmp_path / "busy").lost == ()


def test_the_mark_of_a_change_tells_changes_apart(checked):
    fixes = [fix for f in checked.diagnosis.findings for fix in f.fixes]
    assert len({change_of(fix) for fix in fixes}) == len(set(map(repr, fixes)))
    assert change_of(fixes[0]) == change_of(replace(fixes[0], trial=Trial("hurt", "worse")))
    assert change_of(fixes[0]) != change_of(replace(fixes[0], diff=f"{fixes[0].diff} "))


def test_fixes_of_others_stay(checked):
    """A fix that this version does not know keeps its place and is not tried."""
    known = [kind for kind in FIXES if kind.name != checked.diagnosis.findings[0].fixes[-1].name]
    plain = judge(gradscope.load_run(checked.folder), trials=False)
    again = with_kept(plain, known)
    assert [len(f.fixes) for f in again.findings] == [len(f.fixes) for f in plain.findings]


def test_a_watched_loop_keeps_them_while_it_runs_and_afterwards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = []
    for index in range(9):
        layers += [nn.Linear(20 if index == 0 else 32, 32), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(32, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with gradscope.watch(model, budget=None, run_dir=tmp_path / "run") as scope:
        for _ in range(60):
            x = torch.randn(64, 20)
            optimizer.zero_grad()
            loss_of(model, (x, x[:, :5].argmax(1))).backward()
            optimizer.step()
        within = scope.try_fixes(loss_of, steps=30, seeds=2)
        assert [f.fixes for f in from_folder(tmp_path / "run").findings] == [
            f.fixes for f in within
        ]
    assert within[0].fixes[0].trial.status == "helped"
    assert [f.fixes for f in from_folder(tmp_path / "run").findings] == [f.fixes for f in within]
    # a later call holds, also one that could try nothing
    scope.try_fixes()
    reasons = {fix.trial.reason for f in from_folder(tmp_path / "run").findings for fix in f.fixes}
    assert reasons == {"pass loss=, a function of the model and a batch"}
