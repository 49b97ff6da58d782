"""`torchrun -m jepakit pretrain ...` on CPUs: one node, one killed process, two nodes; each equals one process."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from jepakit.training.loop import AGREE_EVERY
from jepakit.training.run_folder import RunFolder, step_of
from tests.tiny_systems import untimed, words_of

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
OPTIONS = {"steps": 12, "health_every": 4, "checkpoint_every": 3, "keep_checkpoints": 2, "labels": "none"}


def command(out: Path, **options: object) -> list[str]:
    return ["-m", "jepakit", *words_of("lejepa", out, **{**OPTIONS, **options})]


def start(words: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
    with open(log, "ab") as handle:
        return subprocess.Popen(words, stdout=handle, stderr=handle, env=ENVIRONMENT | environment)


def finish(processes: Sequence[subprocess.Popen], log: Path) -> None:
    try:
        for process in processes:
            assert process.wait(timeout=300) == 0, log.read_text()[-5000:]
    finally:
        end(processes)


def end(processes: Sequence[subprocess.Popen]) -> None:
    """End what still runs, politely: torchrun then ends its processes."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of one process."""
    place = tmp_path_factory.mktemp("one")
    finish([start([sys.executable, *command(place / "run")], place / "log")], place / "log")
    return RunFolder(place / "run")


def check_equal(run: RunFolder, other: RunFolder) -> None:
    """One report, one line for each step, and the numbers of the other run."""
    assert {path.name for path in other.path.iterdir()} <= {path.name for path in run.path.iterdir()}
    lines, expected = untimed(run), untimed(other)
    assert [(line["kind"], line["step"]) for line in lines] == [(line["kind"], line["step"]) for line in expected]
    for line, one in zip(lines, expected, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                assert math.isclose(line[name], value, rel_tol=1e-4, abs_tol=1e-5), f"step {line['step']}, {name}"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_command_on_two_processes(one: RunFolder, tmp_path: Path, parallel: str) -> None:
    run, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    words = command(run.path, parallel=parallel, labels=None)
    finish([start([*TORCHRUN, "--standalone", "--nproc-per-node", "2", *words], log)], log)
    check_equal(run, one)
    assert len(json.loads(run.evaluation.read_text())["rows"]) > 4
    said = log.read_text()
    assert said.count("Report: ") == 1, said
    assert said.count("parameters trained") == 1, said
    assert "Warning" not in said, said


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    of_one_node = [line for line in lines if line.startswith("torchrun --standalone") or line.startswith("jepakit")]
    assert len(of_one_node) == 5
    for line in of_one_node:
        words = line.replace("torchrun", "python -m torch.distributed.run", 1) if "torchrun" in line else f"python -m {line}"
        short = ["--steps", "4", "--labels", "none", "--health-samples", "16", "--threads", "1"] if " pretrain " in line else []
        done = subprocess.run(
            [sys.executable, *words.split()[1:], *short], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "two", "sharded"}


def ranks_of(out: Path) -> dict[int, int]:
    """Process ids of the running ranks that write to `out`, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = dict(pair.split(b"=", 1) for pair in (process / "environ").read_bytes().split(b"\0") if b"=" in pair)
        except OSError:  # it has ended
            continue
        if os.fsencode(out) in words and b"RANK" in environment:
            found[int(environment[b"RANK"])] = int(process.name)
    return found


def wait_for_step(run: RunFolder, step: int, process: subprocess.Popen, log: Path) -> None:
    while not any(line["step"] >= step for line in run.read_metrics()):
        assert process.poll() is None, log.read_text()[-5000:]
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_started_again_and_the_run_goes_on(one: RunFolder, tmp_path: Path, victim: int) -> None:
    run, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", *command(run.path)]
    process = start(words, log)
    try:
        wait_for_step(run, 5, process, log)
        os.kill(ranks_of(run.path)[victim], signal.SIGKILL)
    except BaseException:
        end([process])
        raise
    finish([process], log)
    assert f"Resuming {run.path} at step" in log.read_text()
    check_equal(run, one)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
def test_a_signal_that_reaches_one_process_stops_all_and_one_process_can_go_on(one: RunFolder, tmp_path: Path) -> None:
    run, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    process = start([*TORCHRUN, "--standalone", "--nproc-per-node", "2", *command(run.path)], log)
    try:
        wait_for_step(run, 2, process, log)
        os.kill(ranks_of(run.path)[1], signal.SIGTERM)
        assert process.wait(timeout=120) != 0
    finally:
        end([process])
    [*_, last] = run.list_checkpoints()
    assert step_of(last) % AGREE_EVERY == 0
    assert f"Saved at step {step_of(last)}. Continue with: jepakit resume" in log.read_text()
    finish([start([sys.executable, "-m", "jepakit", "resume", str(run.path)], log)], log)
    check_equal(run, one)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node(number: int, master: str, port: int, address: str, out: Path) -> list[str]:
    return [
        *TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number),
        "--master-addr", master, "--master-port", str(port), "--local-addr", address, *command(out),
    ]  # fmt: skip


def test_two_nodes_at_two_addresses_of_this_machine(one: RunFolder, tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    addresses = ["127.0.0.1", "127.0.0.2"] if sys.platform == "linux" else ["127.0.0.1"] * 2
    words = [node(number, addresses[0], port, addresses[number], tmp_path / "run") for number in range(2)]
    finish([start(word, log) for word in words], log)
    check_equal(RunFolder(tmp_path / "run"), one)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable: 10.77.0.1 and 10.77.0.2. Skips where they may not be made."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` command")
    names = [f"jepakit{os.getpid()}{side}" for side in "ab"]
    ends = [f"jk{os.getpid() % 10**8}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("link", "set", end, "netns", name, "name", "cable")
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    finally:
        for name in names:  # the cable goes with its end
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_nodes_in_two_networks(one: RunFolder, tmp_path: Path, networks: list[str]) -> None:
    log = tmp_path / "log"
    processes = []
    for number, name in enumerate(networks):
        words = node(number, "10.77.0.1", 29500, f"10.77.0.{number + 1}", tmp_path / "run")
        processes.append(start(["ip", "netns", "exec", name, *words], log, GLOO_SOCKET_IFNAME="cable"))
    finish(processes, log)
    check_equal(RunFolder(tmp_path / "run"), one)


ENDING = """
import atexit, os, pathlib, sys

def threads():
    return [pathlib.Path(f"/proc/self/task/{one}/comm").read_text() for one in os.listdir("/proc/self/task")]

def look():  # the last handler: registered first
    pathlib.Path(sys.argv[1] + os.environ["RANK"]).write_text(str([one for one in threads() if "gloo" in one]))

atexit.register(look)

import jepakit

jepakit.pretrain("lejepa", data="digits", out=sys.argv[1], batch_size=32, steps=2, labels="none", threads=1)
assert any("gloo" in one for one in threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are read from /proc")
def test_no_thread_of_the_process_group_lives_into_the_end_of_python(tmp_path: Path) -> None:
    """One that freed a tensor there would abort a process that has done its work."""
    script = tmp_path / "ending.py"
    script.write_text(ENDING, "utf-8")
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "rank")]
    finish([start(words, tmp_path / "log")], tmp_path / "log")
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["[]", "[]"]
