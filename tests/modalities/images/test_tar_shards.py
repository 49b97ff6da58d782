"""Tar shards: the samples of webdataset's layout, an index that is kept and checked, and tars that lie."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.images.tar_shards import expand_braces, find_tars, index_tar, open_tar


def picture(number: int, size: int = 10) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size, size + 2, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_samples(path: Path, numbers: range, form: int = tarfile.USTAR_FORMAT) -> Path:
    """Pictures with a class and facts, as webdataset writes them."""
    members = []
    for number in numbers:
        facts = json.dumps({"caption": f"number {number}"}).encode()
        key = f"some/{number:06d}"
        members += [(f"{key}.cls", str(number % 3).encode()), (f"{key}.json", facts), (f"{key}.PNG", picture(number))]
    return write_tar(path, members, form)


def opened(data: Path | str, **options):
    return open_images(ImageDataConfig(data=str(data), **options), 0)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        write_samples(tmp_path / f"part-{number:03d}.tar", range(10 * number, 10 * number + 10), form)
    return tmp_path


def test_braces_are_those_of_a_shell():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    for wrong in ("a-{x..y}.tar", "a-{3..1}.tar", "a-{}.tar"):
        with pytest.raises(UserError, match="data: "):
            expand_braces(wrong)


@pytest.mark.parametrize("pattern", ["", "part-{000..002}.tar"])
def test_samples_are_those_of_the_tars(tars, pattern):
    data = opened(tars / pattern, test_fraction=0.0)
    assert (data.kind, data.classes, data.task) == ("tar", ["0", "1", "2"], "classification")
    assert data.train.labels.tolist() == [number % 3 for number in range(30)]
    assert data.train.paths[11] == "part-001.tar/some/000011.PNG"
    again = pickle.loads(pickle.dumps(data.train))  # a worker's copy
    for number in (0, 9, 10, 29):
        stored = np.asarray(Image.open(io.BytesIO(picture(number)))).transpose(2, 0, 1)
        assert np.array_equal(data.train[number]["image"], stored)
        assert np.array_equal(again[number]["image"], stored)


def test_one_tar_and_a_missing_one(tars):
    assert len(opened(tars / "part-001.tar").train) == 8
    with pytest.raises(UserError, match=r"part-003\.tar and 1 more of .* does not exist"):
        opened(tars / "part-{000..004}.tar")


def test_names_of_tars_make_a_split(tmp_path):
    write_samples(tmp_path / "train-000.tar", range(7))
    write_samples(tmp_path / "val-000.tar", range(7, 9))
    data = opened(tmp_path)
    assert (data.train.ids.tolist(), data.test.ids.tolist()) == (list(range(7)), [7, 8])


def test_labels_of_json_a_csv_and_none(tmp_path):
    members = [(f"{n}{end}", content) for n in range(6) for end, content in
               ((".png", picture(n)), (".json", json.dumps({"label": "ab"[n % 2]}).encode()))]  # fmt: skip
    tar = write_tar(tmp_path / "a.tar", members)
    assert opened(tar, test_fraction=0.0).classes == ["a", "b"]
    assert opened(tar, labels="none").classes is None
    rows = "".join(f"a.tar/{n}.png,{'xyz'[n % 3]}\n" for n in range(6))
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    assert opened(tar, labels=str(tmp_path / "labels.csv")).classes == ["x", "y", "z"]
    write_tar(tmp_path / "some.tar", [m for m in members if m[0] != "3.json"])
    with pytest.raises(UserError, match=r"some\.tar/3\.png has no label"):
        opened(tmp_path / "some.tar")


def test_bad_pictures_are_named_or_left_out(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [(f"{n}.png", picture(n)[: 60 if n == 2 else None]) for n in range(6)])
    with pytest.raises(UserError, match=r"a\.tar/2\.png"):
        opened(tar)
    data = opened(tar, on_bad_file="skip", test_fraction=0.0)
    assert [Path(name).stem for name in data.train.paths] == list("01345")
    assert [bad.path for bad in data.bad_files] == ["a.tar/2.png"]


def test_reading_by_shards_knows_the_tar_of_each_sample(tars):
    assert opened(tars).train.shards is None
    data = opened(tars, shuffle="shards", test_fraction=0.2)
    assert data.train.shards.tolist() == (data.train.ids // 10).tolist()
    assert data.train.subset([5, 0]).shards.tolist() == data.train.shards[[5, 0]].tolist()
    with pytest.raises(UserError, match="has no shards"):
        opened("digits", shuffle="shards")


def test_the_index_is_kept_and_made_anew_when_the_tar_changes(tars, monkeypatch):
    tar = tars / "part-000.tar"
    first = open_tar(tar)
    kept = tars / "part-000.tar.jepakit.npz"
    assert kept.exists()
    monkeypatch.setattr("jepakit.modalities.images.tar_shards.index_tar", None)  # the kept one must do
    second = open_tar(tar)
    assert (first.starts.tolist(), first.names, first.labels) == (second.starts.tolist(), second.names, second.labels)
    monkeypatch.undo()
    write_samples(tar, range(4))
    assert len(open_tar(tar).starts) == 4
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(open_tar(tar).starts) == 4


def test_a_folder_that_may_not_be_written_has_its_index_in_the_cache(tars, monkeypatch, tmp_path_factory):
    import jepakit.modalities.images.tar_shards as module

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    write = module.write_atomic

    def refused(path, content):
        if path.parent == tars:
            raise PermissionError(path)
        write(path, content)

    monkeypatch.setattr(module, "write_atomic", refused)
    open_tar(tars / "part-000.tar")
    assert len(list((cache / "jepakit").iterdir())) == 1
    assert not list(tars.glob("*.npz"))
    monkeypatch.setattr(module, "index_tar", None)
    assert len(open_tar(tars / "part-000.tar").starts) == 10


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def plain(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(picture(0))
    return info


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (plain("../up.png"), "leads out of the tar"),
        (plain("a/../../up.png"), "leads out of the tar"),
        (plain("/etc/up.png"), "leads out of the tar"),
        (link("a.png", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (link("a.png", tarfile.LNKTYPE, "0.png"), "is a link"),
        (link("a.png", tarfile.CHRTYPE, ""), "not a plain file"),
        (link("a.png", tarfile.FIFOTYPE, ""), "not a plain file"),
        (plain("0.png"), "twice"),
        (plain("0.jpg"), "several pictures"),
    ],
)
def test_tars_that_lie_are_refused_and_nothing_is_written(tmp_path, info, told):
    tar = tmp_path / "odd.tar"
    with tarfile.open(tar, "w") as archive:
        for member in (plain("0.png"), info):
            archive.addfile(member, io.BytesIO(picture(0)))
    with pytest.raises(UserError, match=told) as caught:
        opened(tar)
    assert "odd.tar" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["odd.tar"]


def test_samples_that_lie_apart_are_refused(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("0.png", picture(0)), ("1.png", picture(1)), ("0.cls", b"1")])
    with pytest.raises(UserError, match="lie apart"):
        opened(tar)


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    whole = write_samples(tmp_path / "whole.tar", range(3)).read_bytes()
    end = max(place for place in range(0, len(whole), 512) if any(whole[place : place + 512])) + 512
    cut = tmp_path / "cut.tar"
    for length in range(0, end, 300):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.tar"):
            index_tar(cut)


def test_a_compressed_tar_says_so(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(plain("0.png"), io.BytesIO(picture(0)))
    with pytest.raises(UserError, match="is compressed"):
        opened(tmp_path / "a.tar")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 2**13), st.integers(0, 255)), min_size=1, max_size=4), form=st.integers(0, 2))
def test_flipped_bytes_are_a_user_error_or_read(tmp_path, changes, form):
    tar = write_samples(tmp_path / "a.tar", range(3), form)
    content = bytearray(tar.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    tar.write_bytes(content)
    with contextlib.suppress(UserError):
        index = index_tar(tar)
        assert (index.starts + index.lengths <= len(content)).all()


def test_other_archives_of_a_folder_of_pictures_are_passed_over(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    write_samples(tmp_path / "backup.tar", range(9))
    assert opened(tmp_path, test_fraction=0.0).train.ids.tolist() == [0, 1, 2, 3]
    assert find_tars(str(tmp_path)) == [tmp_path / "backup.tar"]
    assert not os.path.exists(tmp_path / "backup.tar.jepakit.npz")
