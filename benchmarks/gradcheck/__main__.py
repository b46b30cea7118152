"""``python -m benchmarks.gradcheck [--short] [--write]``: the tables of docs/gradcheck.md.

All of it takes about half an hour on one idle core, most of it PyTorch's slow mode; ``--every`` and
``--nets`` make it smaller.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import torch

from benchmarks import document
from benchmarks.gradcheck.measuring import judge_cases, judge_mutations, judge_scale
from benchmarks.gradcheck.table import tables


def main() -> int:
    """Measure and print; 1 where a label does not hold or gradscope misses its goals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradcheck", description=__doc__)
    parser.add_argument("--short", action="store_true", help="every eighth case, few mutations")
    parser.add_argument("--every", type=int, default=1, help="only every so manyeth case")
    document.option(parser, "gradcheck.md")
    parser.add_argument(
        "--nets", type=int, default=12, help="mutated nets for each size and spread"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = judge_cases(every=8 if given.short else given.every, tell=_tell)
    mutations = judge_mutations(2 if given.short else given.nets, tell=_tell)
    scale = judge_scale(
        (1_000, 10_000) if given.short else (1_000, 10_000, 100_000, 1_000_000), _tell
    )
    text = tables(cases, mutations, scale)
    print(text)
    if given.write:
        document.write("gradcheck.md", text)
    unverified = [c.name for c in cases.judged if c.label.startswith("no")]
    for name in unverified:
        print(f"the label of {name!r} does not hold", file=sys.stderr)
    return int(bool(unverified or cases.missed or cases.alarms))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
