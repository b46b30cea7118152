"""The identities of a trace as checks."""

from __future__ import annotations

from gradscope.anatomy.facts import Anatomy, Identity
from gradscope.report import formal
from gradscope.report.numbers import number, plural


def sentence(identity: Identity) -> str:
    """Both numbers and how far they are apart."""
    verdict = "agree" if identity.holds else "DISAGREE"
    pair = f"{number(identity.left)} and {number(identity.right)} {verdict}: they differ by"
    if identity.holds and not identity.error <= identity.limit:
        # a share of two tiny numbers would read as a contradiction
        apart = abs(identity.left - identity.right)
        return f"{pair} {number(apart)}; rounding explains up to {number(identity.rounding)}"
    return f"{pair} {number(100 * identity.error)} % (limit {number(100 * identity.limit)} %)"


def checks(anatomy: Anatomy) -> list[formal.Check]:
    """One check for each identity."""
    return [
        formal.Check(
            identity.name.split(" of ")[0].replace(" ", "-"), identity.name,
            f"{sentence(identity)}. {identity.meaning}", None if identity.holds else "error",
        )
        for identity in anatomy.identities
    ]  # fmt: skip


def verdict(anatomy: Anatomy) -> str:
    """How many identities hold."""
    held = sum(identity.holds for identity in anatomy.identities)
    whole = len(anatomy.identities)
    if held == whole:
        return f"{plural(whole, 'check')} against theory, all hold"
    return f"{plural(whole, 'check')} against theory, {whole - held} fail"
