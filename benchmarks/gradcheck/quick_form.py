"""What the quick form of gradcheck costs inside ``gradscope check``: CPU time with it over without.

    python -m benchmarks.gradcheck.quick_form examples/wrong_backward.py

The time is that of the processor, taken inside one process around the comparisons: the difference
between two processes is smaller than what one and the same check varies by on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHECK = """
import sys, time
from gradscope.session import glancing
from gradscope.cli import main

spent = []
rows = glancing.Glance.rows

def timed(self, seed):
    began = time.process_time()
    found = rows(self, seed)
    spent.append((time.process_time() - began, len(found)))
    return found

glancing.Glance.rows = timed
code = main(sys.argv[1:])
sys.stdout.write(f"{code} {time.process_time()} {spent[0][0]} {spent[0][1]}")
"""


def measured(example: Path) -> tuple[float, float, int]:
    """Processor seconds of a check, those of its quick form, and derivatives compared in it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["check", str(example), "--no-try-fixes", "--quiet", "--run-dir", f"{folder}/run"]
        done = subprocess.run(
            [sys.executable, "-c", CHECK, *words], check=False, capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{example}: {done.stderr}")
    code, whole, part, count = done.stdout.splitlines()[-1].split()
    if code not in ("0", "1"):
        raise SystemExit(f"{example}: exit code {code}\n{done.stderr}")
    return float(whole), float(part), int(count)


def main() -> None:
    """Print one line for each example."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradcheck.quick_form")
    parser.add_argument("example", type=Path, nargs="+")
    for example in parser.parse_args().example:
        whole, part, count = measured(example)
        print(
            f"{example}: {whole:.2f} s with, {whole - part:.2f} s without: "
            f"{whole / (whole - part):.3f}; {count} derivatives compared in {part:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
