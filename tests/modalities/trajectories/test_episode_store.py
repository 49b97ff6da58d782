"""The episode store: what was appended is what is read, whole episodes only, and nothing else is believed."""

import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from jepakit.errors import UserError
from jepakit.modalities.trajectories import episode_writer
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.episode_store import INDEX, EpisodeStore, Step, row_type
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.modalities.trajectories.statistics import SAMPLED


def episode(number=0, steps=6, **changed):
    t = np.arange(steps, dtype=np.float32)
    made = {
        "observations": np.stack([np.full_like(t, number), t, t * t], axis=1),
        "actions": np.stack([100.0 * number + t, -t], axis=1),
        "rewards": t - 3,
        "states": np.stack([t, -t], axis=1).astype(np.float64),
    }
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


def written(path, *episodes, **options):
    with EpisodeWriter(path, **options) as writer:
        writer.extend(episodes)
    return path


def same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype.newbyteorder("<") == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


FINE = {"shape": [3], "dtype": "<f4"}
dtypes = st.sampled_from([np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64, np.bool_, np.dtype(">f4")])


@given(st.data())
def test_what_was_appended_is_what_is_read(tmp_path_factory, data):
    """Any shape, any type of number, any lengths, in any number of sittings."""
    further = data.draw(st.lists(st.sampled_from(["rewards", "terminated", "x_1"]), unique=True))
    schema = {
        name: (data.draw(dtypes), tuple(data.draw(st.lists(st.integers(1, 3), max_size=3))))
        for name in ("observations", "actions", *further)
    }

    def draw(dtype, shape):
        if np.dtype(dtype).kind != "f":
            return data.draw(arrays_of.arrays(dtype, shape))
        numbers = st.floats(allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize)
        return data.draw(arrays_of.arrays(dtype, shape, elements=numbers))

    lengths = data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    episodes = [{name: draw(dtype, (steps, *shape)) for name, (dtype, shape) in schema.items()} for steps in lengths]
    path = tmp_path_factory.mktemp("store")
    cut = data.draw(st.integers(0, len(episodes)))
    for sitting in (episodes[:cut], episodes[cut:]):
        with EpisodeWriter(path, sync=False) as writer:
            for one in sitting:
                writer.append(one)
    store = EpisodeStore.open(path)
    assert (len(store), store.lengths.tolist(), store.starts[-1]) == (len(lengths), lengths, sum(lengths))
    assert store.bytes == sum(array.nbytes for one in episodes for array in one.values())
    for one, found in zip(episodes, store, strict=True):
        same(one, found)
    store.verify()
    same(pickle.loads(pickle.dumps(store))[0], store[0])


def test_a_reader_sees_whole_episodes_while_a_writer_appends(tmp_path):
    with EpisodeWriter(tmp_path, about={"environment": "x"}) as writer:
        writer.append(episode(0))
        early = EpisodeStore.open(tmp_path)
        with open(early.file("observations"), "ab") as handle:
            handle.write(b"half an episode")
        assert len(EpisodeStore.open(tmp_path)) == 1
        writer.append(episode(1))
        assert (len(early), len(EpisodeStore.open(tmp_path))) == (1, 2)
        with pytest.raises(UserError, match="Another process writes"):
            EpisodeWriter(tmp_path)
    assert early.about == {"environment": "x"}
    same(early[0], {name: np.asarray(array) for name, array in episode(0).items()})
    with pytest.raises(ValueError, match="read-only"):
        early.array("actions")[0] = 1


