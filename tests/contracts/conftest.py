"""The toys under their names, as a package of somebody else's would register them."""

from __future__ import annotations

import pytest

from jepakit import registry
from tests.contracts.toy_systems import SYSTEMS


@pytest.fixture(autouse=True)
def _registered():
    before = {kind: dict(table) for kind, table in registry.TABLES.items()}
    register_toys()
    yield
    for kind, table in registry.TABLES.items():
        table.clear()
        table.update(before[kind])


def register_toys() -> None:
    """Make the toys' systems, their modality and the one encoder that stands by itself known."""
    for name, (kind, _) in SYSTEMS.items():
        registry.register(name, kind, kind.__doc__)
    registry.register("toy", "tests.contracts.toy_data:TOY", "little worlds", kind="modality")
    registry.register("toy-cloud", "tests.contracts.toy_systems:CloudEncoder", "points", kind="encoder")
