"""Tests in several processes of pytest-xdist: those that start processes themselves stay together, and so do modules."""

import pytest

from tests.conftest import PROCESSES


@pytest.fixture(scope="module")
def made():
    """What this module makes once."""


@pytest.mark.distributed
def test_what_starts_processes_is_in_one_group(request):
    assert [mark.args for mark in request.node.iter_markers("xdist_group")] == [(PROCESSES,)]
    check_grouped(request, PROCESSES)


def test_what_shares_a_fixture_of_its_module_is_in_the_modules_group(request, made):
    assert [mark.args for mark in request.node.iter_markers("xdist_group")] == [("tests/test_groups.py",)]
    check_grouped(request, "tests/test_groups.py")


def test_all_others_are_in_none(request):
    assert not list(request.node.iter_markers("xdist_group"))
    assert "@" not in request.node.nodeid


def check_grouped(request, group):
    """pytest-xdist goes by the end of a test's name; it tells nobody where that is lost."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith(f"@{group}")
