"""Options that many systems share, those that changed their form, and those that two parts of a run have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import tyro

from jepakit import registry
from jepakit.commands import pretrain_options
from jepakit.config import default_config, read_config, write_config
from jepakit.core.options import EMAOptions, SizeOptions
from jepakit.errors import UserError
from jepakit.systems.lejepa import LeJEPA, LeJEPAConfig


@dataclass(frozen=True, kw_only=True)
class Twice(LeJEPAConfig):
    """Options of which the data has one, too, and the training another."""

    limit: int = 7
    """Of the model."""
    clip: tuple[float, ...] = field(default_factory=lambda: (1.0,))


class Clashing(LeJEPA):
    Config: ClassVar[type] = Twice


@pytest.fixture
def clashing():
    before = dict(registry.SYSTEMS)
    registry.register("clashing", Clashing, "two options called limit")
    yield
    registry.SYSTEMS.clear()
    registry.SYSTEMS.update(before)


def parsed(system: str, *words: str) -> Any:
    return tyro.cli(pretrain_options(system), args=["--data", "digits", "--out", "run", *words])


def test_an_option_of_two_parts_is_said_with_its_part(clashing):
    options = parsed("clashing", "--data.limit", "40", "--model.limit", "3", "--training.clip", "2.0", "--model.clip", "4", "5")
    assert (options.dataset.limit, options.model.limit) == (40, 3)
    assert (options.training.clip, options.model.clip) == (2.0, (4.0, 5.0))
    assert parsed("clashing").model.limit == 7
    config = default_config("clashing", "digits").override(**{"data.limit": 40, "model.limit": 3})
    assert (config.dataset.limit, config.model.limit) == (40, 3)
    assert config.override(**{"data.test_fraction": 0.5}).dataset.test_fraction == 0.5
    with pytest.raises(UserError, match=r"'limit' .*several parts of clashing\. Say which: data\.limit or model\.limit"):
        config.override(limit=4)
    with pytest.raises(UserError, match=r"'training\.limit' is not an option"):
        config.override(**{"training.limit": 4})


@pytest.mark.parametrize("system", [name for name in registry.SYSTEMS if name != "clashing"])
def test_size_and_ema_mean_the_same_in_every_system(system):
    kind = registry.load_system(system).Config
    if hasattr(kind, "size"):
        assert issubclass(kind, SizeOptions)
    if any(name.startswith("ema") for name in vars(kind())):
        assert issubclass(kind, EMAOptions)
        assert kind(ema=0.5, ema_end=None).momentum == (0.5, 0.5)


def test_the_form_that_ema_once_had_is_read_in_files_and_refused_elsewhere(tmp_path, capsys):
    config = default_config("v-jepa", "bouncing-digits")
    write_config(tmp_path / "config.yaml", config)
    text = (tmp_path / "config.yaml").read_text()
    assert "  ema: 0.99\n" in text
    old = text.replace("  ema: 0.99\n", "  ema: [0.5, 0.75]\n").replace("  ema_end: 1.0\n", "")
    (tmp_path / "config.yaml").write_text(old)
    assert read_config(tmp_path).model.momentum == (0.5, 0.75)
    with pytest.raises(UserError, match=r"--ema 0\.99 --ema-end 1\.0"):
        config.override(ema=(0.9, 1.0))
    from jepakit.cli import main

    assert main(["pretrain", "v-jepa", "--data", "bouncing-digits", "--out", str(tmp_path / "a"), "--ema", "0.9", "1.0"]) == 2
    assert "--ema takes one value: the momentum at the end has an option of its own" in capsys.readouterr().err
