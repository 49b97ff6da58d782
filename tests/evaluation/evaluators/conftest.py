import pytest

from tests.verbs.conftest import make_untrained_run


@pytest.fixture(scope="session")
def untrained_run():
    return make_untrained_run
