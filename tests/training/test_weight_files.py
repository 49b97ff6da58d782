import pytest
import torch
from safetensors.torch import load_file, save_file

from jepakit.errors import UserError
from jepakit.training.weight_files import read_weights, write_weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(2.0), "empty": torch.zeros(0, 4), "low": torch.ones(3).half()}


def test_equal_weights_make_equal_files_that_safetensors_reads(tmp_path):
    for number in range(12):  # safetensors orders its metadata at random
        write_weights(tmp_path / str(number), TENSORS)
    contents = {(tmp_path / str(number)).read_bytes() for number in range(12)}
    assert len(contents) == 1
    for read in (load_file, read_weights):
        found = read(tmp_path / "0")
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w.safetensors is damaged: its checksum does not fit"):
        read_weights(path)


def test_files_of_others_have_no_checksum(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert read_weights(tmp_path / "w.safetensors").keys() == TENSORS.keys()
