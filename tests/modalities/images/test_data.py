from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import in_pieces, open_images, stack_images
from jepakit.modalities.images.decoding import UnreadableImage
from tests.modalities.photographs import make_photographs, scene


def fill(root: Path, *names: str, size: tuple[int, int] = (12, 10)) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def opened(root: Path, seed: int = 0, **options):
    return open_images(ImageDataConfig(data=str(root), **options), seed)


def read_all(root: Path) -> None:
    data = opened(root)
    for part in (data.train, data.test):
        for index in range(len(part)):
            part[index]


def everything(data) -> list[str]:
    return sorted([*data.train.paths, *data.test.paths])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"), per_class=10)


def test_bad_files_are_listed_with_the_remedy(photographs):
    with pytest.raises(UserError) as caught:
        opened(photographs)
    message = str(caught.value)
    assert "2 of 22 image files" in message
    assert "torn.jpg" in message
    assert "fake.png: it is not an image" in message
    assert "--on-bad-file skip" in message


def test_mixed_photographs(photographs):
    data = opened(photographs, on_bad_file="skip")
    assert {Path(bad.path).name for bad in data.bad_files} == {"torn.jpg", "fake.png"}
    assert (data.classes, data.task, data.kind) == (["moons", "roofs"], "classification", "folder")
    assert (data.config.image_size, data.config.channels) == ((48, 64), 3)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert any("not images: 1" in note for note in data.notes)
    samples = [data.train[index] for index in range(len(data.train))]
    assert {str(sample["image"].dtype) for sample in samples} == {"torch.uint8", "torch.float32"}
    for part in (data.train, data.test):
        for index in range(len(part)):
            sample = part[index]
            assert sample["image"].shape == (3, 48, 64)
            name = Path(part.paths[index])
            assert data.classes[sample["label"]] == name.parent.name
            if name.stem >= "003" and name.stem != "004":  # as drawn, up to JPEG; not grey, not RGBA, not palette
                drawn = scene(name.parent.name, 48, int(name.stem)).astype(float)
                assert np.abs(sample["image"].numpy().transpose(1, 2, 0) - drawn).mean() < 12


def test_canvas(photographs):
    data = opened(photographs, on_bad_file="skip")
    canvas, sizes = stack_images([data.train[index] for index in range(len(data.train))])
    assert canvas.dtype == torch.float32
    assert canvas.min() >= 0
    assert 0.9 < canvas.max() <= 1
    images = [torch.full((1, 3, 5), 255, dtype=torch.uint8), torch.full((1, 4, 2), 0.5)]
    canvas, sizes = stack_images([{"image": image} for image in images])
    assert canvas.shape == (2, 1, 4, 5)
    assert sizes.tolist() == [[3, 5], [4, 2]]
    assert canvas.sum(dim=(1, 2, 3)).tolist() == [15.0, 4.0]


def test_mean_and_std_are_of_the_training_pixels(tmp_path):
    data = opened(fill(tmp_path, *[f"{index}.png" for index in range(20)]))
    pixels = torch.stack([data.train[index]["image"] for index in range(len(data.train))]).double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())


def test_all_sizes_and_channels(tmp_path):
    small = fill(tmp_path / "small", "a.png", "b.png", size=(20, 64))
    assert opened(small).config.image_size == (20, 64)
    fill(tmp_path / "mixed", "a.png", size=(20, 64))
    assert opened(fill(tmp_path / "mixed", "sub/b.png", size=(20, 60))).config.image_size == (96, 96)
    large = fill(tmp_path / "large", "a.png", "b.png", size=(300, 200))
    data = opened(large)
    assert data.config.image_size == (96, 96)
    assert data.train[0]["image"].shape == (3, 165, 110)
    data = opened(large, image_size=(40, 80), channels=1)
    assert data.train[0]["image"].shape == (1, 92, 92)  # 138 rows would cover; no more than twice 46 are kept
    grey = tmp_path / "grey"
    grey.mkdir()
    for name in ("1", "2"):
        Image.new("RGB", (9, 9), (7, 7, 7)).save(grey / f"{name}.jpg")
    assert opened(grey).config.channels == 1
    assert opened(grey, channels=3).train[0]["image"].shape == (3, 9, 9)


