"""Every toy goes through every verb: it works, or is refused in words that say why. On one process, and trained on two."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.interop.runs import Run
from jepakit.training.run_folder import RunFolder
from tests.contracts.conftest import register_toys
from tests.contracts.test_through_the_loop import LATENT, TRAINING
from tests.contracts.toy_systems import SYSTEMS
from tests.tiny_systems import untimed

WORLDS = ("toy-recurrent", "toy-fused", "toy-latent-dynamics")
EXPORTED = ("toy-cloud", "toy-flow")


def options_of(name: str) -> dict[str, Any]:
    return {**TRAINING, **LATENT.get(name, {})}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each toy, made by the verb."""
    register_toys()
    folder = tmp_path_factory.mktemp("toys")
    for name, (_, world) in SYSTEMS.items():
        jepakit.pretrain(name, data=world, out=folder / name, **options_of(name))
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A copy of one, to write into."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


@pytest.mark.parametrize("name", SYSTEMS)
def test_evaluate_and_report(name, run):
    folder = run(name)
    (folder / "evaluation.json").unlink(missing_ok=True)
    if name == "toy-cloud":
        rows = jepakit.evaluate(folder, evaluators=["linear", "knn-5"])
        assert {(row.features, row.evaluator) for row in rows} >= {("encoder", "linear"), ("numbers", "knn-5")}
    elif name in ("toy-recurrent", "toy-fused"):
        assert jepakit.evaluate(folder) == []
        assert (folder / "evaluation.json").exists()
    else:
        with pytest.raises(UserError, match="no labels"):
            jepakit.evaluate(folder)
    assert name in jepakit.report(folder).read_text("utf-8")


@pytest.mark.parametrize("name", SYSTEMS)
def test_embed_and_load(name, run, tmp_path):
    folder, world = run(name), SYSTEMS[name][1]
    embeddings = jepakit.embed(folder, data=world, out=tmp_path / "e.npy")
    model = jepakit.load(folder)
    data = Run(folder).data
    assert embeddings.shape[0] == len(data.train) + len(data.test)
    some = [data.train[index] for index in range(5)]
    torch.testing.assert_close(model.embed(model.inputs.prepare(some)), torch.from_numpy(np.array(embeddings[:5])))


@pytest.mark.parametrize("name", SYSTEMS)
def test_export_reads_again_or_says_why_not(name, run, tmp_path):
    folder = run(name)
    if name not in EXPORTED:
        with pytest.raises(UserError, match="cannot be exported by itself"):
            jepakit.export(folder, out=tmp_path / "exported")
        return
    jepakit.export(folder, out=tmp_path / "exported")
    whole, exported = jepakit.load(folder), jepakit.load(tmp_path / "exported")
    prepared = whole.inputs.prepare([Run(folder).data.train[0]])
    assert torch.equal(whole(prepared).values, exported(prepared).values)
    assert exported.modality is whole.modality
    with pytest.raises(UserError, match="this one reads toy"):
        jepakit.export(folder, out=tmp_path / "graph", format="torch-export")


@pytest.mark.parametrize("name", SYSTEMS)
def test_stream(name, run):
    """An encoder takes samples one by one; a world model asks for what this modality's inputs do not know: one step of it."""
    folder = run(name)
    sample = Run(folder).data.test[0]
    opened = jepakit.stream(jepakit.load(folder))
    assert torch.equal(opened.push(sample).embedding, opened.offline([sample])[0])
    if name in WORLDS:
        with pytest.raises(UserError, match="stream takes single observations"):
            jepakit.stream(folder)


@pytest.mark.parametrize("name", SYSTEMS)
def test_finetune_learns_labels_or_says_why_not(name, run, tmp_path):
    folder, world = run(name), SYSTEMS[name][1]
    small = {"steps": 3, "batch_size": 16, "workers": 0, "threads": 1, "device": "cpu"}
    if name != "toy-cloud":
        with pytest.raises(UserError, match=r"cannot be exported by itself|has no labels to tune on"):
            jepakit.finetune(folder, data=world, out=tmp_path / "tuned", **small)
        return
    jepakit.finetune(folder, data=world, out=tmp_path / "tuned", **small)
    tuned = jepakit.load(tmp_path / "tuned")
    predictions = tuned.predict(tuned.inputs.prepare([Run(folder).data.test[0]]))
    assert predictions.classes == ("long", "short")


@pytest.mark.parametrize("name", SYSTEMS)
def test_inspect(name, tmp_path):
    counted = jepakit.inspect(SYSTEMS[name][1], system=name, picture=tmp_path / "seen.png").to_dict()
    assert (counted["train"], counted["test"], counted["noun"]) == (960, 240, "samples")
    assert (tmp_path / "seen.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"image_size: toy have no such option"):
        jepakit.inspect(SYSTEMS[name][1], system=name, image_size=(8, 8), picture=tmp_path / "seen.png")


@pytest.mark.parametrize("name", WORLDS)
def test_act_is_for_environments_that_fit(name, run):
    with pytest.raises(UserError, match="plans are made of single observations"):
        jepakit.act(run(name), env="pendulum", episodes=1, horizon=2, replan=2, record=0)


def on_a_rank(index: int, folder: str, port: int) -> None:
    os.environ |= {
        "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    register_toys()
    for number, (name, (_, world)) in enumerate(SYSTEMS.items()):
        os.environ["MASTER_PORT"] = str(port + number)
        jepakit.pretrain(name, data=world, out=Path(folder) / name, **{**options_of(name), "precision": "float64"})


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, free_port):
    (tmp_path / "two").mkdir()
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path / "two"), free_port), nprocs=2)
    for name, (_, world) in SYSTEMS.items():
        jepakit.pretrain(name, data=world, out=tmp_path / name, **{**options_of(name), "precision": "float64"})
        one, two = (
            [line["loss"] for line in untimed(RunFolder(place)) if line["kind"] == "train"]
            for place in (tmp_path / name, tmp_path / "two" / name)
        )
        assert two == pytest.approx(one, rel=1e-6), name
        assert (tmp_path / "two" / name / "report.html").exists()


@pytest.fixture
def free_port() -> int:
    """The first of a row of ports that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(probe.getsockname()[1], 65_000 - len(SYSTEMS))
