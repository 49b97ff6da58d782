"""A run's config: written and read without loss, strict about names and types, overridden by options."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from jepakit.config import SECTIONS, default_config, read_config, to_plain, write_config
from jepakit.errors import UserError

CHANGED = {
    "i-jepa": {
        "lr": 3e-5,
        "weight_decay_end": None,
        "clip": None,
        "betas": None,
        "image_size": (32, 48),
        "group_by": "path:0",
        "loggers": ("tensorboard", "wandb"),
        "masks": {"sampler": "legacy", "target_scale": [0.1, 0.3], "contexts": 2},
        "crop": (0.3, 1.0),
        "energy": {"name": "cosine"},
        "anti_collapse": "vicreg",
        "vicreg": {"covariance": 4.0},
        "invariance": 0.5,
        "projector": (64, 32, 16),
        "health_every": 7,
        "stop_on_collapse": True,
    },
    "lejepa": {
        "epochs": 2.5,
        "schedule": "wsd",
        "precision": "float32",
        "augment": {"kind": "photo", "views": 3, "scale": [0.2, 0.9], "local_views": 2},
        "sigreg": {"weight": 1e-7, "convention": "paper"},
        "backbone": "vit",
        "patch_size": 4,
        "labels": "none",
        "limit": 100,
        "seed": 2**40,
    },
}
CHANGED["i-jepa"].pop("betas")


@pytest.mark.parametrize("system", CHANGED)
def test_a_changed_config_is_read_as_it_was_written(tmp_path, system):
    config = default_config(system, "./photos ü: #1").override(**CHANGED[system])
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path) == read_config(tmp_path / "config.yaml") == config
    assert config != default_config(system, "./photos ü: #1")
    for name, value in CHANGED[system].items():
        found = to_plain(getattr(getattr(config, config.section(name)), name))
        assert (found.items() >= to_plain(value).items()) if isinstance(value, dict) else found == to_plain(value)


def test_override_changes_only_what_is_named_and_keeps_the_rest_of_a_part():
    base = default_config("i-jepa", "digits").override(masks={"targets": 2})
    config = base.override(masks={"contexts": 3}, lr=1)
    assert (config.model.masks.targets, config.model.masks.contexts) == (2, 3)
    assert config.training.lr == 1.0
    assert isinstance(config.training.lr, float)
    assert config.override(lr=base.training.lr, masks=base.model.masks) == base


def test_epochs_replace_the_steps_of_a_reproduced_run():
    base = default_config("lejepa", "digits").override(steps=100)
    assert base.override(epochs=2.0).training.steps is None
    assert base.override(epochs=2).training.epochs == 2.0
    assert base.override(steps=7).training.steps == 7
    with pytest.raises(UserError, match="steps or epochs, not both"):
        base.override(steps=5, epochs=2.0)


def test_option_names_are_unique_across_the_sections():
    """One flat list of options is what the command line and Python show."""
    for system in CHANGED:
        config = default_config(system, "digits")
        names = [f.name for part in SECTIONS for f in dataclasses.fields(getattr(config, part))]
        assert len(names) == len(set(names))
        assert not set(names) & {"system", "out", "init", "config"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bath_size": 3}, r"'bath_size' is not an option of lejepa. Did you mean 'batch_size'"),
        ({"augment": {"vews": 3}}, r"model.augment.vews is not an option. Did you mean 'views'"),
        ({"lr": "0.1"}, r"training.lr: expected float, got '0.1'"),
        ({"steps": 1.5}, r"training.steps: expected int, got 1.5"),
        ({"steps": True}, r"training.steps: expected int, got True"),
        ({"stop_on_collapse": 1}, r"health.stop_on_collapse: expected bool, got 1"),
        ({"backbone": "vti"}, r"model.backbone: 'vti' is not known. Did you mean 'vit'"),
        ({"image_size": (8,)}, r"dataset.image_size: expected 2 values, got \[8\]"),
        ({"image_size": 8}, r"dataset.image_size: expected a list, got 8"),
        ({"projector": (64, "x")}, r"model.projector\[1\]: expected int, got 'x'"),
        ({"augment": 3}, r"model.augment: expected a group of options, got 3"),
        ({"loggers": ("tensorbord",)}, r"loggers: 'tensorbord' is not known. Did you mean 'tensorboard'"),
        ({"batch_size": 10, "accumulate": 3}, r"batch_size 10 must be a multiple of accumulate 3"),
        ({"lr": float("nan")}, r"training.lr: expected a finite number, got nan"),
        ({"epochs": 0}, r"epochs must be above 0"),
        ({"lr": {"a": 1}}, r"training.lr: expected float"),
    ],
)
def test_a_mistake_names_the_option_and_what_would_do(options, told):
    with pytest.raises(UserError, match=told):
        default_config("lejepa", "digits").override(**options)


def test_an_unknown_system_names_the_nearest():
    with pytest.raises(UserError, match=r"'ijepa' is not known. Did you mean 'i-jepa'"):
        default_config("ijepa", "digits")


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    write_config(path, default_config("lejepa", "digits"))
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert len(re.findall(old, text)) == 1
    path.write_text(re.sub(old, new, text))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (r"format: 1\n", "format: 7\n", r"reads config format 1, the file has 7"),
        (r"format: 1\n", "", r"reads config format 1, the file has None"),
        (r"\ntraining:", "\ntrainig:", r"'trainig' is not a section. Did you mean 'training'"),
        (r"  warmup: ", "  warmpu: ", r"training.warmpu is not an option. Did you mean 'warmup'"),
        (r"  warmup: ", "  lr: 3\n  warmup: ", r"key 'lr' stands twice .*line \d+"),
        (r"  views: \d+", "  views: two", r"model.augment.views: expected int, got 'two'"),
        (r"system: lejepa", "system: lejpa", r"'lejpa' is not known. Did you mean 'lejepa'"),
        (r"system: lejepa", "system: [a]", r"system"),
        (r"  data: digits", "  labels2: a", r"dataset.labels2 is not an option"),
        (r"  data: digits\n", "", r"dataset: the option 'data' is missing"),
        (r"  seed: 0", "  seed: !!python/object/apply:os.getpid []", r"not a YAML file .*python/object"),
        (r"  seed: 0", "  seed: !custom 3", r"not a YAML file.*!custom"),
        (r"  seed: 0", "  seed: *nowhere", r"not a YAML file"),
        (r"  seed: 0", "  ? [a]\n  : 3", r"a name is a list"),
        (r"  seed: 0", "  seed: [", r"not a YAML file"),
    ],
)
def test_a_mistake_in_the_file_is_named(written, old, new, told):
    change(written, old, new)
    with pytest.raises(UserError) as error:
        read_config(written)
    assert re.search(told, str(error.value), re.DOTALL), str(error.value)


@pytest.mark.parametrize("content", ["", "3", "- a\n- b", "just words"])
def test_another_file_is_not_a_config(written, content):
    written.write_text(content)
    with pytest.raises(UserError, match="reads config format 1, the file has None"):
        read_config(written)


def test_binary_and_missing_files_are_named(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"config.yaml is not UTF-8"):
        read_config(tmp_path)
    with pytest.raises(UserError, match=r"nowhere does not exist.*pretrain. writes one"):
        read_config(tmp_path / "nowhere")


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "+1e-3", "0.1e-2", "1.e-3", ".001"])
def test_numbers_as_people_write_them(written, number):
    """YAML 1.1 takes 1e-3 for a word."""
    change(written, r"\n  lr: .*", f"\n  lr: {number}")
    assert read_config(written).training.lr == 0.001


def test_what_stands_in_the_file_is_plain_yaml(written):
    plain = yaml.safe_load(written.read_text())
    assert plain["format"] == 1
    assert list(plain)[2:] == ["system", "dataset", "model", "training", "health", "inputs"]
    assert "!" not in written.read_text()
