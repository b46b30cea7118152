"""Makes the sample reports from the examples: ``python reports/make.py [NAME...]``.

Each page lands beside this file, named after its example. Without names all of them are made, which
takes some minutes on one core.
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
    # a check begins no step after a minute: on a busy machine the page would show half a training
    if "The run ended early" in page.read_text(encoding="utf-8"):
        raise SystemExit(
            f"{source} did not end within a minute; make its page on a quieter machine"
        )
    print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1000:.0f} kB", flush=True)


def gradscope(*words: str, codes: tuple[int, ...] = (0,)) -> None:
    """Run one command of gradscope in the root folder."""
    command = [sys.executable, "-m", "gradscope", *words]
    result = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if result.returncode not in codes:
        raise SystemExit(f"{' '.join(command)} gave exit code {result.returncode}")


def make_trace(example: Path) -> None:
    """Make the page of one step of an example, taken apart after some hundred others."""
    page = REPORTS / f"trace_{example.stem}.html"
    gradscope(
        "trace", str(example.relative_to(ROOT)), "--steps", "300", "--integrated-gradients",
        "--quiet", "--report", str(page),
    )  # fmt: skip
    print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1000:.0f} kB", flush=True)


def make_comparison() -> None:
    """Make the page that compares the mended digit reader with the sick one."""
    page = REPORTS / "compare_digits.html"
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for name in ("digit_mended", "digit_sick"):
            runs.append(f"{folder}/{name}")
            gradscope(
                "check", f"examples/trace/{name}.py", "--quiet", "--no-try-fixes",
                "--run-dir", runs[-1], codes=(0, 1),
            )  # fmt: skip
        gradscope("compare", *runs, "--quiet", "--report", str(page))
    print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1000:.0f} kB", flush=True)


def main(names: list[str]) -> None:
    """Make the pages called ``names``, or all of them."""
    examples = sorted((ROOT / "examples").glob("*.py"))
    known = {path.stem: lambda at=path: make(at) for path in examples}
    for path in sorted((ROOT / "examples" / "trace").glob("*.py")):
        known[f"trace_{path.stem}"] = lambda at=path: make_trace(at)
    known["compare_digits"] = make_comparison
    for name in names or known:
        if name not in known:
            raise SystemExit(f"there is no page {name!r}; there are {', '.join(known)}")
        known[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
