"""A diagnosis as JSON: the contract for other programs.

The schema stands in ``schema/gradscope-1.schema.json``. Within ``schema_version`` 1 keys are only
ever added, so a reader ignores keys that it does not know. JSON has no NaN and no infinity: such a
number is ``null``, and in evidence a ``text`` beside it says which it was.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

import gradscope
from gradscope.anatomy.facts import Anatomy
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Evidence, Finding, Fix, Location, Mended, Origin, Trial
from gradscope.diagnose.rule import Rule
from gradscope.report import trace_json
from gradscope.report.run_facts import RunFacts, run_facts

SCHEMA_VERSION = 1


def render(diagnosis: Diagnosis) -> str:
    """The document as text: ASCII, indented by two, ended by a line break."""
    return json.dumps(document(diagnosis), indent=2, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of ``document``'s result."""
    file = (
        resources.files("gradscope.report") / "schema" / f"gradscope-{SCHEMA_VERSION}.schema.json"
    )
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The document as plain dicts, lists, strings, finite numbers, booleans and None."""
    facts = run_facts(diagnosis.recording)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "gradscope", "version": gradscope.__version__},
        "command": diagnosis.command,
        "target": diagnosis.target,
        "exit_code": diagnosis.exit_code,
        "run": _run(facts),
        "overhead": {
            "fraction": _finite(facts.fraction),
            "seconds_per_step": _finite(facts.seconds_per_step),
        },
        "assumptions": list(diagnosis.recording.assumptions),
        "limits": list(diagnosis.recording.limits),
        "errors": list(diagnosis.errors),
        "failed": diagnosis.failed,
        "reproduce": diagnosis.reproduce,
        "findings": [
            {**_finding(finding), "known": diagnosis.is_known(finding)}
            for finding in diagnosis.findings
        ],
        "mended": _mended(diagnosis.mended),
        "passed": [
            {**_rule(rule), "margin": _finite(passed.margin), "measured": passed.measured}
            for rule, passed in diagnosis.passed
        ],
        "not_applicable": [
            {**_rule(rule), "reason": outcome.reason} for rule, outcome in diagnosis.not_applicable
        ],
        "undecided": [
            {**_rule(rule), "missing": outcome.missing} for rule, outcome in diagnosis.undecided
        ],
        **_explained(diagnosis),
    }


def _explained(diagnosis: Diagnosis) -> dict[str, Any]:
    if not isinstance(diagnosis.explained, Anatomy):
        return {}
    return {"trace": trace_json.document(diagnosis.explained)["trace"]}


def _run(facts: RunFacts) -> dict[str, Any]:
    return {
        "steps_seen": facts.steps_seen,
        "steps_sampled": facts.steps_sampled,
        "parameters": facts.parameters,
        "modules": facts.modules,
        "device": facts.device,
        "dtype": facts.dtype,
        "optimizers": [
            {"type": item["type"], "lr": [_finite(lr) for lr in item["lr"]]}
            for item in facts.optimizers
        ],
        "loss_first": _finite(facts.loss_first),
        "loss_last": _finite(facts.loss_last),
        "interrupted": facts.interrupted,
    }


def _rule(rule: type[Rule]) -> dict[str, str]:
    return {"code": rule.code, "name": rule.name}


def _finding(finding: Finding) -> dict[str, Any]:
    item: dict[str, Any] = {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "summary": finding.summary,
        "modules": list(finding.modules),
        "parameters": list(finding.parameters),
        "also": list(finding.also),
        "location": _location(finding.location),
        "first_step": int(finding.first_step),
        "last_step": int(finding.last_step),
        "evidence": [_evidence(evidence) for evidence in finding.evidence],
        "why": finding.why,
        "causes": list(finding.causes),
        "fingerprint": finding.fingerprint,
        "fixes": [_fix(fix) for fix in finding.fixes],
    }
    if finding.code == "GS201":
        item["origin"] = _origin(finding.origin)
    if finding.code == "GS601":
        item["kind"] = finding.kind
    return item


def _evidence(evidence: Evidence) -> dict[str, Any]:
    item: dict[str, Any] = {
        "name": evidence.name,
        "value": _finite(evidence.value),
        "unit": evidence.unit,
        "limit": _finite(evidence.limit),
    }
    if not math.isfinite(evidence.value):
        item["text"] = _text(evidence.value)
    return item


def _origin(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    return {
        "operation": origin.operation,
        "phase": origin.phase,
        "module": origin.module,
        "location": _location(origin.location),
        "samples": [int(sample) for sample in origin.samples],
        "reason": origin.reason,
        "rank": origin.rank,
        "operands": [
            {
                "role": operand.role,
                "shape": [int(size) for size in operand.shape],
                "dtype": operand.dtype,
                "min": _finite(operand.low),
                "max": _finite(operand.high),
                "nan": int(operand.nans),
                "inf": int(operand.infs),
                "at": operand.at,
            }
            for operand in origin.operands
        ],
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "name": fix.name,
        "title": fix.title,
        "reason": fix.reason,
        "diff": fix.diff,
        "applicability": fix.applicability,
        "snippet": fix.snippet,
        "cost": fix.cost,
        "trial": _trial(fix.trial),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "status": trial.status,
        "reason": trial.reason,
        "seeds": int(trial.seeds),
        "steps": int(trial.steps),
        "loss_control": [_finite(loss) for loss in trial.loss_control],
        "loss_treated": [_finite(loss) for loss in trial.loss_treated],
        "measure": trial.measure,
        "curves_control": [[_finite(v) for v in row] for row in trial.curves_control],
        "curves_treated": [[_finite(v) for v in row] for row in trial.curves_treated],
        "reach": [
            {
                "module": layer.module,
                "control": _finite(layer.control),
                "treated": _finite(layer.treated),
            }
            for layer in trial.reach
        ],
    }


def _mended(mended: Mended | None) -> dict[str, Any] | None:
    if mended is None:
        return None
    return {
        "fixes": [{"code": code, "title": title} for code, title in mended.fixes],
        "trial": _trial(mended.trial),
    }


def _location(location: Location | None) -> dict[str, Any] | None:
    if location is None:
        return None
    return {"file": location.file, "line": int(location.line)}


def _finite(value: float | None) -> float | None:
    # float(): a rule may hand over a numpy number, which json cannot write
    return float(value) if value is not None and math.isfinite(value) else None


def _text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
