"""The parts of the page one by one: escaping, colours, sentences, sparklines, layers, figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample import Shape, diagnosis, recording

from gradscope.report import theme
from gradscope.report.escape import anchor, plot_text, script_json, scrub
from gradscope.report.figures import all_figures
from gradscope.report.figures.blocks import ROWS, blocks
from gradscope.report.figures.figure import Rows, nice_step_ticks, power_ticks, shortened
from gradscope.report.figures.gradient_map import COLUMNS, gradient_map
from gradscope.report.view.layers import Cell, Layers, labelled, layers_of
from gradscope.report.view.numerals import distance, measured, seconds
from gradscope.report.view.prose import page, section, sentence
from gradscope.report.view.sparkline import Line, sparkline


@given(st.text())
def test_json_in_a_script_reads_back_and_cannot_end_it(text: str) -> None:
    written = script_json({"name": text})
    assert json.loads(written) == {"name": text}
    assert not set("<>&\u2028\u2029") & set(written)


def test_json_in_a_script_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json([math.nan])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("check /home/me/proj/model.py --steps 3", "check …/proj/model.py --steps 3"),
        ('File "/home/me/a/m.py", line 3', 'File "…/a/m.py", line 3'),
        ("C:\\Users\\me\\net.py:4 bad", "…/me/net.py:4 bad"),
        ("~/a/b.py", "…/a/b.py"),
        ("https://example.org/a/b, src/net.py:3", "https://example.org/a/b, src/net.py:3"),
        ("a ratio of 3/4, or loss/step", "a ratio of 3/4, or loss/step"),
        ("</script><img src=x>", "</script><img src=x>"),
    ],
)  # fmt: skip
def test_paths_are_cut_and_other_text_is_not(text: str, shown: str) -> None:
    assert scrub(text) == shown


def test_an_anchor_is_the_same_each_time_and_has_no_odd_character() -> None:
    assert anchor("GS101", "encoder.0") == "GS101:encoder.0"
    assert anchor("GS505", "") == "GS505"
    assert anchor("GS101", '"><b>') == "GS101:b"


def test_text_of_a_figure_is_neither_html_nor_tex() -> None:
    assert plot_text("<b>$x$&\n\u202e") == "&lt;b&gt;&#36;x&#36;&amp; \\u202e"


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_contrast(colours: dict[str, str]) -> None:
    for text in ("text", "muted", "link"):
        for back in ("page", "surface", "sunken"):
            assert theme.contrast(colours[text], colours[back]) >= 4.5, (text, back)
    for tone in ("critical", "warning", "note", "passed", "added", "removed"):
        for back in ("page", "surface", f"{tone}-soft"):
            assert theme.contrast(colours[tone], colours[back]) >= 4.5, (tone, back)
    for mark in ("series-1", "series-2", "series-3", "series-4", "selection", "line-strong"):
        for back in ("page", "surface"):
            assert theme.contrast(colours[mark], colours[back]) >= 3, (mark, back)
    assert theme.contrast(colours["glyph"], colours["state-non-finite"]) >= 3


def test_contrast_is_that_of_wcag() -> None:
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_both_themes_name_the_same_colours() -> None:
    assert theme.LIGHT.keys() == theme.DARK.keys()
    with pytest.raises(KeyError):
        theme.colour("mauve")


def test_cividis_rises_in_lightness() -> None:
    light = [theme.contrast(shade, "#000000") for _, shade in theme.CIVIDIS]
    assert light == sorted(light)


@pytest.mark.parametrize(
    ("value", "limit", "said"),
    [
        (6.3e-8, 1e-4, "1,600× below it"), (14.0, 10.0, "1.4× above it"), (10.0, 10.0, "at it"),
        (10.1, 10.0, "just above it"), (0.0, 1.0, "below it"), (-1.0, 1.0, "below it"),
        (math.nan, 1.0, ""), (1.0, None, ""),
    ],
)  # fmt: skip
def test_distance_from_a_limit(value: float, limit: float | None, said: str) -> None:
    assert distance(value, limit) == said


def test_numbers_have_units() -> None:
    assert measured(0.62, "decades per layer") == "0.62 decades per layer"
    assert measured(0.125, "share") == "12.5 %"
    assert measured(math.nan, "") == "NaN"
    assert measured(None, "s") == "–"
    assert [seconds(v) for v in (2.5, 0.0021, 3e-6, None)] == ["2.5 s", "2.1 ms", "3 µs", "–"]


def test_a_sentence_is_escaped_and_sets_names_as_code() -> None:
    assert sentence("put `<b>` before x") == "Put <code>&lt;b&gt;</code> before x."
    assert sentence("`layers.0` stops") == "<code>layers.0</code> stops."
    assert sentence("ends so.") == "Ends so."
    assert sentence("") == ""


def test_a_rule_page_keeps_raw_html_as_text() -> None:
    text = "# GS1\n\n## When it is wrong\n\n- <img src=x> at *once*\n\n## References\n\nnone\n"
    assert (
        section(text, "when it is wrong")
        == "<ul>\n<li>&lt;img src=x&gt; at <em>once</em></li>\n</ul>\n"
    )
    assert section(text, "Missing") == ""
    assert "<h3>GS1</h3>" in page(text)
    assert "<h4>References</h4>" in page(text)


def test_a_sparkline_leaves_gaps_open() -> None:
    x = np.arange(8.0)
    svg = sparkline(
        x, [Line("a", np.array([1, 2, np.nan, np.nan, 3, 4, 5, np.nan]), "line")], 'a "b"'
    )
    assert svg.count("<polyline") == 2
    assert 'aria-label="a &#34;b&#34;"' in svg
    assert sparkline(x, [Line("a", np.full(8, np.nan), "line")], "none") == ""
    assert "nan" not in svg


def _oracle(made: Shape) -> tuple[Layers, dict[tuple[str, int], float]]:
    """RMS of each layer and step, from the frame by plain grouping."""
    run = recording(made)
    frame = run.gradients[run.gradients["state"] == 0].copy()
    frame["layer"] = frame["parameter"].astype(str).str.rpartition(".")[0]
    sums = frame.groupby(["layer", "step"])[["sum_sq", "count"]].sum()
    return layers_of(run), (sums["sum_sq"] / sums["count"]).pow(0.5).to_dict()


def test_a_layer_merges_its_parameters() -> None:
    layers, expected = _oracle(Shape(layers=4, steps=9))
    assert layers.names == ["layers.0", "layers.2", "layers.4", "layers.6", "head"]
    for row, name in enumerate(layers.names):
        for column, step in enumerate(layers.steps):
            assert layers.rms[row, column] == pytest.approx(expected[name, int(step)])


def test_frozen_and_broken_cells_have_no_size() -> None:
    layers, _ = _oracle(Shape(layers=4, steps=9, frozen=(1,), nan_from=6))
    assert set(layers.cells[1]) == {Cell.FROZEN}
    assert set(layers.cells[0, 6:]) == {Cell.NON_FINITE}
    assert (
        layers.cells[4, 6] == Cell.FINITE
    )  # the NaN begins in the middle and spreads to the input
    assert layers.cells[4, 7] == Cell.NON_FINITE
    assert np.isnan(layers.rms[1]).all()
    assert layers.row_of("layers.2.weight") == 1
    assert layers.row_of("nowhere") is None


@pytest.mark.parametrize("steps", [COLUMNS - 1, COLUMNS, COLUMNS + 1, 5 * COLUMNS])
def test_the_map_keeps_the_largest_and_every_nan(steps: int) -> None:
    layers = layers_of(recording(Shape(layers=2, steps=steps)))
    rms, cells = layers.rms.copy(), layers.cells.copy()
    spike, broken = steps // 3, steps - 2
    rms[1, spike] = 1e6
    rms[0, broken], cells[0, broken] = np.nan, Cell.NON_FINITE
    figure = gradient_map(Layers(layers.layers, layers.steps, rms, cells), frozenset())
    assert figure.plot is not None
    columns = figure.data["columns"]
    assert len(columns) == min(steps, COLUMNS)
    assert [a for a, _ in columns[1:]] == [b + 1 for _, b in columns[:-1]]
    at = next(i for i, (a, b) in enumerate(columns) if a <= broken <= b)
    assert figure.data["cells"][0][at] == Cell.NON_FINITE
    z = next(trace.z for trace in figure.plot.data if trace.name == "gradient")
    assert z[0][at] is None
    at = next(i for i, (a, b) in enumerate(columns) if a <= spike <= b)
    excess = figure.data["excess"]
    if steps <= COLUMNS:
        assert excess is None
        assert figure.reduced == ""
        assert z[1][at] == 6.0
    else:
        assert z[1][at] + excess[1][at] == pytest.approx(6.0, abs=0.06)
        assert f"{COLUMNS} columns" in figure.reduced


def test_every_figure_reads_and_has_a_table_as_wide_as_its_headings() -> None:
    made = diagnosis(Shape(nan_from=150))
    for figure in all_figures(made, layers_of(made.recording)):
        assert figure.reading.endswith("."), figure.key
        if figure.key in ("noise", "gradcheck"):
            # nothing of the kind is in the sample, and the reading says so
            assert figure.plot is figure.table is None
            continue
        assert figure.table is not None
        assert {len(row) for row in figure.table.rows} == {len(figure.table.columns)}
        assert not any("nan" in cell for row in figure.table.rows for cell in row)


def test_labels_of_layers_never_meet() -> None:
    for count in (1, 2, 13, 54, 55, 100, 1000):
        names = [f"l{i}" for i in range(count)]
        rows = Rows(names, names, frozenset({"l0"}))
        ticks = rows.ticks()
        shown = ticks["tickvals"]
        assert shown[-1] == count - 1
        assert (np.diff(shown) * rows.height / count >= 13).all()
        assert ticks["ticktext"][0] == "▲ l0"


def test_ticks_lie_where_they_say() -> None:
    positions, labels = nice_step_ticks(np.arange(100, 700, 3))
    assert [100 + 3 * p for p in positions] == [int(label) for label in labels]
    assert 3 <= len(labels) <= 8
    assert power_ticks(-9.2, -1.1)["tickvals"] == list(range(-9, -1))
    assert power_ticks(-30.5, -1.1)["tickvals"] == list(range(-28, 0, 4))
    short = power_ticks(-0.5, 0.5)
    assert [10**v for v in short["tickvals"]] == pytest.approx([0.5, 1, 2])


@given(st.text(max_size=60), st.integers(5, 40))
def test_shortened_names_keep_both_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert len(short) <= most or short == name
    assert short[:2] == name[:2]
    assert short[-2:] == name[-2:]


def test_a_name_that_is_only_a_number_is_shown_with_its_class() -> None:
    layers = layers_of(recording(Shape(layers=3, steps=2, names=("0", "2", "block.4"))))
    assert layers.names == ["0", "2", "block.4", "head"]
    assert layers.labels == ["0 Linear", "2 Linear", "block.4", "head"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("optimizer0.param_groups.0.6", "optimizer's tensor 6"),
        ("optimizer1.param_groups.0.6", "optimizer's tensor 1.0.6"),
        ("my.optimizer0.param_groups.0.6", "my.optimizer0.param_groups.0.6"),
    ],
)
def test_a_tensor_that_only_an_optimizer_holds_is_called_by_its_place(
    name: str, shown: str
) -> None:
    assert labelled(name, "parameter") == shown


def test_blocks_follow_the_paths_and_cover_every_layer_once() -> None:
    names = ["embed", *(f"enc.{i // 6}.{'qkvoab'[i % 6]}" for i in range(72)), "head"]
    found = blocks(names)
    assert found is not None
    assert found[:2] == [("embed", 0, 1), ("enc.0", 1, 7)]
    assert found[-1] == ("head", 73, 74)
    assert blocks(names[:60]) is None


@pytest.mark.parametrize("count", [61, 100, 1000, 1001])
def test_layers_without_a_path_are_cut_into_blocks_of_neighbours(count: int) -> None:
    names = [f"l{i}" for i in range(count)]
    found = blocks(names)
    assert found is not None
    assert len(found) <= ROWS
    assert [i for _, first, end in found for i in range(first, end)] == list(range(count))
    assert found[0][0].startswith("l0 … l")
    assert len({name for name, _, _ in found}) == len(found)


def test_a_path_that_comes_back_gets_a_name_of_its_own() -> None:
    names = [f"{'ab'[i // 7 % 2]}{i // 14}.x{i}" for i in range(140)] + ["a0.y", "a0.z"]
    found = blocks(names)
    assert found is not None
    assert [name for name, first, _ in found if first in (0, 140)] == [
        "a0.x0 … a0.x6",
        "a0.y … a0.z",
    ]
