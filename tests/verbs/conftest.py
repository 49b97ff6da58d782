from __future__ import annotations

from pathlib import Path

import pytest

from jepakit.config import default_config, write_config
from jepakit.interop.runs import build_system
from jepakit.modalities.images.data import open_images
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import decide


def make_untrained_run(path: Path, system: str, data: str, **options) -> Path:
    """A run folder as a finished run leaves it, at its random weights."""
    config = default_config(system, data).override(steps=1, **options)
    config = decide(config, open_images(config.dataset, 0))
    folder = RunFolder(path)
    folder.create()
    write_config(folder.config, config)
    folder.save_model(build_system(config))
    return path


@pytest.fixture(scope="session")
def untrained_run():
    return make_untrained_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {
        "i-jepa": make_untrained_run(place / "i", "i-jepa", "digits", patch_size=2),
        "lejepa": make_untrained_run(place / "l", "lejepa", "digits"),
    }
