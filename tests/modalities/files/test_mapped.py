from __future__ import annotations

import pickle

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.files import mapped as mapped_files
from jepakit.modalities.files.mapped import MappedFiles


@pytest.fixture
def files(tmp_path) -> tuple[MappedFiles, list[bytes]]:
    contents = [np.random.default_rng(number).bytes(1_000 + number) for number in range(5)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    return MappedFiles([str(tmp_path / str(number)) for number in range(5)]), contents


def test_pieces_are_those_of_the_files_however_few_stay_open(files, monkeypatch):
    monkeypatch.setattr(mapped_files, "_OPEN", 2)
    monkeypatch.setattr(mapped_files, "_TOUCHED", 3_000)  # pages leave the process again and again
    mapped, contents = files
    generator = np.random.default_rng(0)
    for _ in range(200):
        file, start = generator.integers(5), generator.integers(900)
        length = generator.integers(100)
        piece = mapped.read(int(file), int(start), int(length))
        assert piece.tobytes() == contents[file][start : start + length]
        piece[:] = 0  # a copy
    assert pickle.loads(pickle.dumps(mapped)).read(3, 0, 5).tobytes() == contents[3][:5]


def test_files_that_are_gone_or_short_are_named(files, tmp_path):
    mapped, _ = files
    with pytest.raises(UserError, match=r"/0 has 1,000 bytes, 1,100 are needed"):
        mapped.read(0, 1_000, 100)
    (tmp_path / "1").unlink()
    with pytest.raises(UserError, match="/1 cannot be read"):
        mapped.read(1, 0, 1)
    (tmp_path / "2").write_bytes(b"")
    with pytest.raises(UserError, match="/2 cannot be read"):
        mapped.read(2, 0, 1)
