"""Text that users made (layer names, paths, messages), made harmless to show.

A layer's name may hold anything that Python allows in a string: terminal escapes, line breaks,
marks that turn the direction of writing, halves of surrogate pairs.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls: terminal escapes, and illegal in XML
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks can hide what a line says
    "\u2028\u2029"  # line ends for some readers and not for others
    "\ud800-\udfff\ufffe\uffff]"  # cannot be written as UTF-8, or illegal in XML
)


def one_line(text: str) -> str:
    """``text`` on one line: white space becomes one space, what cannot be shown its escape."""
    return _UNSAFE.sub(_escape, " ".join(text.split()))


def lines(text: str) -> list[str]:
    r"""The lines of ``text``, ended by ``\n`` or ``\r\n``; tabs widened, the rest as one_line()."""
    plain = text.replace("\r\n", "\n").split("\n")
    return [_UNSAFE.sub(_escape, line.expandtabs(4)) for line in plain]


def encodable(text: str, encoding: str) -> str:
    """``text`` as ``encoding`` can write it: known glyphs become ASCII, others escapes."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_replaced(character, encoding) for character in text)
    return text


_ASCII = {
    "\u2026": "...", "\u2192": "->", "\u2190": "<-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u00d7": "x", "\u00b7": "*", "\u2265": ">=", "\u2264": "<=", "\u2260": "!=", "\u2248": "~",
    "\u221e": "inf", "\u221a": "sqrt", "\u00b1": "+-", "\u2016": "||", "\u00a0": " ",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
}  # fmt: skip


def _replaced(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()
    return character


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("ascii", "backslashreplace").decode() if ord(match[0]) > 0x7F else (
        f"\\x{ord(match[0]):02x}"
    )  # fmt: skip
