"""docs/versions.md says what is true: versions that are pinned, names that are probed."""

import re
import tomllib
from pathlib import Path

from gradscope.observe.capabilities import CAPABILITIES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


def test_the_table_names_the_pinned_versions():
    told = {
        "torch": "torch | {}", "pyarrow": "pyarrow {}", "pandas": "pandas {}",
        "lightning": "pytorch-lightning | {}, both", "transformers": "transformers | {}",
        "accelerate": "accelerate | {}", "tensorboard": "tensorboard | {}", "pytest": "pytest | {}",
    }  # fmt: skip
    for name, form in told.items():
        assert form.format(PINS[name]) in TEXT, name
    assert f"{PINS['skorch']}, {PINS['pytorch-ignite']}" in TEXT
    assert PINS["lightning"] == PINS["pytorch-lightning"]


def test_no_bound_is_lower_than_what_was_run():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for many in project["optional-dependencies"].values() for one in many]
    for requirement in [*project["dependencies"], *extras]:
        found = re.fullmatch(r"([a-z0-9-]+)>=([\d.]+)", requirement)
        if found is None:
            assert requirement.startswith("gradscope-torch["), requirement
            continue
        pinned, bound = PINS[found[1]].split("."), found[2].split(".")
        assert pinned[: len(bound)] == bound, requirement


def test_the_private_names_are_those_that_are_probed():
    rows = re.findall(r"^\| `(torch\.[\w.]+)` \| (.+) \|$", TEXT, re.MULTILINE)
    assert rows == [(f"{c.holder}.{c.name}", c.without) for c in CAPABILITIES]
