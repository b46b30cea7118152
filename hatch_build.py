"""Compiles the one C file, where there is a compiler; without one the wheel is pure Python."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

SOURCE = Path("gradscope/observe/moments.c")
FLAGS = (
    # the order of additions and each rounding stay as they are written
    "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-shared", "-fPIC", "-fvisibility=hidden",
)  # fmt: skip
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


class KernelBuildHook(BuildHookInterface):
    """Adds the compiled kernel to the wheel; ``GRADSCOPE_BUILD_KERNEL=0`` leaves it out."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is told and costs nothing but speed."""
        library = Path(self.root, SOURCE.parent, f"_moments{SUFFIX}")
        library.unlink(missing_ok=True)
        if os.environ.get("GRADSCOPE_BUILD_KERNEL") == "0":
            return
        failure = compiled(Path(self.root, SOURCE), library)
        if failure:
            self.app.display_warning(f"built without the compiled kernel: {failure}")
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        # no part of Python is linked: one wheel serves every version on this platform
        build_data["tag"] = f"py3-none-{next(sys_tags()).platform}"


def compiled(source: Path, library: Path) -> str:
    """Compile ``source`` into ``library``; why that failed, or ""."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if sys.platform == "win32" or shutil.which(command[0]) is None:
        command = ["cc"]
    if sys.platform == "win32" or shutil.which(command[0]) is None:
        return "no C compiler"
    unfinished = library.with_suffix(f".{os.getpid()}.unfinished")
    said = ""
    # a C library without indirect functions (musl) cannot choose by processor
    for extra in ((), ("-DNO_CLONES",)):
        done = subprocess.run(
            [command[0], *FLAGS, *extra, str(source), "-o", str(unfinished)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            unfinished.replace(library)
            return ""
        said = done.stderr.strip()
    unfinished.unlink(missing_ok=True)
    return said or f"{command[0]} failed"
