"""Data sets as D4RL, robomimic, Minari and LeRobot write them: files made here after their documented layouts."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import jepakit
from jepakit.errors import UserError
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.episode_store import EpisodeStore
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.episodes import read_episodes

h5py = pytest.importorskip("h5py")
LENGTHS = (5, 3, 4)


def steps(number, count):
    """Observations that say where they stand, and actions."""
    t = np.arange(count)
    return np.stack([np.full(count, number), t], axis=1).astype(np.float32), (10.0 * number + t)[:, None]


def tree(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def d4rl(**changed):
    parts = [steps(number, count) for number, count in enumerate(LENGTHS)]
    last = np.concatenate([np.arange(count) == count - 1 for count in LENGTHS])
    made = {
        "observations": np.concatenate([seen for seen, _ in parts]),
        "actions": np.concatenate([done for _, done in parts]),
        "rewards": np.zeros(sum(LENGTHS)),
        "terminals": last & (np.arange(12) < 6),
        "timeouts": last & (np.arange(12) >= 6),
        "metadata/algorithm": "random",
    }
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


def test_d4rl(tmp_path):
    episodes, kind = read_episodes(str(tree(tmp_path / "a.hdf5", d4rl())))
    assert (kind, episodes.lengths.tolist(), episodes.states) == ("d4rl", [5, 3, 4], None)
    np.testing.assert_array_equal(episodes.observations, d4rl()["observations"])
    np.testing.assert_array_equal(episodes.actions, d4rl()["actions"])
    unended = d4rl()
    unended["timeouts"][-1] = False
    assert read_episodes(str(tree(tmp_path / "b.h5", unended)))[0].lengths.tolist() == [5, 3, 4]
    following = d4rl()["observations"] + [0, 1]
    whole, _ = read_episodes(str(tree(tmp_path / "c.hdf5", d4rl(next_observations=following))))
    assert whole.lengths.tolist() == [6, 4, 5]
    assert whole.observations[:, 1].tolist() == [*range(6), *range(4), *range(5)]
    assert whole.actions[5] == 0
    assert open_trajectories(TrajectoryDataConfig(data=str(tmp_path / "c.hdf5"), history=2), 0).kind == "d4rl"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timeouts": None}, "has no timeouts: .* across resets"),
        ({"actions": np.zeros((3, 1))}, "actions do not have a row for each of 12 steps"),
        ({"actions": None}, "holds metadata, observations, rewards.* Understood are the layouts of D4RL"),
        ({"observations": np.full((12, 2), np.nan)}, "episode 0: observations hold NaN"),
    ],
)
def test_d4rl_that_does_not_fit(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        read_episodes(str(tree(tmp_path / "a.hdf5", d4rl(**changed))))


def robomimic(pictures=False):
    made = {"mask/train": np.zeros(2)}
    for number, count in [(10, 4), (2, 5), (0, 3)]:
        seen, done = steps(number, count)
        demo = f"data/demo_{number}"
        made |= {f"{demo}/obs/position": seen, f"{demo}/obs/gripper": -seen[:, :1], f"{demo}/actions": done}
        made |= {f"{demo}/states": np.tile(seen, 2), f"{demo}/rewards": seen[:, 0], f"{demo}/next_obs/position": seen}
        if pictures:
            made[f"{demo}/obs/camera"] = np.full((count, 4, 5, 3), number, np.uint8)
    return made


def test_robomimic(tmp_path):
    path = str(tree(tmp_path / "a.hdf5", robomimic()))
    episodes, kind = read_episodes(path)
    assert (kind, episodes.lengths.tolist(), episodes.states.shape) == ("robomimic", [3, 5, 4], (12, 4))
    assert episodes.observations[[0, 3, 8]].tolist() == [[0, 0, 0], [-2, 2, 0], [-10, 10, 0]]
    assert read_episodes(path, "position")[0].observations[3].tolist() == [2, 0]
    assert read_episodes(path, "position, gripper")[0].observations[3].tolist() == [2, 0, -2]
    with pytest.raises(UserError, match=r"has no 'positions'\. Did you mean 'position'"):
        read_episodes(path, "positions")
    path = str(tree(tmp_path / "b.hdf5", robomimic(pictures=True)))
    with pytest.raises(UserError, match=r"camera, gripper, position, of which camera are pictures.* --observation"):
        read_episodes(path)
    assert read_episodes(path, "camera")[0].observations.shape == (12, 3, 4, 5)
    with h5py.File(path, "a") as file:
        del file["data/demo_2/actions"]
        file["data/demo_2/actions"] = np.zeros((2, 1))
    with pytest.raises(UserError, match="demo_2/obs/ and its actions differ in length"):
        read_episodes(path, "camera")


def minari(goals=False, discrete=False):
    made = {}
    for number, count in [(10, 4), (2, 6), (0, 3)]:
        seen, done = steps(number, count)
        at = f"episode_{number}"
        made[f"{at}/actions"] = done[:-1] if not discrete else np.arange(count - 1) % 2 + 1
        made |= {f"{at}/rewards": done[:-1, 0], f"{at}/infos/state": seen, f"{at}/terminations": np.zeros(count - 1, bool)}
        names = ("observation", "achieved_goal") if goals else ("",)
        made |= {f"{at}/observations{name and '/'}{name}": seen - len(name) for name in names}
    return made


def test_minari(tmp_path):
    tree(tmp_path / "data" / "main_data.hdf5", minari())
    episodes, kind = read_episodes(str(tmp_path))
    assert (kind, episodes.lengths.tolist()) == ("minari", [3, 6, 4])
    assert episodes.observations[[0, 3, 9]].tolist() == [[0, 0], [2, 0], [10, 0]]
    np.testing.assert_array_equal(episodes.observations, episodes.states)
    assert episodes.actions[:3, 0].tolist() == [0, 1, 0]
    again, _ = read_episodes(str(tmp_path / "data" / "main_data.hdf5"))
    np.testing.assert_array_equal(again.actions, episodes.actions)


def test_minari_with_goals_and_discrete_actions(tmp_path):
    tree(tmp_path / "data" / "main_data.h5", minari(goals=True, discrete=True))
    space = json.dumps({"type": "Discrete", "dtype": "int64", "start": 1, "n": 2})
    (tmp_path / "data" / "metadata.json").write_text(json.dumps({"action_space": space}))
    episodes, _ = read_episodes(str(tmp_path))
    assert episodes.observations[0].tolist() == [-11, -11]
    assert episodes.actions[3:9].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 0]]
    assert read_episodes(str(tmp_path), "achieved_goal")[0].observations[0].tolist() == [-13, -13]
    (tmp_path / "data" / "metadata.json").write_text(json.dumps({"action_space": "{"}))
    with pytest.raises(UserError, match="action_space is not JSON"):
        read_episodes(str(tmp_path))


def test_minari_that_does_not_fit(tmp_path):
    made = minari()
    made["episode_0/actions"] = np.zeros((3, 1))
    tree(tmp_path / "data" / "main_data.hdf5", made)
    with pytest.raises(UserError, match="episode_0 has 3 observations and 3 actions"):
        read_episodes(str(tmp_path))
    space = json.dumps({"type": "Box", "shape": [4, 4, 3]})
    (tmp_path / "data" / "metadata.json").write_text(json.dumps({"observation_space": space}))
    with pytest.raises(UserError, match="JPEG, which is not read"):
        read_episodes(str(tmp_path))


def lerobot(folder, files, features=None, **columns):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    vector = {"dtype": "float32", "shape": [2]}
    seen = {"observation.state": vector, "observation.effort": vector, "action": {"dtype": "float32", "shape": [1]}}
    (folder / "meta" / "info.json").write_text(json.dumps({"features": seen | (features or {})}))
    for name, numbers in files.items():
        parts = [(*steps(number, LENGTHS[number]), np.full(LENGTHS[number], number)) for number in numbers]
        state, action, index = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        table = {"observation.state": list(state), "observation.effort": list(-state), "action": list(action)}
        table |= {"episode_index": index, "timestamp": np.arange(len(index)) / 10}
        made = pyarrow.table({name: column for name, column in {**table, **columns}.items() if column is not None})
        parquet.write_table(made, folder / "data" / "chunk-000" / name)
    return str(folder)


@pytest.mark.parametrize("files", [{f"episode_00000{n}.parquet": [n] for n in range(3)}, {"file-000.parquet": [0, 1, 2]}])
def test_lerobot(tmp_path, files):
    video = {"observation.images.top": {"dtype": "video", "shape": [3, 96, 96]}}
    path = lerobot(tmp_path, files, features=video)
    episodes, kind = read_episodes(path)
    assert (kind, episodes.lengths.tolist(), episodes.states) == ("lerobot", list(LENGTHS), None)
    np.testing.assert_array_equal(episodes.observations, np.concatenate([steps(n, c)[0] for n, c in enumerate(LENGTHS)]))
    np.testing.assert_array_equal(episodes.actions, np.concatenate([steps(n, c)[1] for n, c in enumerate(LENGTHS)]))
    assert read_episodes(path, "state,observation.effort")[0].observations[-1].tolist() == [2, 3, -2, -3]
    with pytest.raises(UserError, match=r"the cameras images\.top and the vectors effort, state\. Choose one camera"):
        read_episodes(path, "images.top,state")
    with pytest.raises(UserError, match=r"does not observe speed\. It observes effort, images\.top, state"):
        read_episodes(path, "speed")


def film(file, frames):
    """A video of exactly these frames, 10 a second, with a key frame only every fifth."""
    av = pytest.importorskip("av")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0", "g": "5"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def seen_by_camera(count):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


CAMERA = "observation.images.top"


@pytest.mark.parametrize("version", [2, 3])
def test_the_videos_of_lerobot(tmp_path, version):
    files = {f"episode_00000{n}.parquet": [n] for n in range(3)} if version == 2 else {"file-000.parquet": [0, 1, 2]}
    path = lerobot(tmp_path, files, features={CAMERA: {"dtype": "video", "shape": [16, 24, 3]}})
    frames, ends = seen_by_camera(sum(LENGTHS)), np.cumsum(LENGTHS)
    if version == 2:
        for n, part in enumerate(np.split(frames, ends[:-1])):
            film(tmp_path / "videos" / "chunk-000" / CAMERA / f"episode_00000{n}.mp4", part)
    else:
        film(tmp_path / "videos" / CAMERA / "chunk-000" / "file-000.mp4", frames)
        info = json.loads((tmp_path / "meta" / "info.json").read_text())
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
        begins = {"chunk_index": [0] * 3, "file_index": [0] * 3, "from_timestamp": (ends - LENGTHS) / 10}
        table = {"episode_index": [0, 1, 2], **{f"videos/{CAMERA}/{name}": list(values) for name, values in begins.items()}}
        (tmp_path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    episodes, _ = read_episodes(path, "images.top")
    np.testing.assert_array_equal(episodes.observations, frames.transpose(0, 3, 1, 2))
    assert episodes.lengths.tolist() == list(LENGTHS)
    video = sorted((tmp_path / "videos").rglob("*.mp4"))[0]
    film(video, frames[:1])
    with pytest.raises(UserError, match=r"images\.top of episode 0 has 1 frames, and the table \d+ steps"):
        read_episodes(path, "images.top")
    video.write_bytes(b"no video")
    with pytest.raises(UserError, match=r"\.mp4 cannot be decoded: .*Copy the file again"):
        read_episodes(path, "images.top")
    video.unlink()
    with pytest.raises(UserError, match=r"the video of episode 0\. Copy the data set again, with its videos"):
        read_episodes(path, "images.top")


def test_the_pictures_of_lerobot(tmp_path):
    frames = seen_by_camera(LENGTHS[0])
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "png")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = {CAMERA: {"dtype": "image", "shape": [16, 24, 3]}}
    path = lerobot(tmp_path / "a", {"file-000.parquet": [0]}, features=features, **{CAMERA: encoded})
    np.testing.assert_array_equal(read_episodes(path, "images.top")[0].observations, frames.transpose(0, 3, 1, 2))
    for name, data, told in (("b", b"no picture", "cannot be decoded"), ("c", b"", "has no bytes")):
        damaged = [{"bytes": data, "path": "a.png"}, *encoded[1:]]
        path = lerobot(tmp_path / name, {"file-000.parquet": [0]}, features=features, **{CAMERA: damaged})
        with pytest.raises(UserError, match=told):
            read_episodes(path, "images.top")


def test_lerobot_that_does_not_fit(tmp_path):
    mixed = lerobot(tmp_path / "a", {"file-000.parquet": [1, 0]})
    with pytest.raises(UserError, match="episode 0 stands after episode 1"):
        read_episodes(mixed)
    bare = lerobot(tmp_path / "b", {})
    with pytest.raises(UserError, match=r"no data/chunk-\*/\*.parquet"):
        read_episodes(bare)
    ragged, gap = [[1.0], [2.0], [3.0, 4.0], [5.0], [6.0]], [[1.0], None, [1.0], [1.0], [1.0]]
    for name, action in (("c", None), ("d", ragged), ("e", gap)):
        with pytest.raises(UserError, match=r"file-000\.parquet cannot be read"):
            read_episodes(lerobot(tmp_path / name, {"file-000.parquet": [0]}, action=action))
    (tmp_path / "b" / "meta" / "info.json").write_text("[]")
    with pytest.raises(UserError, match="does not describe features"):
        read_episodes(bare)


def test_files_that_are_not_followed_or_not_hdf5(tmp_path):
    tree(tmp_path / "secret.h5", {"x": np.zeros((12, 2))})
    made = d4rl(observations=None)
    tree(tmp_path / "a.h5", made)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["observations"] = h5py.ExternalLink("secret.h5", "x")
    with pytest.raises(UserError, match="observations leads to another file"):
        read_episodes(str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["observations"]
        file.create_dataset("observations", (12, 2), "f4", external=[(str(tmp_path / "secret.h5"), 0, 96)])
    with pytest.raises(UserError, match="lie in another file"):
        read_episodes(str(tmp_path / "a.h5"))
    (tmp_path / "b.h5").write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"b\.h5 cannot be read as HDF5"):
        read_episodes(str(tmp_path / "b.h5"))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for name in ("observations", "actions", "terminals", "timeouts"):
            file.create_dataset(name, (10**13, 2), "f4", chunks=(1024, 2))
    with pytest.raises(UserError, match="this machine has"):
        read_episodes(str(tmp_path / "c.h5"))
    with pytest.raises(UserError, match=r"holds no .npz files.* There is a\.h5, b\.h5, c\.h5, secret\.h5; understood are also"):
        read_episodes(str(tmp_path))


def test_packing_keeps_the_numbers_and_goes_on(tmp_path, monkeypatch):
    """A store of what was read, which holds the file's own types; killed in between, it goes on; `out` is there when all is."""
    path = tree(tmp_path / "a.hdf5", robomimic(pictures=True))
    with pytest.raises(UserError, match="Choose one picture"):
        jepakit.pack(path, tmp_path / "out")
    append, left = EpisodeWriter.append, [2]

    def dies(self, episode):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, episode)

    monkeypatch.setattr(EpisodeWriter, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        jepakit.pack(path, tmp_path / "out", observation="camera")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is an unfinished packing of"):
        jepakit.pack(path, tmp_path / "out", observation="position")
    out = jepakit.pack(path, tmp_path / "out", observation="camera")
    store, (read, _) = EpisodeStore.open(out), read_episodes(str(path), "camera")
    assert {name: str(step) for name, step in store.arrays.items()} == {
        "observations": "uint8 [4, 5, 3]", "actions": "float64 [1]", "states": "float32 [4]", "rewards": "float32 []",
    }  # fmt: skip
    packed, kind = read_episodes(str(out))
    assert kind == "store"
    for name in ("observations", "actions", "states", "starts"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(read, name))
    assert list(tmp_path.glob("*.packing")) == []
    with pytest.raises(UserError, match="is not empty"):
        jepakit.pack(path, out, observation="camera")


@pytest.mark.parametrize("kind", ["d4rl", "minari", "lerobot"])
def test_packing_of_the_others(tmp_path, kind):
    if kind == "d4rl":
        path = tree(tmp_path / "a.hdf5", d4rl())
    elif kind == "minari":
        path = tree(tmp_path / "a" / "data" / "main_data.hdf5", minari()).parents[1]
    else:
        path = lerobot(tmp_path / "a", {"file-000.parquet": [0, 1, 2]})
    packed, _ = read_episodes(str(jepakit.pack(path, tmp_path / "out")))
    read, found = read_episodes(str(path))
    assert found == kind
    for name in ("observations", "actions", "starts"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(read, name))
