"""Makes the sample reports from the examples: ``python reports/make.py [NAME...]``.

Each page lands beside this file, named after its example. Without names all of them are made, which
takes about two minutes on one core.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"


def make(example: Path) -> None:
    """Make one page; the exit codes of a check, 0 and 1, are both fine here."""
    page = REPORTS / f"{example.stem}.html"
    with tempfile.TemporaryDirectory() as folder:
        run = ["--run-dir", f"{folder}/run", "--report", str(page)]
        source = str(example.relative_to(ROOT))
        if example.stem == "wrapped_loop":
            command = [sys.executable, source, *run]
        else:
            command = [sys.executable, "-m", "gradscope", "check", source, "--quiet", *run]
        result = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if result.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} gave exit code {result.returncode}")
    print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1000:.0f} kB")


def main(names: list[str]) -> None:
    """Make the pages of the examples called ``names``, or of all."""
    examples = sorted((ROOT / "examples").glob("*.py"))
    known = {example.stem: example for example in examples}
    for name in names or known:
        if name not in known:
            raise SystemExit(f"there is no example {name!r}; there are {', '.join(known)}")
        make(known[name])


if __name__ == "__main__":
    main(sys.argv[1:])
