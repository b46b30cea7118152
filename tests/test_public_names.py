"""What a user may import from gradscope."""

import ast
import re
from pathlib import Path

import pytest

import gradscope
from gradscope import errors

PUBLIC = [
    "Finding", "Fix", "GradcheckResult", "GradscopeError", "Recording", "Scope", "assert_backward",
    "assert_trainable", "check", "gradcheck", "load_run", "trace", "watch",
]  # fmt: skip


def test_the_public_names_are_these_and_sorted() -> None:
    assert gradscope.__all__ == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(gradscope, name) is not None
    assert name in dir(gradscope)


def test_type_checkers_see_the_same_names() -> None:
    module = ast.parse(Path(gradscope.__file__).read_text(encoding="utf-8"))
    block = next(n for n in module.body if isinstance(n, ast.If))
    seen = [a.asname for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(str(name) for name in seen) == PUBLIC
    assert sorted(gradscope._HOME) == PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = gradscope.chekc  # type: ignore[attr-defined]


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradscope.__version__)


ERRORS = sorted({e for e in vars(errors).values() if isinstance(e, type)}, key=str)


@pytest.mark.parametrize("error", ERRORS)
def test_errors_show_themselves_under_the_public_name(error: type) -> None:
    assert issubclass(error, errors.GradscopeError)
    assert error.__module__ == "gradscope"
