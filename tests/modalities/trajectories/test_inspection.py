import numpy as np
import pytest
from PIL import Image

import jepakit
from jepakit.errors import UserError
from jepakit.modalities.trajectories.episode_writer import EpisodeWriter
from jepakit.modalities.trajectories.episodes import holds_trajectories


def episode(steps, number, pictures=False):
    t = np.arange(steps, dtype=np.float32)
    observations = np.stack([t, t + number], axis=1)
    if pictures:
        observations = np.random.default_rng(number).integers(0, 256, (steps, 8, 10, 3), dtype=np.uint8)
    ended = (t == steps - 2) & (number == 0)
    made = {"observations": observations, "actions": np.stack([-t, t * t], axis=1), "rewards": t, "terminated": ended}
    made["actions"][-1] = 1e6  # padding: what stands here is nobody's action
    made["rewards"][-1] = 1e6
    return made


@pytest.mark.parametrize("pictures", [False, True])
def test_a_store(tmp_path, pictures, capsys):
    with EpisodeWriter(tmp_path / "store", about={"environment": "x"}) as writer:
        writer.extend(episode(steps, number, pictures) for number, steps in enumerate((3, 5, 4)))
    found = jepakit.inspect(str(tmp_path / "store"), picture=tmp_path / "out" / "a.png")
    assert (found.kind, found.episodes, found.steps, found.shortest, found.median, found.longest) == ("store", 3, 12, 3, 4, 5)
    assert found.action_range == [(-3.0, -10 / 9, 0.0), (0.0, (1 + 14 + 5) / 9, 9.0)]
    assert found.returns == (1.0, (1 + 6 + 3) / 3, 6.0)
    assert (found.terminated, found.checked, found.about) == (1 / 3, True, {"environment": "x"})
    assert found.shapes["observations"] == ("uint8 [8, 10, 3]" if pictures else "float32 [2]")
    assert pictures or found.observation_range == (0, 5)
    assert found.to_dict()["episodes"] == 3
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("3 of 3 to 5 observations", "checksums", "33% terminated", "environment x"))
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert min(image.size) > 200
    content = bytearray((tmp_path / "store" / "rewards.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "store" / "rewards.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"rewards\.bin is damaged: episode 0"):
        jepakit.inspect(tmp_path / "store", picture=tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_what_else_holds_trajectories(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: episode(6, 0)[name] for name in ("observations", "actions")})
    np.savez(tmp_path / "images.npz", images=np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "bad.npz").write_bytes(b"")
    assert [holds_trajectories(str(tmp_path / name)) for name in ("a.npz", "images.npz", "bad.npz", "no", "")] == [
        True, False, False, False, False,
    ]  # fmt: skip
    found = jepakit.inspect(tmp_path / "a.npz", picture=tmp_path / "a.png")
    assert (found.kind, found.episodes, found.returns, found.terminated, found.checked) == ("file", 1, None, None, False)
    assert (tmp_path / "a.png").stat().st_size > 1000
    found = jepakit.inspect("pendulum", system="lewm", picture=tmp_path / "p.png")
    assert (found.kind, found.episodes) == ("pendulum", 200)
    single = [{name: array[:1] for name, array in episode(3, 0).items()}]
    with pytest.raises(UserError, match="every episode has a single observation"):
        jepakit.inspect(single, system="lewm", picture=tmp_path / "s.png")
