"""Being told of an import: at its end, once, and without a trace in what was imported."""

import importlib
import sys

import pytest

from gradscope.running.arrival import Arrival


@pytest.fixture
def library(tmp_path, monkeypatch):
    package = tmp_path / "a_library_of_ours"
    package.mkdir()
    (package / "__init__.py").write_text("from . import part\nready = True\n")
    (package / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield package.name
    for name in [n for n in sys.modules if n.startswith(package.name)]:
        del sys.modules[name]


def test_it_is_told_when_the_library_is_whole(library):
    seen = []
    arrival = Arrival(library, lambda: seen.append(sys.modules[library].ready))
    before = list(sys.meta_path)
    arrival.begin()
    import json  # another library tells nothing

    assert json
    assert seen == []
    module = importlib.import_module(library)
    assert seen == [True]
    assert sys.meta_path == before
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__
    importlib.reload(module)
    assert seen == [True]


def test_a_library_that_is_there_has_arrived(library):
    importlib.import_module(library)
    seen = []
    Arrival(library, lambda: seen.append(1)).begin()
    assert seen == [1]


def test_one_that_never_comes_leaves_nothing():
    arrival = Arrival("a_library_that_is_nowhere", lambda: pytest.fail("it came"))
    before = list(sys.meta_path)
    arrival.begin()
    with pytest.raises(ImportError):
        importlib.import_module("a_library_that_is_nowhere")
    arrival.end()
    assert sys.meta_path == before
