"""What the page says in words about its pictures and lines: one quantity, one name for a thing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample import FILE, Shape, diagnosis, findings, recording
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.cli import main
from gradscope.diagnose.finding import Evidence, Location
from gradscope.report.figures import all_figures
from gradscope.report.figures.depth import depth_figures
from gradscope.report.figures.gradient_map import gradient_map
from gradscope.report.figures.units import units_figure
from gradscope.report.html import render
from gradscope.report.run_facts import run_facts
from gradscope.report.view import facts, prose
from gradscope.report.view.cards import cards, do_first
from gradscope.report.view.layers import layers_of
from gradscope.report.view.numerals import away, crossed, distance, measured
from gradscope.report.view.trend import trend

BUILT = 15
"""The line that the sample's recording has for its first layer."""


def card(**changes: object):  # type: ignore[no-untyped-def]
    made = diagnosis()
    finding = replace(findings()[0], **changes)  # type: ignore[arg-type]
    made = replace(made, findings=(finding,))
    return cards(made, layers_of(made.recording), {})[0]


# ---------------------------------------------------------------------- one quantity


def test_a_finding_about_depth_shows_what_arrives_at_the_layers_outputs() -> None:
    run = recording()
    found = trend(findings()[0], run, layers_of(run))
    assert found is not None
    assert found.caption.startswith("Gradient norm at the output of layers.0: ")
    assert found.other.startswith("at the output of head: ")
    # the same numbers as in the figure by depth
    depth, _ = depth_figures(run, frozenset())
    assert depth.table is not None
    last = {row[0]: row[2] for row in depth.table.rows}
    ends = re.findall(r"[\d.e-]+(?= at last)", f"{found.caption} {found.other}")
    assert float(ends[0]) == pytest.approx(float(last["layers.0"]), rel=0.5)
    assert float(ends[1]) == pytest.approx(float(last["head"]), rel=0.5)


@pytest.mark.parametrize(
    ("code", "kind"), [("GS404", ""), ("GS102", "learning-rate"), ("GS101", "through-time")]
)
def test_other_findings_show_the_gradient_of_the_weights(code: str, kind: str) -> None:
    run = recording()
    found = trend(replace(findings()[0], code=code, kind=kind), run, layers_of(run))
    assert found is not None
    assert found.caption.startswith("RMS of the weights' gradient in layers.0: ")


def test_the_map_says_that_it_shows_the_weights() -> None:
    figure = gradient_map(layers_of(recording(Shape(layers=3, steps=20))), frozenset())
    assert "the weights' gradient is smallest in layers.0" in figure.reading
    assert figure.scale is not None
    assert figure.scale.title == "RMS of the weights' gradient"


def test_beside_a_finding_about_depth_the_map_points_to_the_next_figure() -> None:
    made = diagnosis()
    pointer = "GS101 is about what arrives at each layer's output: that is the next figure."
    assert all_figures(made, layers_of(made.recording))[0].reading.endswith(pointer)
    made = replace(made, findings=made.findings[1:])
    assert "next figure" not in all_figures(made, layers_of(made.recording))[0].reading


def test_decades_are_said_as_the_factor_of_the_headline() -> None:
    assert measured(8.42, "decades") == "2.6e8x"
    assert measured(-0.2, "decades") == "-0.2 decades"
    assert measured(400.0, "decades") == "400 decades"
    assert measured(0.879, "x") == "0.879x"
    assert distance(8.42, 1.8, "decades") == "4.2e6× above it"
    assert distance(1.5, 1.8, "decades") == "2× below it"
    assert away(8.42, 1.8, "decades") == "6.6 orders of magnitude above"
    row = card(evidence=(Evidence("lost", 3.0, "decades", 2.0),)).evidence[0]
    assert (row.value, row.limit, row.distance) == (
        "1,000×", "100×", "10× above it",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grows 19.4x, limit 1,000x", "grows 19.4×, limit 1,000×"),
        ("2.6e8x and 1e-3x", "2.6e8× and 1e-3×"),
        ("conv3x, layer.2x, a 3x3 kernel, 0x1f", "conv3x, layer.2x, a 3x3 kernel, 0x1f"),
    ],
)
def test_a_factor_gets_its_sign_and_a_name_stays(text: str, shown: str) -> None:
    assert crossed(text) == shown


# ---------------------------------------------------------------------- how much arrives


def reading(shape: Shape) -> str:
    return depth_figures(recording(shape), frozenset())[0].reading


def test_the_reading_tells_the_two_ends_that_are_drawn() -> None:
    depth, _ = depth_figures(recording(Shape(layers=4, steps=40, decades=0.3)), frozenset())
    assert depth.table is not None
    norms = {row[0]: float(row[2].replace(",", "")) for row in depth.table.rows}
    said = re.match(r"The gradient is ([\d.]+)× smaller at layers.0 than at head", depth.reading)
    assert said is not None
    assert float(said[1]) == pytest.approx(norms["head"] / norms["layers.0"], rel=0.03)
    assert depth.reading.endswith("; less than 100× is usual.")


def test_a_gradient_that_vanishes_is_not_called_usual() -> None:
    text = reading(Shape(layers=12, steps=40))
    assert "smaller at layers.0 than at head: " in text
    assert "per weight layer" in text
    assert "usual" not in text


def test_a_gradient_that_grows_and_one_that_keeps_its_size() -> None:
    assert re.search(r"is [\d,.]+× larger at", reading(Shape(layers=6, steps=40, decades=-0.4)))
    assert "about as large at layers.0 as at head" in reading(Shape(3, 40, decades=0.0))


