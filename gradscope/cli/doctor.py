"""``gradscope doctor``."""

from __future__ import annotations

import itertools
from operator import attrgetter

import click

_SIGNS = {"ok": "ok", "absent": "-", "degraded": "less", "bad": "BAD"}


@click.command()
def doctor() -> int:
    """Say what gradscope finds here: versions, what is missing, whether runs can be recorded.

    Exit code 2 where something must be mended before gradscope can work, else 0.
    """
    # torch takes seconds to import: the help does not wait for it
    from gradscope.session.doctor import examine

    checks = examine()
    for area, group in itertools.groupby(checks, key=attrgetter("area")):
        print(area)
        for check in group:
            print(f"  {_SIGNS[check.state]:<4} {check.name}: {check.value}")
            if check.do:
                print(f"       try: {check.do}")
    bad = [check.name for check in checks if check.state == "bad"]
    less = sum(check.state == "degraded" for check in checks)
    if bad:
        print(f"\nto be mended: {', '.join(bad)}")
    else:
        print(f"\ngradscope works here{f', with less ({less} above)' if less else ''}")
    return 2 if bad else 0