@pytest.mark.parametrize("torn", range(row_type(dict.fromkeys("ab", Step((), np.dtype("<f4")))).itemsize))
def test_a_torn_row_and_data_beyond_the_index_are_ignored_and_cut_off(tmp_path, torn):
    part = {name: episode()[name] for name in ("observations", "actions")}
    written(tmp_path, part, part)
    size = (tmp_path / INDEX).stat().st_size
    row = (tmp_path / INDEX).read_bytes()[: size // 2]
    with open(tmp_path / INDEX, "ab") as handle:
        handle.write(row[:torn])
    with open(tmp_path / "actions.bin", "ab") as handle:
        handle.write(b"12345")
    assert len(EpisodeStore.open(tmp_path)) == 2
    with EpisodeWriter(tmp_path) as writer:
        assert (tmp_path / INDEX).stat().st_size == size
        assert (tmp_path / "actions.bin").stat().st_size == 2 * part["actions"].nbytes
        writer.append({**part, "actions": part["actions"] + 1})
    np.testing.assert_array_equal(EpisodeStore.open(tmp_path)[2]["actions"], part["actions"] + 1)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damage_is_named(tmp_path):
    written(tmp_path, episode(0), episode(1))
    flip(tmp_path / "rewards.bin", -1)
    with pytest.raises(UserError, match=r"rewards\.bin is damaged: episode 1 .* Copy it again"):
        EpisodeStore.open(tmp_path).verify()
    flip(tmp_path / INDEX, 0)
    for reader in (EpisodeStore.open, EpisodeWriter):
        with pytest.raises(UserError, match="the row of episode 0 is not what was written"):
            reader(tmp_path)
    flip(tmp_path / INDEX, 0)
    (tmp_path / "rewards.bin").write_bytes(b"1234")
    for reader in (EpisodeStore.open, EpisodeWriter):
        with pytest.raises(UserError, match=r"rewards\.bin has 4 bytes, the index needs 48"):
            reader(tmp_path)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"format": "other"}, "does not say that it is of the format"),
        ({"version": 2}, "version 2 of the format"),
        ({"arrays": {}}, "arrays are not described"),
        ({"arrays": {"observations": {"shape": [3], "dtype": "O"}, "actions": FINE}}, "'observations'"),
        ({"arrays": {"observations": {"shape": [-3], "dtype": "<f4"}, "actions": FINE}}, "'observations'"),
        ({"arrays": {"observations": FINE, "actions": None}}, "'actions'"),
    ],
)
def test_descriptions_that_cannot_be(tmp_path, described, message):
    written(tmp_path, episode())
    found = json.loads((tmp_path / "store.json").read_text("utf-8"))
    (tmp_path / "store.json").write_text(json.dumps(found | described), "utf-8")
    with pytest.raises(UserError, match=message):
        EpisodeStore.open(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actions": None}, "'observations' and 'actions' must be there"),
        ({"observations": np.zeros((1, 3), np.float32)}, "has 1 observations, and an action needs one before and one after"),
        ({"observations": np.float32(3)}, "has 0 observations"),
        ({"actions": np.zeros((5, 2))}, "one row for each of the 6 observations"),
        ({"rewards": np.full(6, np.nan)}, "rewards hold NaN or infinity, first at step 0"),
        ({"rewards": np.zeros(6, np.float64)}, r"rewards are float64 \[\], and in the store float32 \[\]"),
        ({"observations": np.zeros((6, 4), np.float32)}, r"observations are float32 \[4\], and in the store float32 \[3\]"),
        ({"rewards": None}, "rewards are not there, and in the store"),
        ({"extra": np.zeros(6)}, "extra are float64 .* and in the store not there"),
        ({"../x": np.zeros(6)}, "no name of an array"),
        ({"rewards": np.array(["a"] * 6)}, "expected numbers"),
    ],
)
def test_episodes_that_do_not_fit_leave_the_store_as_it_was(tmp_path, changed, message):
    written(tmp_path, episode(0))
    with EpisodeWriter(tmp_path) as writer:
        with pytest.raises(UserError, match=message):
            writer.extend([episode(1), episode(2, **changed)])
        writer.append(episode(3))
    store = EpisodeStore.open(tmp_path)
    assert store.array("observations")[:, 0].tolist() == [0] * 6 + [3] * 6


def test_folders_that_hold_no_store(tmp_path):
    with pytest.raises(UserError, match="is no episode store"):
        EpisodeStore.open(tmp_path / "missing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no episode store"):
        EpisodeWriter(tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        EpisodeWriter(tmp_path / "mine" / "notes.txt")
    with EpisodeWriter(tmp_path / "new") as writer, pytest.raises(UserError, match="NaN"):
        writer.append(episode(observations=np.full((6, 2), np.nan)))
    with EpisodeWriter(tmp_path / "new") as writer:
        writer.append(episode())
    (tmp_path / "new" / INDEX).write_bytes(b"")
    with pytest.raises(UserError, match="holds no episodes yet"):
        open_trajectories(TrajectoryDataConfig(data=str(tmp_path / "new")), 0)


@pytest.mark.parametrize("kind", ["vectors", "float64 vectors", "pictures, channels last", "grey floats"])
def test_windows_of_a_store_are_those_of_the_arrays(tmp_path, kind):
    draws = np.random.default_rng(0)
    make = {
        "vectors": lambda n: draws.normal(size=(n, 3)).astype(np.float32),
        "float64 vectors": lambda n: draws.normal(size=(n, 3)),
        "pictures, channels last": lambda n: draws.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8),
        "grey floats": lambda n: draws.random((n, 4, 5)),
    }[kind]
    episodes = [episode(n, steps, observations=make(steps)) for n, steps in enumerate((9, 3, 12, 8, 10))]
    config = {"history": 2, "horizon": 2, "frame_skip": 2, "label_column": 1}
    stored = open_trajectories(TrajectoryDataConfig(data=str(written(tmp_path, *episodes)), **config), 0)
    given = open_trajectories(TrajectoryDataConfig(data="object", **config), 0, episodes)
    assert (stored.kind, stored.task, stored.notes) == ("store", given.task, given.notes)
    assert TrajectoryInputs.of(stored) == TrajectoryInputs.of(given)
    again = pickle.loads(pickle.dumps(stored))
    assert len(pickle.dumps(stored.train.episodes)) < 500
    for part in ("train", "test"):
        expected = getattr(given, part)
        for found in (getattr(stored, part), getattr(again, part)):
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.labels.tolist() == expected.labels.tolist()
            for one, other in ((found[i], expected[i]) for i in range(len(expected))):
                assert set(one) == set(other)
                for name in ("observations", "actions", "state"):
                    assert one[name].dtype == other[name].dtype
                    torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
                assert (one["label"], one["id"]) == (other["label"], other["id"])
    written(tmp_path, episode(9, observations=make(6)))
    assert len(pickle.loads(pickle.dumps(again)).train.episodes.lengths) == 5
    grown = open_trajectories(TrajectoryDataConfig(data=str(tmp_path), **config), 0)
    assert grown.fingerprint != stored.fingerprint


