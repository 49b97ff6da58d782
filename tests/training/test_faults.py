"""A fault from outside is known in whatever error it comes wrapped."""

import pytest

from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig
from jepakit.training.faults import faults_explained
from jepakit.training.run_folder import RunFolder

KILLED = "DataLoader worker (pid 8404) is killed by signal: Killed."


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_dead_worker_is_known_wherever_its_signal_struck(tmp_path, wrapped) -> None:
    with (
        pytest.raises(UserError, match=r"A worker that loads data died \(process 8404, killed by signal Killed\)"),
        faults_explained(RunFolder(tmp_path), TrainingConfig()),
    ):
        try:
            raise RuntimeError(KILLED)
        except RuntimeError as error:
            if wrapped:
                raise TypeError("a check that was under way") from error
            raise


def test_an_error_of_the_code_passes_unchanged(tmp_path) -> None:
    with pytest.raises(TypeError, match="ours"), faults_explained(RunFolder(tmp_path), TrainingConfig()):
        try:
            raise ValueError("first")
        except ValueError as error:
            raise TypeError("ours") from error
