"""A fault from outside is known in whatever error it comes wrapped."""

import pytest

from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig
from jepakit.training.faults import faults_explained
from jepakit.training.run_folder import RunFolder


def struck(error: Exception, wrapped: bool) -> None:
    try:
        raise error
    except type(error) as caught:
        if wrapped:
            raise TypeError("a check that was under way") from caught
        raise


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_dead_worker_is_known_wherever_its_signal_struck(tmp_path, wrapped) -> None:
    killed = RuntimeError("DataLoader worker (pid 8404) is killed by signal: Killed.")
    known = pytest.raises(UserError, match=r"A worker that loads data died \(process 8404, killed by signal Killed\)")
    with known, faults_explained(RunFolder(tmp_path), TrainingConfig()):
        struck(killed, wrapped)


def test_an_error_of_the_code_passes_unchanged(tmp_path) -> None:
    with pytest.raises(TypeError, match="under way"), faults_explained(RunFolder(tmp_path), TrainingConfig()):
        struck(ValueError("first"), wrapped=True)
