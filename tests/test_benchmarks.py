import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import NAMES, table
from benchmarks.timing import Result, compare

ROOT = Path(__file__).parents[1]


def test_a_ratio_above_one_is_better_whatever_the_unit():
    assert Result("a", ours=1.0, reference=3.0).ratio == 3.0
    assert Result("b", ours=6.0, reference=3.0, unit="images/s").ratio == 2.0
    assert Result("c", ours=2.0, reference=1.0, unit="us a token").ratio == 0.5


def test_the_faster_and_the_smaller_side_is_seen():
    def wasteful() -> int:
        return sum(bytearray(64_000_000)[::64])

    result = compare("x", lambda: None, wasteful, repeats=2)
    assert result.ratio > 10
    assert result.memory_ratio < 0.5


def test_a_table_has_a_line_for_each_result_and_its_note():
    text = table([Result("a", 0.5, 2.0, note="why"), Result("b", 3.0, 1.5, "GB/s", 0.25)], header=True)
    assert [line.split()[-1] for line in text.splitlines()] == ["memory", "4.00x", "why", "0.25"]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_compares(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.run)
    assert module.__doc__.splitlines()[0].rstrip(".")


@pytest.mark.slow
def test_the_command_prints_json():
    command = [sys.executable, "-m", "benchmarks", "machine", "masks", "--json", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = json.loads(done.stdout)
    assert {"name", "ours", "reference", "ratio", "memory_ratio"} <= set(lines[0])
    assert {line["name"].partition(":")[0] for line in lines} == {"machine", "masks"}


def test_a_name_that_is_no_benchmark_is_named():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "sigregg"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sigregg: not a benchmark" in done.stderr
