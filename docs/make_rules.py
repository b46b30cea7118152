"""Writes docs/rules.md, the list of the rules' pages: ``python docs/make_rules.py``."""

from pathlib import Path

from gradscope.rules import RULES

HEAD = """\
# Rules

One line for each rule; its page says what it measures, its limits and their sources, and when it is
wrong. `gradscope rules CODE` prints the page. This list is made by `python docs/make_rules.py`.

| code | name | severity | since | what is wrong |
|---|---|---|---|---|
"""


def rules_index() -> str:
    """The text of docs/rules.md."""
    rows = []
    for rule in RULES:
        page = f"../{rule.__module__.replace('.', '/')}.md"
        rows.append(
            f"| [{rule.code}]({page}) | {rule.name} | {rule.severity} | {rule.since} "
            f"| {rule.title} |\n"
        )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (Path(__file__).parent / "rules.md").write_text(rules_index(), encoding="utf-8")