def test_scales_of_a_large_store_come_from_a_sample_of_its_steps(tmp_path):
    """The same each time, near those of all steps, and the padding of the last action is not among them."""
    draws = np.random.default_rng(0)
    with EpisodeWriter(tmp_path, sync=False) as writer:
        for _ in range(40):
            actions = draws.normal(2, 3, (300, 1))
            actions[-1] = 1e9
            writer.append({"observations": draws.normal(5, 2, (300, 3)).astype(np.float32), "actions": actions})
    data = open_trajectories(TrajectoryDataConfig(data=str(tmp_path)), 0)
    assert len(data.train) > 2 * SAMPLED
    read = []
    data.train.episodes.store.touched = lambda count, pieces: read.append(count)
    inputs = TrajectoryInputs.of(data)
    assert read == [SAMPLED * 3 * 4, SAMPLED * 8]
    np.testing.assert_allclose([*inputs.mean, *inputs.std], [5] * 3 + [2] * 3, atol=0.15)
    np.testing.assert_allclose([*inputs.action_mean, *inputs.action_std], [2, 3], atol=0.2)
    assert TrajectoryInputs.of(open_trajectories(TrajectoryDataConfig(data=str(tmp_path)), 1)) == inputs
    read.clear()
    _ = data.train[1000]
    assert read == [3 * 8, 4 * 3 * 4]


WRITER = """
import sys
import numpy as np
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter

with EpisodeWriter(sys.argv[1], sync=False) as writer:
    while True:
        number = len(writer)
        rows = np.full((2 + number % 50, 100), number, np.int32)
        writer.append({"observations": rows, "actions": rows[:, :1]})
        print(number, flush=True)
"""


@pytest.mark.parametrize("milliseconds", [1, 5, 20])
def test_a_killed_writer_loses_no_finished_episode(tmp_path, milliseconds):
    said = -1
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert int(process.stdout.readline()) == said + 1
        time.sleep(milliseconds / 1000)
        process.kill()
        lines = process.stdout.read().splitlines()
        process.wait()
        said = max(said + 1, *(int(line) for line in lines if line))
        store = EpisodeStore.open(tmp_path)
        assert len(store) in (said + 1, said + 2)  # one more may have been whole before it could be said
        said = len(store) - 1
        store.verify()
        for number in {0, said // 2, said}:
            assert (store[number]["observations"] == number).all()
            assert store.lengths[number] == 2 + number % 50


@given(st.data())
def test_a_store_with_any_byte_changed_is_refused_or_cut(tmp_path_factory, data):
    """What is read after damage is a beginning of what was written, or nothing; never other numbers, never a crash."""
    path = tmp_path_factory.mktemp("store")
    episodes = [episode(number, 3 + number) for number in range(3)]
    written(path, *episodes, sync=False)
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    content = bytearray(file.read_bytes())
    if content and data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content)))]
    file.write_bytes(content)
    try:
        store = EpisodeStore.open(path)
        found = list(store)
    except UserError:
        return
    if file.name == "store.json":  # a name or a type may have changed into another that fits
        return
    for one, other in zip(found, episodes, strict=False):
        same({name: np.asarray(array) for name, array in other.items()}, one)


@pytest.mark.parametrize("writes", range(5))
def test_a_full_disk_costs_the_episode_alone(tmp_path, monkeypatch, writes):
    """The write that fails leaves half of its bytes; the same writer goes on when there is room again, another one too."""
    whole, left = episode_writer._write, [writes]

    def half(file, content):
        if left[0] == 0:
            file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        left[0] -= 1
        whole(file, content)

    for again in (False, True):
        with EpisodeWriter(tmp_path) as writer:
            writer.append(episode(0))
            left[0] = writes
            monkeypatch.setattr(episode_writer, "_write", half)
            with pytest.raises(OSError, match="No space left"):
                writer.append(episode(1, steps=20))
            monkeypatch.undo()
            if again:
                writer.append(episode(2))
    store = EpisodeStore.open(tmp_path)
    store.verify()
    assert [int(one["observations"][0, 0]) for one in store] == [0, 0, 2]
