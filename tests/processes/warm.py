"""Commands of Python in processes of their own that need not load torch anew."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SERVER = Path(__file__).with_name("warm_server.py")
SECONDS = 600.0
"""A command that takes longer is killed."""


class WarmPython:
    """Runs what ``python WORDS`` runs, as a fork of a process that has loaded the libraries.

    The words are ``-m MODULE ...`` or ``FILE ...``; stdin is empty. Exit code, stdout and stderr
    are those of a new interpreter, which takes six seconds longer. For what depends on the start
    itself, on signals, or on a terminal, start a new one.
    """

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()

    def run(
        self, *words: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder; by default with the environment of this process."""
        return self.together([words], folder=folder, environments=[environment])[0]

    def together(
        self, commands: Sequence[Sequence[str]], *, folder: Path,
        environments: Sequence[Mapping[str, str] | None],
    ) -> list[subprocess.CompletedProcess[str]]:  # fmt: skip
        """Run several commands side by side, such as the ranks of a group, until all have ended."""
        with tempfile.TemporaryDirectory() as said:
            files = [Path(said) / f"{number}" for number in range(2 * len(commands))]
            wanted = [
                {
                    "words": list(map(str, words)), "folder": str(folder),
                    "environment": dict(os.environ if environment is None else environment),
                    "stdout": str(stdout), "stderr": str(stderr),
                }
                for words, environment, stdout, stderr in zip(
                    commands, environments, files[::2], files[1::2], strict=True
                )
            ]  # fmt: skip
            codes = self._codes(wanted)
            texts = [file.read_text() for file in files]
        return [
            subprocess.CompletedProcess(list(words), code, stdout, stderr)
            for words, code, stdout, stderr in zip(
                commands, codes, texts[::2], texts[1::2], strict=True
            )
        ]

    def _codes(self, wanted: list[dict[str, object]]) -> list[int]:
        self._pipe.send(wanted)
        children = self._pipe.recv()
        if not self._pipe.poll(SECONDS):
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._server.wait()
