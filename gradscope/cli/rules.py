"""``gradscope rules``."""

from __future__ import annotations

import click

from gradscope.rules import RULES
from gradscope.rules.registry import all_rules, by_code


@click.command()
@click.argument("code", required=False)
def rules(code: str | None) -> None:
    """List the rules, or print the page of one, by CODE or by name."""
    known = all_rules(RULES)
    if code is not None:
        print(by_code(code, known).page().rstrip())
        return
    width = max((len(rule.name) for rule in known), default=0)
    for rule in known:
        print(f"{rule.code}  {rule.name:{width}}  {rule.severity:8}  {rule.title}")