def test_what_grows_is_told_beside_what_shrinks() -> None:
    run = recording(Shape(layers=4, steps=40, decades=0.4))
    _, gain = depth_figures(run, frozenset())
    assert re.search(r"the gradient shrinks .+× in activations, .+× in weights\.", gain.reading)
    run = recording(Shape(layers=4, steps=40, decades=-0.4))
    _, gain = depth_figures(run, frozenset())
    assert re.search(r"the gradient grows .+× in activations, .+× in weights\.", gain.reading)


# ---------------------------------------------------------------------- real layers


class Dead(nn.Module):
    """``second`` is dead behind a function, ``third`` lives behind a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 12)
        self.third, self.act, self.last = nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
        nn.init.constant_(self.second.bias, -50.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x))))
        return self.last(self.act(self.third(x)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> gradscope.Recording:
    torch.manual_seed(0)
    model = Dead()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    folder = tmp_path_factory.mktemp("dead") / "run"
    with gradscope.watch(model, optimizer=optimizer, run_dir=folder, every=1,
                         activations_every=1):  # fmt: skip
        for _ in range(25):
            optimizer.zero_grad()
            scores = model(torch.randn(64, 8))
            functional.cross_entropy(scores, torch.randint(3, (64,))).backward()
            optimizer.step()
    return gradscope.load_run(folder)


def test_units_are_named_after_the_layer_whose_they_are(dead: gradscope.Recording) -> None:
    figure = units_figure(dead, frozenset())
    assert figure.table is not None
    rows = {row[:2]: row[2:4] for row in figure.table.rows}
    assert rows["first", "relu, a function"] == ("16", "0")
    assert rows["second", "relu, a function"] == ("12", "12")
    assert ("third", "act") in rows
    assert "most in second behind its relu, where 100 % of the units" in figure.reading
    assert "second → relu" in figure.data["labels"]
    # a click on the bar chooses the layer, which every other figure knows
    assert set(figure.data["layers"]) <= set(layers_of(dead).names)


def test_a_bar_is_marked_where_the_finding_names_its_activation(dead: gradscope.Recording) -> None:
    figure = units_figure(dead, frozenset({"act"}))
    assert figure.plot is not None
    ticks = figure.plot.layout.yaxis.ticktext
    assert [text for text in ticks if text.startswith("▲")] == ["▲ third → ReLU"]


def test_zero_is_called_zero(dead: gradscope.Recording) -> None:
    depth, _ = depth_figures(dead, frozenset())
    assert "No gradient reaches first, second." in depth.reading
    assert "not recorded" not in depth.reading
    assert depth.plot is not None
    assert {text for trace in depth.plot.data for text in np.atleast_1d(trace.text) if text} >= {
        "exactly zero"
    }


# ---------------------------------------------------------------------- lines


def test_a_line_says_what_stands_there() -> None:
    assert card(location=Location(FILE, 9)).place_word == "at"
    built = card(location=Location(FILE, BUILT))
    assert (built.place_word, built.place) == ("built at", f"{FILE}:{BUILT}")
    made = replace(findings()[0], location=Location(FILE, BUILT))
    html = render(replace(diagnosis(), findings=(made,)))
    assert f'built at <span class="mono">{FILE}:{BUILT}</span>' in html
    assert f'<p class="edit">Edit <span class="mono">{FILE}:16</span></p>' in html


def test_every_stretch_that_changes_is_named_by_its_line() -> None:
    diff = (
        "--- a/m.py\n+++ b/m.py\n@@ -19,8 +19,10 @@\n a\n b\n+new\n c\n d\n-old\n+other\n e\n"
        "@@ -40,2 +42,3 @@\n x\n+more\n y\n"
    )
    fix = replace(findings()[0].fixes[0], diff=diff)
    view = card(fixes=(fix,))
    assert view.fixes[0].place == "m.py:21, 23, 41"
    first = do_first([view])
    assert first is not None
    assert (first.word, first.place) == ("Edit", "m.py:21, 23, 41")


def test_without_a_diff_the_line_is_that_of_the_layer_and_said_so() -> None:
    fix = replace(findings()[0].fixes[0], diff=None, snippet="x = 1")
    placeholders = card(fixes=(replace(fix, applicability="placeholders"),)).fixes[0]
    assert placeholders.meaning.startswith("no line could be changed for you")
    first = do_first([card(fixes=(fix,), location=Location(FILE, BUILT))])
    assert first is not None
    assert (first.word, first.place) == ("layers.0 is built at", f"{FILE}:{BUILT}")
    first = do_first([card(fixes=(fix,), location=Location(FILE, 9))])
    assert first is not None
    assert (first.word, first.place) == ("See", f"{FILE}:9")


# ---------------------------------------------------------------------- the cost


def test_the_banner_about_the_cost_adds_up(tmp_path: Path) -> None:
    run = recording(Shape(layers=2, steps=100, every=5))
    run.steps["own_seconds"] = 0.001
    run.steps.loc[run.steps["step"] % 5 == 0, "own_seconds"] = 0.006
    run.steps["step_seconds"] = 0.005
    made = replace(diagnosis(), recording=run, command="watch")
    (banner,) = [b for b in facts.banners(made, run_facts(run)) if "slowed" in b.title]
    text = " ".join(sentence.striptags() for sentence in banner.sentences)
    assert "40 % of the time of its steps, 200 ms of 500 ms, went to gradscope." in text
    assert "following it costs 1 ms, and 6 ms on the 20 steps whose gradients" in text
    assert "it weighs on steps as short as these" in text


# ---------------------------------------------------------------------- the rule's page


def test_the_page_of_a_rule_is_the_one_that_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``gradscope rules CODE`` and the report show one file."""
    assert main(["rules", "GS101"]) == 0
    printed = capsys.readouterr().out
    assert "## Why it hurts" in printed
    assert str(prose.page(printed)).strip() in render(diagnosis())
