"""python -m tests.benchmarks [loader step processes suite memory sharding gpu] [--write]

Rule: one core for everything but `processes` and `gpu`, so that nothing has more than another; ratios count, since
machines differ.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from . import table
from .workers import ROOT

BENCHMARKS = ("loader", "step", "processes", "suite", "memory", "sharding", "gpu")


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"among {', '.join(BENCHMARKS)}; all if none")
    parser.add_argument(
        "--write", action="store_true", help="write README's table and tests/benchmarks/benchmarks.json"
    )
    given = parser.parse_args()
    if strangers := sorted(set(given.names) - set(BENCHMARKS)):
        parser.error(f"no such benchmark: {', '.join(strangers)}; there are {', '.join(BENCHMARKS)}")
    cores = os.sched_getaffinity(0)
    found = {}
    for name in given.names or BENCHMARKS:
        # Those with several processes may use all cores; the others one, the last, which a system uses least.
        os.sched_setaffinity(0, cores if name in ("gpu", "processes") else {max(cores)})
        begun = time.monotonic()
        used = len(os.sched_getaffinity(0))
        rows = importlib.import_module(f"{__package__}.{name}").measure()
        found[name] = {"measured": table.now(used), "rows": list(rows)}
        print(f"{name} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if given.write:
        results = table.update(Path(__file__).with_name("benchmarks.json"), found, BENCHMARKS)
        table.place(ROOT / "README.md", results)
    print(table.text(results if given.write else found))


if __name__ == "__main__":
    main()
