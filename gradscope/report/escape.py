"""Makes text from the user's code harmless and free of private paths before it enters the page.

Layer names, file names and messages are input: a layer may be called ``</script><img onerror=…>``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gradscope.report.clean import one_line

_ABSOLUTE = re.compile(
    r"""(?<![\w.:/\\…~-])            # not inside a relative path, a word or a URL
        (?:[A-Za-z]:[\\/]|~/|/)      # a drive, the home folder or the root
        [^\s"'`<>|:;,()\[\]{}]+      # up to what ends a path in a sentence
    """,
    re.VERBOSE,
)
_UNSAFE_IN_ANCHOR = re.compile(r"[^A-Za-z0-9_.:-]+")


def script_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>`` element.

    ``<``, ``>`` and ``&`` are written as escapes, so that neither ``</script>`` nor ``<!--`` can
    occur; so are U+2028 and U+2029, which older script parsers take for line ends.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot write.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def scrub(text: str) -> str:
    """``text`` with absolute paths made relative to the working directory or cut to two parts."""
    return _ABSOLUTE.sub(lambda found: _shortened(found.group()), text)


def scrub_all(value: Any) -> Any:
    """A JSON value with ``scrub`` applied to every string that is a value, not a key."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {key: scrub_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub_all(item) for item in value]
    return value


def anchor(*parts: str) -> str:
    """An ``id`` made from ``parts``, the same in every report of the same finding or layer."""
    return ":".join(_UNSAFE_IN_ANCHOR.sub("-", part).strip("-") for part in parts if part)


def plot_text(text: str) -> str:
    """Text for a figure: plotly reads some HTML and TeX in it, and a name must not be either."""
    shown = one_line(text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        shown = shown.replace(character, entity)
    return shown


def _shortened(path: str) -> str:
    bare = path.rstrip(".")
    parts = [part for part in re.split(r"[\\/]+", bare) if part]
    if len(parts) < 2 and not bare.startswith("~"):
        return path  # "/" alone or "/second" reads as a division, not as a place
    try:
        short = Path(bare).relative_to(Path.cwd()).as_posix()
    except ValueError:
        short = "…/" + "/".join(parts[-2:] if len(parts) > 2 else parts[-1:])
    return short + path[len(bare) :]
