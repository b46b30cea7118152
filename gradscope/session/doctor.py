"""What gradscope has here to work with: versions, probes, folders, settings."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import gradscope
from gradscope import config
from gradscope.errors import ConfigError

State = Literal["ok", "absent", "degraded", "bad"]
"""ok; absent: an optional part is not installed; degraded: works with less; bad: must be mended."""

_NEEDED = (
    "torch", "numpy", "pandas", "plotly", "click", "jinja2", "markupsafe", "markdown-it-py", "rich",
)  # fmt: skip
_OPTIONAL = {
    "lightning": "lightning",
    "pytorch-lightning": "lightning",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "skorch": "",
    "pytorch-ignite": "",
    "pyarrow": "parquet",
    "tensorboard": "",
    "scikit-learn": "examples",
    "mlxtend": "examples",
}
"""Optional distributions, each with the extra that installs it ("" for none)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        area: what it belongs to, e.g. ``needed``.
        name: what was looked at.
        state: see ``State``.
        value: what was found, in words.
        do: what to do, or "".
    """

    area: str
    name: str
    state: State
    value: str
    do: str = ""


def examine(folder: Path | None = None) -> tuple[Check, ...]:
    """Look at everything; raises nothing.

    Args:
        folder: the working directory, where runs are recorded; by default that of the process.
    """
    folder = folder or Path.cwd()
    return (
        Check("gradscope", "gradscope", "ok", gradscope.__version__),
        Check("gradscope", "Python", "ok", f"{platform.python_version()}, {platform.system()}"),
        *_packages(),
        *_torch(),
        *_settings(folder),
        _runs(folder),
    )


def _packages() -> Iterator[Check]:
    for name in _NEEDED:
        version = _version(name)
        if version is None:
            yield Check("needed", name, "bad", "not installed", f"python -m pip install {name}")
        else:
            yield Check("needed", name, "ok", version)
    for name, extra in _OPTIONAL.items():
        version = _version(name)
        install = f'"gradscope-torch[{extra}]"' if extra else name
        if version is None:
            how = f"python -m pip install {install}"
            yield Check("optional", name, "absent", "not installed", how)
        else:
            yield Check("optional", name, "ok", version)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> Iterator[Check]:
    try:
        import torch

        from gradscope.observe import kernel
        from gradscope.observe.capabilities import CAPABILITIES
    except Exception as error:
        what = f"cannot be imported: {type(error).__name__}: {error}"
        yield Check("torch", "import torch", "bad", what, "mend this installation of torch")
        return
    yield Check("torch", "devices", "ok", _devices())
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    yield Check("torch", "threads", "ok", threads)
    loaded = kernel.library() is not None
    yield Check(
        "torch", "compiled kernel", "ok" if loaded else "absent",
        "loaded" if loaded else "not built: torch's own operations do it, which costs more time",
    )  # fmt: skip
    for capability in CAPABILITIES:
        present = capability.present()
        name = f"{capability.holder}.{capability.name}"
        value = "found" if present else f"not in this torch: {capability.without}"
        yield Check("private names", name, "ok" if present else "degraded", value)


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(["cpu", *names])


def _settings(folder: Path) -> Iterator[Check]:
    file = config.nearest_pyproject(folder)
    try:
        settings = config.settings(folder)
    except ConfigError as error:
        where = f" ({error.where})" if error.where else ""
        yield Check("settings", "settings", "bad", f"{error.what}{where}", error.hint or "")
        return
    yield Check("settings", "pyproject.toml", "ok", str(file) if file else "none above this folder")
    if not settings.enabled:
        value = "GRADSCOPE is set so that watch() and run record nothing"
        yield Check("settings", "GRADSCOPE", "degraded", value, "unset GRADSCOPE")


def _runs(folder: Path) -> Check:
    home = folder / ".gradscope"
    if home.exists() and not home.is_dir():
        why = f"{home} is no folder, and runs are recorded in it"
        return Check("settings", "run folder", "bad", why, "remove it, or say --run-dir")
    try:
        # a file is really written: rights alone say nothing of a full or read-only disk
        with tempfile.TemporaryFile(dir=home if home.is_dir() else folder) as file:
            file.write(b"gradscope")
            file.flush()
    except OSError as error:
        why = f"{home} cannot be written: {error.strerror or error}"
        return Check("settings", "run folder", "bad", why, "say --run-dir, or go to another folder")
    return Check("settings", "run folder", "ok", f"{home} can be written")
