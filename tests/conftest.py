"""The whole test run checks shapes and types of jepakit's signatures, and repeats itself exactly."""

import os

import hypothesis
import jaxtyping
import pytest
import torch

import tests.shape_checks  # noqa: F401  (the hook finds it by name)

# Before any test imports jepakit.
jaxtyping.install_import_hook("jepakit", "tests.shape_checks.check")

EXAMPLES = int(os.environ.get("JEPAKIT_EXAMPLES", "30"))
hypothesis.settings.register_profile("jepakit", deadline=None, derandomize=True, max_examples=EXAMPLES, database=None)
hypothesis.settings.load_profile("jepakit")

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def measured_on_little():
    """`evaluate` goes by a few labelled samples, for the tests of what a run keeps and not of what it is worth."""
    with pytest.MonkeyPatch.context() as patch:
        for name, most in {"MOST_TRAIN": 200, "MOST_TEST": 100, "MOST_LARGE": (100, 50)}.items():
            patch.setattr(f"jepakit.evaluation.frozen_features.{name}", most)
        yield


PROCESSES = "processes"  # the group of the tests that start several processes: one of them at a time


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("distributed"):
            item.add_marker(pytest.mark.xdist_group(PROCESSES))
        elif shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(item.config.rootpath).as_posix()))
    yield
    # pytest-xdist 3.8 writes a group where pytest 9.2 no longer reads it (its issue 1386): without this, nothing is grouped.
    for item in items:
        named = getattr(item, "_nodeid", item.nodeid)
        if named != item.nodeid:
            item._id = type(item._id).parse(named)


def shares_a_fixture(item) -> bool:
    """Whether the test uses what its module makes once: then the module's tests run in one process of pytest-xdist."""
    made = getattr(item, "_fixtureinfo", None)
    return made is not None and any(found[-1].scope == "module" for found in made.name2fixturedefs.values() if found)
