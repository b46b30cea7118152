"""Small files as a user would write them."""

import textwrap
from pathlib import Path

import pytest

from gradscope.running.importing import surroundings
from gradscope.running.loading import Workload, load


class Desk:
    """A folder of the user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "model.py") -> Path:
        file = self.folder / name
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def load(self, text: str, name: str | None = None, **options) -> Workload:
        """Load the text as model.py, or the object ``name`` in it."""
        file = self.write("import torch\nfrom torch import nn\n" + textwrap.dedent(text))
        with surroundings(file):
            return load(f"{file}:{name}" if name else str(file), **options)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)
