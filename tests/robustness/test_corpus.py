"""The corpus is as large as it is said to be."""

from tests.robustness import (
    test_bad_arrays,
    test_bad_configs,
    test_bad_images,
    test_bad_shards,
    test_bad_tables,
    test_bad_weights,
)

MODULES = (test_bad_arrays, test_bad_configs, test_bad_images, test_bad_shards, test_bad_tables, test_bad_weights)


def test_at_least_two_thousand_cases():
    assert sum(len(module.CASES) for module in MODULES) >= 2_000
