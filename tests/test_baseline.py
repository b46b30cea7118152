"""Known findings: what a baseline file holds, what it refuses, what a marked diagnosis says."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gradscope.baseline import known_in, mark
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Location
from gradscope.errors import UsageError
from gradscope.recording.reader import Recording
from gradscope.report.formats import FORMATS, render

OLD = Finding(
    "GS101", "vanishing-gradient", "critical", "strong", "The gradient vanishes.", ("encoder.0",),
    location=Location("model.py", 7),
)  # fmt: skip
NEW = Finding("GS301", "dead-units", "warning", "strong", "Units are dead.", ("head",))


def diagnosis(*findings, fail_on="warning", **more):
    return Diagnosis(Recording({}, {}), findings, fail_on=fail_on, target="model.py", **more)


def written(folder, diagnosis):
    file = folder / "known.json"
    file.write_text(render(diagnosis, "json"))
    return file


def test_the_json_of_an_earlier_run_is_a_baseline(tmp_path):
    file = written(tmp_path, diagnosis(OLD))
    assert known_in(file) == {OLD.fingerprint}
    moved = replace(OLD, location=Location("model.py", 99), summary="Other numbers.", last_step=9)
    marked = mark(diagnosis(moved), known_in(file))
    assert marked.is_known(moved)
    assert marked.exit_code == 0
    assert known_in(written(tmp_path, diagnosis())) == frozenset()


def test_only_a_new_finding_fails_and_it_stands_first(tmp_path):
    known = known_in(written(tmp_path, diagnosis(OLD)))
    assert diagnosis(OLD, NEW).exit_code == 1
    marked = mark(diagnosis(OLD, NEW), known)
    assert [finding.code for finding in marked.findings] == ["GS301", "GS101"]
    assert marked.new_findings == (NEW,)
    assert marked.exit_code == 1
    assert mark(diagnosis(OLD, NEW, fail_on="critical"), known).exit_code == 0
    elsewhere = replace(OLD, modules=("encoder.1",))
    assert mark(diagnosis(elsewhere), known).exit_code == 1, (
        "the same fault at another layer is new"
    )


def test_a_baseline_excuses_no_failure_of_the_model():
    assert mark(diagnosis(OLD, failed="ValueError"), [OLD.fingerprint]).exit_code == 3


@pytest.mark.parametrize("name", [known.name for known in FORMATS])
def test_every_format_shows_what_is_known_and_that_it_is(name):
    marked = mark(diagnosis(OLD, NEW), [OLD.fingerprint])
    text = render(marked, name)
    assert "vanishing-gradient" in text or "VanishingGradient" in text
    assert "known" in text.lower() or name == "sarif"
    assert "known" not in render(diagnosis(NEW), name).lower() or name in ("json", "html")


def test_programs_can_read_what_is_known():
    marked = mark(diagnosis(OLD, NEW), [OLD.fingerprint])
    found = json.loads(render(marked, "json"))["findings"]
    assert [(item["code"], item["known"]) for item in found] == [("GS301", False), ("GS101", True)]
    results = json.loads(render(marked, "sarif"))["runs"][0]["results"]
    assert [result["baselineState"] for result in results] == ["new", "unchanged"]
    assert "baselineState" not in render(diagnosis(NEW), "sarif"), "there was no baseline"
    suite = ElementTree.fromstring(render(marked, "junit").partition("\n")[2])
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")
    annotations = render(marked, "github").splitlines()
    assert [line.partition(" ")[0] for line in annotations] == ["::warning", "::notice"]


def test_with_nothing_new_the_verdict_says_so():
    text = render(mark(diagnosis(OLD), [OLD.fingerprint]), "full")
    assert "no new problem found (1 known)" in text
    assert "known error[GS101]" in text
    assert "1 critical, 1 of them known" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON (RecursionError)"),
        (b"9" * 10_000, "it is not JSON (ValueError)"),
        (b"[]", "no key 'findings'"),
        (b"null", "no key 'findings'"),
        (b'{"runs": []}', "no key 'findings'"),
        (b'{"findings": []}', "schema_version is None, not 1"),
        (b'{"schema_version": true, "findings": []}', "schema_version is True"),
        (b'{"schema_version": 2, "findings": []}', "schema_version is 2"),
        (b'{"schema_version": 1, "findings": {}}', "'findings' is {}, not a list"),
        (b'{"schema_version": 1, "findings": [7]}', "findings[0] has the fingerprint None"),
        (b'{"schema_version": 1, "findings": [{"fingerprint": "abc"}]}', "fingerprint 'abc'"),
        (
            b'{"schema_version": 1, "findings": [{"fingerprint": "' + b"Z" * 9999 + b'"}]}',
            "fingerprint 'ZZZ",
        ),
    ],
)
def test_what_is_no_baseline_is_one_clear_error(tmp_path, content, says):
    file = tmp_path / "known.json"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        known_in(file)
    assert "known.json" in caught.value.what
    assert says in caught.value.what
    assert len(caught.value.what) < 300 + len(str(tmp_path))
    assert "--output known.json" in caught.value.hint


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            known_in(path)