def test_labels_need_every_picture_in_a_folder(tmp_path):
    fill(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/er/2.png")
    assert opened(tmp_path).classes == ["cat", "dog"]
    assert opened(tmp_path, labels="none").task is None
    assert "label" not in opened(tmp_path, labels="none").train[0]
    fill(tmp_path, "loose.png")
    assert opened(tmp_path).task is None


@pytest.mark.parametrize("held_out", ["test", "val", "Valid"])
def test_split_folders(tmp_path, held_out):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", f"{held_out}/a/3.png", "elsewhere/4.png")
    data = opened(tmp_path)
    assert [Path(path).name for path in data.test.paths] == ["3.png"]
    assert len(data.train) == 2
    assert data.classes == ["a", "b"]
    assert any(note.endswith(": 1.") and "outside" in note for note in data.notes)


def test_test_wins_over_val(tmp_path):
    fill(tmp_path, "train/1.png", "val/2.png", "test/3.png")
    assert [Path(path).name for path in everything(opened(tmp_path))] == ["3.png", "1.png"]


def test_csv_labels_and_groups(tmp_path):
    names = [f"{index}.png" for index in range(30)]
    fill(tmp_path, *names)
    csv = tmp_path / "labels.csv"
    csv.write_text("path,label,patient\n" + "".join(f"{name},{i % 2},{i // 3}\n" for i, name in enumerate(names)))
    data = opened(tmp_path, labels=str(csv), group_by="patient")
    sides = [{int(Path(path).stem) // 3 for path in part.paths} for part in (data.train, data.test)]
    assert not sides[0] & sides[1]
    assert len(data.test) == 6
    for part in (data.train, data.test):
        assert [int(Path(path).stem) % 2 for path in part.paths] == part.labels.tolist()
    csv.write_text("path,label\n" + "".join(f"{name},{i / 7}\n" for i, name in enumerate(names)))
    data = opened(tmp_path, labels=str(csv))
    assert data.task == "regression"
    assert data.train.labels.dtype == np.float64


def test_csv_with_bad_files(photographs, tmp_path):
    rows = [f"{path.relative_to(photographs)},{path.parent.name[0]}" for path in photographs.glob("*/*")]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    data = opened(photographs, labels=str(tmp_path / "labels.csv"), on_bad_file="skip")
    for part in (data.train, data.test):
        assert [Path(path).parent.name[0] for path in part.paths] == [data.classes[label] for label in part.labels]


def test_groups_from_the_path(tmp_path):
    fill(tmp_path, *[f"{c}/scene{s}/{i}.png" for c in "ab" for s in range(5) for i in range(3)])
    data = opened(tmp_path, group_by="path:1")
    assert not {Path(path).parent.name for path in data.train.paths} & {
        Path(path).parent.name for path in data.test.paths
    }
    for wrong, message in (
        ("path:0", "label itself"),
        ("path:2", "no folder number 2"),
        ("path:x", "path:0"),
        ("patient", "--labels"),
    ):
        with pytest.raises(UserError, match=message):
            opened(tmp_path, group_by=wrong)


def test_the_split_and_the_data_do_not_depend_on_the_seed_but_the_limit_does(tmp_path):
    fill(tmp_path, *[f"{index:02}.png" for index in range(40)])
    first, second = opened(tmp_path, seed=0), opened(tmp_path, seed=1)
    assert first.train.paths == second.train.paths
    assert first.fingerprint == second.fingerprint
    drawn = [opened(tmp_path, seed=seed, limit=8) for seed in (0, 0, 1)]
    assert drawn[0].train.paths == drawn[1].train.paths != drawn[2].train.paths
    assert set(drawn[0].train.paths) < set(first.train.paths)
    assert drawn[0].test.paths == first.test.paths
    sample = drawn[0].train[0]
    assert sorted(everything(first)).index(drawn[0].train.paths[0]) == sample["id"]
    assert first.train.subset([3, 1]).paths == [first.train.paths[3], first.train.paths[1]]
    assert first.train.subset([3])[0]["id"] == first.train[3]["id"]


def test_the_fingerprint_sees_changes(tmp_path):
    fill(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    prints = [opened(tmp_path).fingerprint, opened(tmp_path, labels="none").fingerprint]
    prints.append(opened(tmp_path, test_fraction=0.5).fingerprint)
    (tmp_path / "b" / "4.png").rename(tmp_path / "b" / "5.png")
    prints.append(opened(tmp_path).fingerprint)
    assert len(set(prints)) == 4
    (tmp_path / "b" / "5.png").rename(tmp_path / "b" / "4.png")
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    assert opened(moved).fingerprint == prints[0]


def test_strange_but_fine(tmp_path):
    fill(tmp_path, "naïve/猫.png", "b/x.PNG", size=(1, 1))
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    data = opened(tmp_path)
    assert data.classes == ["b", "naïve"]
    assert data.config.image_size == (1, 1)
    assert len(everything(data)) == 2


def test_nothing_held_out(tmp_path):
    data = opened(fill(tmp_path, "only.png"), test_fraction=0.0)
    assert (len(data.train), len(data.test)) == (1, 0)


def test_workers_and_pickling(photographs):
    data = opened(photographs, on_bad_file="skip")
    assert len(pickle.dumps(data.train)) < 20_000  # paths, no pixels
    loader = DataLoader(
        data.train, batch_size=8, num_workers=1, multiprocessing_context="spawn", collate_fn=stack_images
    )
    with_workers = torch.cat([canvas for canvas, _ in loader])
    here = stack_images([data.train[index] for index in range(len(data.train))])[0]
    assert torch.equal(with_workers, here)


def test_without_decoding_first_a_torn_file_stops_by_name(photographs, monkeypatch):
    monkeypatch.setattr("jepakit.modalities.images.survey._DECODE_FIRST", 5)
    monkeypatch.setattr("jepakit.modalities.images.survey._CACHE_BYTES", 0)
    (photographs / "roofs" / "fake.png").rename(photographs / "roofs" / "fake.txt")
    try:
        with pytest.raises(UnreadableImage, match=r"torn\.jpg"):
            read_all(photographs)
        assert len(opened(photographs, on_bad_file="skip").bad_files) == 1
    finally:
        (photographs / "roofs" / "fake.txt").rename(photographs / "roofs" / "fake.png")


def test_small_sets_are_decoded_once(tmp_path):
    data = opened(fill(tmp_path, "1.png", "2.png", "3.png"))
    for path in data.train.paths:
        Path(path).unlink()
    assert data.train[0]["image"].shape == (3, 12, 10)
    with pytest.raises(UnreadableImage, match="does not exist"):
        pickle.loads(pickle.dumps(data.train))[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [("digit", "Did you mean 'digits'"), ("{root}/foto", "Did you mean 'fotos'"), ("/nowhere/x", "Built in: digits"),
     ("{root}/notes.txt", "not understood"), ("{root}/fotos", r"\.jpg, \.pbm"), ("hf:{root}/fotos", "save_to_disk")],
)  # fmt: skip
def test_what_is_not_there(tmp_path, data, message):
    (tmp_path / "fotos").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=message):
        open_images(ImageDataConfig(data=data.format(root=tmp_path)), 0)


def test_all_files_bad(tmp_path):
    (tmp_path / "1.png").write_text("")
    for policy in ("error", "skip"):
        with pytest.raises(UserError, match=r"1 image files can"):
            opened(tmp_path, on_bad_file=policy)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"image_size": (0, 5)}, "image_size"), ({"channels": 4}, "channels"), ({"test_fraction": 1.0}, "test_fraction"),
     ({"on_bad_file": "ignore"}, "on_bad_file"), ({"limit": 0}, "limit"), ({"value_range": (1.0, 0.0)}, "value_range")],
)  # fmt: skip
def test_mistakes_are_named(options, named):
    with pytest.raises(UserError, match=named):
        ImageDataConfig(data="digits", **options)


def test_a_batch_made_in_pieces_is_the_batch_made_at_once(photographs):
    data = opened(photographs, on_bad_file="skip", image_size=(40, 40))
    samples = [data.train[i] for i in range(16)]

    def make(few):
        canvas, sizes = stack_images(few)
        return {"means": canvas.sum(dim=(2, 3)), "sizes": sizes}

    at_once = make(samples)
    for size in ((4, 4), (40, 40), (300, 300)):
        pieces = in_pieces(make, samples, size)
        torch.testing.assert_close(pieces, at_once)
