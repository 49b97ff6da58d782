import dataclasses
import importlib
import typing

import pytest

from jepakit.config import section_types
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNetConfig
from jepakit.nn.predictor import PredictorConfig
from jepakit.nn.vit import ViTConfig
from jepakit.registry import SIZES, SYSTEMS, TABLES, load_named, load_system, register
from jepakit.verbs.listing import KINDS, list_names

PLACES = {f"{kind} {name}": entry.place for kind, table in TABLES.items() for name, entry in table.items()}


@pytest.mark.parametrize("name", PLACES)
def test_every_place_exists(name):
    assert load_named(PLACES[name]) is not None


@pytest.mark.parametrize("system", SYSTEMS)
def test_option_names_of_ours_are_unique_across_the_sections_of_a_run(system):
    """Options are given without their section: one that stands twice needs it (`--data.limit`)."""
    names = [field.name for kind in section_types(system).values() for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))
    # What the verb itself takes beside them.
    assert not set(names) & {"system", "out", "init", "config"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_recipe_changes_options_that_exist(system):
    kind = load_system(system)
    assert issubclass(kind, System)
    section_types(system)["training"](**kind.training_defaults)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_sizes_a_system_takes_are_those_that_are_listed(system):
    hints = typing.get_type_hints(load_system(system).Config)
    if "size" not in hints:
        pytest.skip(f"{system} takes widths, no named size")
    assert set(typing.get_args(hints["size"])) == set(SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_valid_and_grow(size):
    vit = ViTConfig.of_size(size, (224, 224), 3)
    PredictorConfig.of_size(size)
    convnet = ConvNetConfig.of_size(size, (32, 32), 3)
    smaller = list(SIZES)[: list(SIZES).index(size)]
    for name in smaller:
        assert ViTConfig.of_size(name, (224, 224), 3).dim < vit.dim
        assert ConvNetConfig.of_size(name, (32, 32), 3).dim <= convnet.dim


def test_names_are_listed_with_what_they_are():
    for kind in KINDS:
        names = list_names(kind)
        assert names
        assert all(about for about in names.values())
    assert set(list_names("sizes")) == set(SIZES)
    assert set(list_names()) == set(SYSTEMS)


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'i-jepa'"):
        load_system("ijepa")
    with pytest.raises(UserError, match="Did you mean 'sizes'"):
        list_names("size")


@pytest.fixture
def own_systems():
    """The table of systems, as it was again afterwards."""
    before = dict(SYSTEMS)
    yield SYSTEMS
    SYSTEMS.clear()
    SYSTEMS.update(before)


OUTSIDE = """
class MyJEPA:
    training_defaults = {"steps": 7}
"""


def test_a_system_outside_the_package_is_registered_by_class_or_place(tmp_path, monkeypatch, own_systems):
    (tmp_path / "my_jepa_for_test.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("my_jepa_for_test").MyJEPA
    register("my-jepa", kind, "mine")
    assert load_system("my-jepa") is kind
    assert own_systems["my-jepa"].about == "mine"
    register("my-jepa", "my_jepa_for_test:MyJEPA", "the same again")
    with pytest.raises(UserError, match=r"'i-jepa' is taken by jepakit\.systems\.i_jepa:IJEPA"):
        register("i-jepa", kind, "mine")
    with pytest.raises(UserError, match="Did you mean 'my-jepa'"):
        load_system("my-jpa")


def test_an_installed_package_offers_systems_as_entry_points(tmp_path, monkeypatch, own_systems):
    (tmp_path / "my_package_for_test.py").write_text(OUTSIDE)
    metadata = tmp_path / "my_package_for_test-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package-for-test\nVersion: 1.0\n")
    points = "[jepakit.systems]\nmy-jepa = my_package_for_test:MyJEPA\ni-jepa = my_package_for_test:MyJEPA\n"
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_system("my-jepa").training_defaults == {"steps": 7}
    assert load_system("i-jepa").__module__ == "jepakit.systems.i_jepa"
    assert own_systems["my-jepa"].about == "of the installed package my_package_for_test"


def test_a_config_names_no_place(own_systems):
    """Code that a run's config could point to would run when a stranger's run is opened."""
    with pytest.raises(UserError, match="is not known"):
        load_system("os:system")
