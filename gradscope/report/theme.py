"""The colours of the page in light and dark, in one table that style sheet and figures share.

Figures name a colour as ``var(--series-1)``; the page's script puts in the value of the theme in
force when it draws. Categories are from Okabe and Ito (2008), darkened in the light theme where
the original falls below 3:1 on white. The sequential scale is Cividis (Nunez, Anderton and Renslow,
2018), which rises evenly in lightness and reads the same with a colour-vision deficiency.
"""

from __future__ import annotations

Theme = dict[str, str]

LIGHT: Theme = {
    "page": "#f7f8f9",
    "surface": "#ffffff",
    "sunken": "#f0f2f4",
    "line": "#dde1e6",
    "line-strong": "#7d8792",
    "text": "#1a1f24",
    "muted": "#56606b",
    "link": "#0a5aa8",
    "focus": "#0a5aa8",
    "critical": "#a8201a",
    "critical-soft": "#fcebe9",
    "warning": "#7d4a00",
    "warning-soft": "#fdf1dc",
    "note": "#0b5580",
    "note-soft": "#e6f1f8",
    "passed": "#1b6239",
    "passed-soft": "#e6f4ea",
    "added": "#12582f",
    "added-soft": "#e3f5e9",
    "removed": "#8f1d18",
    "removed-soft": "#fdebea",
    "grid": "#e4e7eb",
    "series-1": "#0072b2",
    "series-2": "#c25400",
    "series-3": "#00795a",
    "series-4": "#9c4f7c",
    "series-quiet": "#7d8792",
    "selection": "#c2185b",
    "not-recorded": "#e3e6ea",
    "state-zero": "#8c9199",
    "state-none": "#b9a5c9",
    "state-frozen": "#a9c6d6",
    "state-non-finite": "#d55e00",
    "glyph": "#101418",
}
DARK: Theme = {
    "page": "#111417",
    "surface": "#191d21",
    "sunken": "#22272d",
    "line": "#30373f",
    "line-strong": "#7f8a96",
    "text": "#e8ebee",
    "muted": "#a3adb8",
    "link": "#7cb9ff",
    "focus": "#7cb9ff",
    "critical": "#ff9d92",
    "critical-soft": "#3b1f1d",
    "warning": "#f4bd5b",
    "warning-soft": "#36290f",
    "note": "#84caf2",
    "note-soft": "#14303f",
    "passed": "#82d3a0",
    "passed-soft": "#163324",
    "added": "#8fdcab",
    "added-soft": "#15301f",
    "removed": "#ffa79e",
    "removed-soft": "#3a1f1d",
    "grid": "#2c3239",
    "series-1": "#56b4e9",
    "series-2": "#e69f00",
    "series-3": "#2fb892",
    "series-4": "#d893b9",
    "series-quiet": "#8a949f",
    "selection": "#ff6fa3",
    "not-recorded": "#2b3138",
    "state-zero": "#6f757d",
    "state-none": "#7c6690",
    "state-frozen": "#4d7186",
    "state-non-finite": "#d55e00",
    "glyph": "#ffffff",
}

CIVIDIS: tuple[tuple[float, str], ...] = (
    (0.0, "#00224e"),
    (0.125, "#123570"),
    (0.25, "#3b496c"),
    (0.375, "#575d6d"),
    (0.5, "#707173"),
    (0.625, "#8a8678"),
    (0.75, "#a59c74"),
    (0.875, "#c3b369"),
    (1.0, "#fee838"),
)


def colour(name: str) -> str:
    """The reference by which a figure or a style names the colour ``name``.

    Raises:
        KeyError: there is no such colour.
    """
    if name not in LIGHT:
        raise KeyError(name)
    return f"var(--{name})"


def style_sheet() -> str:
    """Custom properties of both themes: the system's choice, overridden by ``data-theme``."""
    ramp = ",".join(f"{shade} {100 * at:g}%" for at, shade in CIVIDIS)
    light, dark = f"--ramp:{ramp};" + _properties(LIGHT), _properties(DARK)
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=light]{{color-scheme:light;{light}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        # paper is white whatever the screen shows
        f"@media print{{:root,:root[data-theme]{{color-scheme:light;{light}}}}}\n"
    )


def contrast(foreground: str, background: str) -> float:
    """Contrast ratio of two ``#rrggbb`` colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    brighter, darker = sorted((_luminance(foreground), _luminance(background)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(value: str) -> float:
    channels = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _properties(theme: Theme) -> str:
    return "".join(f"--{name}:{value};" for name, value in theme.items())
