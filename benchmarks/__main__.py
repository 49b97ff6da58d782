"""Runs benchmarks and prints one table: `python -m benchmarks [NAME ...] [--json] [--threads N]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

NAMES = sorted(
    file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "__main__", "timing")
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    parser.add_argument("--threads", type=int, help="threads of torch; default: all cores")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not a benchmark. There are {', '.join(NAMES)}.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch is imported
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    results = []
    for name in asked.names or NAMES:
        found = importlib.import_module(f"benchmarks.{name}").run()
        results += found
        if not asked.json:
            print(table(found, header=len(results) == len(found)), flush=True)
    if asked.json:
        lines = [
            {
                "name": r.name, "ours": r.ours, "reference": r.reference, "unit": r.unit, "ratio": r.ratio,
                "memory_ratio": r.memory_ratio, "note": r.note,
            }
            for r in results
        ]  # fmt: skip
        print(json.dumps(lines, indent=1))
    return 0


def table(results: list, header: bool) -> str:
    lines = []
    if header:
        lines.append(f"{'':<46}{'ours':>14}{'reference':>14}{'ratio':>9}{'memory':>9}")
    for r in results:
        memory = "" if r.memory_ratio is None else f"{r.memory_ratio:.2f}"
        lines.append(f"{r.name:<46}{amount(r.ours, r.unit):>14}{amount(r.reference, r.unit):>14}{r.ratio:>8.2f}x{memory:>9}")
        if r.note:
            lines.append(f"    {r.note}")
    return "\n".join(lines)


def amount(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1000 * value:,.2f} ms" if value < 1 else f"{value:,.2f} s"
    return f"{value:,.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
