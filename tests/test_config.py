"""Settings: which source wins, and what a wrong one says."""

from pathlib import Path

import pytest

from gradscope.config import Settings, nearest_pyproject, settings, shape
from gradscope.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    assert settings(tmp_path, {}) == Settings()
    assert Settings().steps == 200


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    written(
        tmp_path, '[tool.gradscope]\nsteps = 10\nseed = 1\nfail-on = "note"\nignore = ["GS1"]\n'
    )
    found = settings(tmp_path, {"GRADSCOPE_SEED": "2", "GRADSCOPE_BATCH_SIZE": "8"})
    assert (found.steps, found.seed, found.batch_size) == (10, 2, 8)
    assert (found.fail_on, found.ignore) == ("note", ("GS1",))
    flagged = found.with_flags(steps=3, seed=None, ignore=(), input="4,1,28,28")
    assert (flagged.steps, flagged.seed, flagged.ignore) == (3, 2, ("GS1",))
    assert flagged.input == (4, 1, 28, 28)


def test_the_nearest_pyproject_counts(tmp_path: Path) -> None:
    outer = written(tmp_path, "[tool.gradscope]\nsteps = 5\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert nearest_pyproject(inner) == outer
    assert settings(inner, {}).steps == 5
    written(tmp_path / "a", "[tool.other]\nsteps = 7\n")
    assert settings(inner, {}).steps == 200


def test_options_of_rules_are_tables(tmp_path: Path) -> None:
    written(tmp_path, "[tool.gradscope.rules.GS101]\nlimit = 1e-5\n")
    assert settings(tmp_path, {}).rules == {"GS101": {"limit": 1e-5}}


def test_an_unknown_key_names_the_nearest_one_and_its_line(tmp_path: Path) -> None:
    file = written(
        tmp_path, '[project]\nfail-no = 1\n\n[tool.gradscope]\nsteps = 3\nfail-no = "x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, {})
    assert caught.value.what == "unknown setting 'fail-no'"
    assert caught.value.where == f"{file}:6"
    assert "did you mean 'fail-on'?" in str(caught.value.hint)


def test_an_unknown_variable_is_named_as_it_is_written() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'GRADSCOPE_STEP'") as caught:
        settings(Path("/"), {"GRADSCOPE_STEP": "3"})
    assert "did you mean 'steps'?" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("line", "legal"),
    [
        ("steps = 0", "a whole number from 1"),
        ("steps = 1.5", "a whole number from 1"),
        ("steps = true", "a whole number from 1"),
        ('fail-on = "error"', "critical, warning, note, never"),
        ('color = "yes"', "auto, always, never"),
        ("select = [1]", "a list of rule codes"),
        ('input = "32,x"', "a shape such as 32,1,28,28"),
        ("input = [0, 3]", "a shape such as 32,1,28,28"),
        ("device = 1", "a torch device"),
        ("rules = {GS101 = 1}", "tables of options"),
        ("rules = 3", "tables of options"),
    ],
)
def test_a_wrong_value_says_what_is_legal(tmp_path: Path, line: str, legal: str) -> None:
    file = written(tmp_path, f"[tool.gradscope]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, {})
    assert legal in str(caught.value.hint)
    assert caught.value.where == f"{file}:2"


def test_a_wrong_flag_says_what_is_legal() -> None:
    with pytest.raises(ConfigError, match="setting 'steps' cannot be 0"):
        Settings().with_flags(steps=0)


def test_broken_toml_is_told_with_its_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[tool.gradscope\n")
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        settings(tmp_path, {})
    assert caught.value.where == str(file)


@pytest.mark.parametrize(
    ("value", "enabled"), [("0", False), ("off", False), ("1", True), ("", True)]
)
def test_gradscope_0_switches_it_off(value: str, enabled: bool) -> None:
    assert settings(Path("/"), {"GRADSCOPE": value}).enabled is enabled


@pytest.mark.parametrize("text", ["32,1,28", "32x1x28", "(32, 1, 28)", "[32,1,28]", "32 1 28"])
def test_shapes_are_read_as_people_write_them(text: str) -> None:
    assert shape(text) == (32, 1, 28)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[tool.gradscope]\nseed = \xca\n", "not valid TOML"),
        (b"x = " + b"[" * 5_000, "TOML|nested"),
        (b"[tool]\ngradscope = 3\n", r"\[tool.gradscope\] is 3"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_error(
    content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        settings(tmp_path, {})


def test_a_tool_that_is_no_table_says_nothing_of_gradscope(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"tool = 1\n")
    assert settings(tmp_path, {}) == Settings()


def test_the_switch_of_the_kernel_is_no_setting(tmp_path: Path) -> None:
    assert settings(tmp_path, {"GRADSCOPE_KERNEL": "0"}) == Settings()
