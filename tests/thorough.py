"""Larger versions of tests: more kills, damages, frames and embeddings than every change needs, and the pages as they stand.

    python -m tests.thorough                      # all; hours
    python -m tests.thorough kills fuzz           # some of them
    python -m tests.thorough fuzz --share 0.1     # a tenth of the numbers below

Prints a line for each: what ran, how many tests passed and failed, and the seconds it took. Ends with 1 where one failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from typing import NamedTuple


class Larger(NamedTuple):
    """Tests, with the environment variable that says how much of it: `count` is what it is set to."""

    about: str
    variable: str
    count: int
    tests: list[str]


LARGER = {
    "kills": Larger("random moments of kill -9", "JEPAKIT_KILLS", 50, ["tests/end_to_end/test_kill_and_resume.py"]),
    "fuzz": Larger("times the damages of every file", "JEPAKIT_FUZZ", 20, ["tests/robustness"]),
    "examples": Larger("examples of every property", "JEPAKIT_EXAMPLES", 1_000, ["tests", "-m", "not slow and not gpu"]),
    "frames": Larger("frames of a stream", "JEPAKIT_FRAMES", 10_000, ["tests/streaming", "-k", "memory_does_not_grow"]),
    "embeddings": Larger(
        "embeddings of 384 numbers", "JEPAKIT_EMBEDDINGS", 1_000_000, ["tests/end_to_end/test_a_million_embeddings.py"]
    ),
    "pages": Larger("as the pages say it", "JEPAKIT_WHOLE_PAGES", 1, ["tests/test_documentation.py"]),
}


def run(larger: Larger, count: int, seed: str) -> tuple[int, int, float]:
    """Tests that passed, tests that did not, seconds."""
    started = time.monotonic()
    words = [sys.executable, "-m", "pytest", "-q", "--tb=short", *larger.tests]
    environment = os.environ | {larger.variable: str(count), "JEPAKIT_KILL_SEED": seed, "PYTHONHASHSEED": "0"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    summary = done.stdout.strip().splitlines()[-1]
    passed, failed, errors = (sum(map(int, re.findall(rf"(\d+) {word}", summary))) for word in ("passed", "failed", "error"))
    if done.returncode:
        print(done.stdout)
        failed = max(1, failed + errors)
    return passed, failed, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LARGER))
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers, to see that all is well in a short time")
    parser.add_argument("--seed", default="7", help="of the moments of the kills")
    given = parser.parse_args()
    unknown = set(given.names) - set(LARGER)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(LARGER)}")
    worst = 0
    print(f"{'what':<11}{'number':>10}  {'of':<34}{'passed':>7}{'failed':>7}{'seconds':>9}")
    for name in given.names or LARGER:
        larger = LARGER[name]
        count = max(1, round(larger.count * given.share))
        passed, failed, seconds = run(larger, count, given.seed)
        print(f"{name:<11}{count:>10,}  {larger.about:<34}{passed:>7,}{failed:>7,}{seconds:>9,.0f}", flush=True)
        worst |= failed > 0
    return worst


if __name__ == "__main__":
    sys.exit(main())
