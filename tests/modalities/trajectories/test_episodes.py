import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.episodes import join_episodes, read_episodes


def arrays(steps=6, **changed):
    made = {"observations": np.arange(steps * 2.0).reshape(steps, 2), "actions": np.arange(steps * 3.0).reshape(steps, 3)}
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


def test_a_folder_is_read_in_order_of_name(tmp_path):
    for name, steps in (("b", 5), ("a", 4)):
        np.savez(tmp_path / f"{name}.npz", **arrays(steps, states=np.arange(steps)), colour=np.ones(1))
    (tmp_path / "notes.txt").write_text("not read")
    episodes, kind = read_episodes(str(tmp_path))
    assert kind == "folder"
    assert episodes.starts.tolist() == [0, 4, 9]
    assert episodes.states[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert {part.dtype for part in (episodes.observations, episodes.actions, episodes.states)} == {np.dtype(np.float32)}


def test_a_file_may_hold_several_episodes(tmp_path):
    np.savez(tmp_path / "all.npz", **arrays(6, episode=np.array([7, 7, 7, 2, 2, 5])))
    episodes, kind = read_episodes(str(tmp_path / "all.npz"))
    assert (kind, episodes.starts.tolist(), episodes.lengths.tolist()) == ("file", [0, 3, 5, 6], [3, 2, 1])
    assert episodes.states is None
    data = open_trajectories(TrajectoryDataConfig(data=str(tmp_path / "all.npz"), history=1, test_fraction=0), 0)
    assert (data.task, data.train.labels, len(data.train)) == (None, None, 3)
    assert set(data.train[0]) == {"observations", "actions", "id"}


def test_labels_are_states_too_and_vectors_may_be_columns():
    episodes = join_episodes([arrays(4, labels=np.arange(4), actions=np.arange(4))], ["a"])
    assert episodes.states.shape == episodes.actions.shape == (4, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": None}, "expected 'observations' and 'actions'"),
        ({"actions": None}, "expected 'observations' and 'actions'"),
        ({"actions": np.zeros((5, 3))}, r"one row for each of the 6 observations \(repeat the last action"),
        ({"states": np.zeros((5, 3))}, "one row for each of the 6"),
        ({"observations": np.zeros((6, 4, 4, 4))}, "no 1, 2 or 3 channels"),
        ({"observations": np.zeros(6)}, r"vectors \[steps, dim\]"),
        ({"observations": np.array(["a"] * 6)}, r"vectors \[steps, dim\]"),
        ({"observations": np.full((6, 8, 8), 255.0)}, "from 255 to 255"),
        ({"observations": np.array([[0.0], [1], [np.nan], [3], [4], [5]])}, "first at step 2"),
        ({"actions": np.full((6, 1), np.inf)}, "actions hold NaN, infinity or"),
        ({"episode": np.zeros(5)}, "one number for each of the 6 steps"),
        ({"episode": np.array([0, 0, 1, 1, 0, 0])}, "comes back"),
    ],
)
def test_arrays_that_do_not_fit(changed, message):
    with pytest.raises(UserError, match=message):
        join_episodes([arrays(**changed)], ["a.npz"])


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    for place, message in (
        ("empty", "no .npz files"), ("bad.npz", "cannot be read"), ("missing", "no built-in trajectories"),
    ):
        with pytest.raises(UserError, match=message):
            read_episodes(str(tmp_path / place))
    with pytest.raises(UserError, match=r"actions of a and b differ"):
        join_episodes([arrays(), arrays(actions=np.zeros((6, 2)))], ["a", "b"])
    with pytest.raises(UserError, match="states of a and b differ"):
        join_episodes([arrays(states=np.zeros(6)), arrays()], ["a", "b"])
    with pytest.raises(UserError, match="list of dicts"):
        open_trajectories(TrajectoryDataConfig(data="object"), 0, {"observations": np.zeros((4, 2))})
