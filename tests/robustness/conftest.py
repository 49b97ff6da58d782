from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that is gone after the test (pytest keeps its own, thousands here)."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run folder with a checkpoint at step 0 and weights, as training leaves it: nothing was trained."""
    from jepakit.config import default_config, write_config
    from jepakit.training.run_folder import RunFolder
    from jepakit.verbs.pretrain import build_trainer, decide, open_data, prepare_system, write_environment

    config = default_config("lejepa", "digits").override(
        steps=2,
        limit=64,
        batch_size=16,
        workers=0,
        threads=1,
        precision="float32",
        device="cpu",
        health_samples=8,
        lidar_views=2,
        augment={"views": 2},
        sigreg={"slices": 16},
        projector=(16, 8),
    )
    data = open_data(config)
    decided = decide(config, data)
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    folder.create()
    write_config(folder.config, decided)
    device = torch.device("cpu")
    trainer = build_trainer(decided, folder, data, prepare_system(decided, device, None), device)
    trainer.save()
    folder.save_model(trainer.system)
    write_environment(folder, decided, device)
    return folder.path


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory) -> Path:
    """The run's encoder as `export` writes it."""
    from jepakit.interop.load import load

    return load(run).save_pretrained(tmp_path_factory.mktemp("exports") / "encoder")
