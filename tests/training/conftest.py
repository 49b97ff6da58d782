import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Matrices as small as in these tests only make several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
