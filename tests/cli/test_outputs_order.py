"""Each --format belongs to the --output after it."""

import click
import pytest
from click.testing import CliRunner

from gradscope.cli.outputs import InOrder, output_options, outputs
from gradscope.errors import UsageError

seen = []


@click.command(cls=InOrder)
@output_options
@click.pass_context
def command(ctx, report, format, output, quiet, color):
    seen.append([(o.format, o.path and str(o.path)) for o in outputs(ctx, report, format, output)])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("--output a.json", [("json", "a.json")]),
        ("-o a.xml -o b.md", [("junit", "a.xml"), ("markdown", "b.md")]),
        ("--format sarif --output a.json", [("sarif", "a.json")]),
        ("--output a.json --format sarif", [("json", "a.json"), ("sarif", None)]),
        (
            "--format concise --output a --format=github --output=b -o c.html",
            [("concise", "a"), ("github", "b"), ("html", "c.html")],
        ),
        ("--format json", [("json", None)]),
        ("--report r.html --format json", [("html", "r.html"), ("json", None)]),
        ("--format json --format github -o x", [("github", "x"), ("json", None)]),
    ],
)
def test_formats_and_files_are_paired(line, expected):
    seen.clear()
    result = CliRunner().invoke(command, line.split(), catch_exceptions=False)
    assert result.exit_code == 0
    assert seen == [expected]


@pytest.mark.parametrize("line", ["-o a.pdf", "-o plain", "-o ."])
def test_a_file_without_a_known_format_is_refused(line):
    result = CliRunner().invoke(command, line.split())
    assert isinstance(result.exception, UsageError)


def test_an_unknown_format_is_refused():
    assert CliRunner().invoke(command, ["--format", "pdf"]).exit_code == 2
