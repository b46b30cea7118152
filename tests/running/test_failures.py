"""Failures of the user's code: the message, the line, and whose frames are shown."""

import pytest

from gradscope.errors import LoadError, StepError
from gradscope.running.failures import user_code
from gradscope.running.importing import import_file, surroundings


def failure(file):
    with surroundings(file), pytest.raises(LoadError) as caught:
        import_file(file)
    return caught.value


def test_the_users_line_and_frames_are_shown_and_torchs_are_folded(desk):
    error = failure(
        desk.write(
            """
            import torch
            def forward(x):
                return torch.nn.Linear(3, 2)(x)
            forward(torch.ones(1, 4))
            """
        )
    )
    assert error.what.startswith("importing model.py failed: RuntimeError: mat1 and mat2 shapes")
    assert error.where == "model.py:4"
    text = error.user_traceback
    assert "return torch.nn.Linear(3, 2)(x)" in text
    assert "frames of torch" in text
    assert "site-packages/torch" not in text
    assert "gradscope/running" not in text
    assert text.splitlines()[-1].startswith("RuntimeError: mat1 and mat2")


def test_a_syntax_error_has_the_line_and_no_frames(desk):
    error = failure(desk.write("x = 1\ny = (\nz = 2\n"))
    assert "SyntaxError" in error.what
    assert error.where == "model.py:2"
    assert "importlib" not in error.user_traceback
    assert "y = (" in error.user_traceback


def test_the_cause_of_an_exception_stands_before_it(desk):
    error = failure(
        desk.write(
            """
            try:
                {}["first"]
            except KeyError as cause:
                raise ValueError("second") from cause
            """
        )
    )
    text = error.user_traceback
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("second")


def test_a_missing_package_says_what_to_install(desk):
    error = failure(desk.write("import no_such_package\n"))
    assert "install 'no_such_package'" in error.hint


def test_sys_exit_is_told_and_does_not_end_the_process(desk):
    error = failure(desk.write("import sys\nsys.exit(4)\n"))
    assert error.what == "importing model.py called sys.exit(4)"
    assert error.where == "model.py:2"


def test_own_errors_and_interruptions_pass():
    with pytest.raises(StepError, match="mine"), user_code(LoadError, "x"):
        raise StepError("mine")
    with pytest.raises(KeyboardInterrupt), user_code(LoadError, "x"):
        raise KeyboardInterrupt
