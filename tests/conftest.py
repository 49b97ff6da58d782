"""The whole test run checks shapes and types of jepakit's signatures, and repeats itself exactly."""

import hypothesis
import jaxtyping
import pytest
import torch

import tests.shape_checks  # noqa: F401  (the hook finds it by name)

# Before any test imports jepakit.
jaxtyping.install_import_hook("jepakit", "tests.shape_checks.check")

hypothesis.settings.register_profile("jepakit", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.load_profile("jepakit")

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
