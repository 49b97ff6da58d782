import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.evaluation.flow_error import alike_shift, end_point_error, flow_errors, flow_rows, mean_inside, stays_inside
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.inputs import VideoInputs


def test_the_error_is_a_distance_and_leaves_out_what_leaves_the_frame():
    known = torch.zeros(1, 2, 3, 4)
    known[:, 0], known[:, 1] = 1.0, 2.0  # right, down
    assert torch.equal(end_point_error(known, known), torch.zeros(1, 3, 4))
    guess = known + torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    assert torch.equal(end_point_error(guess, known), torch.full((1, 3, 4), 5.0))
    valid = stays_inside(known)
    assert valid[0].tolist() == [[True, True, True, False], [False] * 4, [False] * 4]
    values = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert mean_inside(values, valid).item() == 1
    assert mean_inside(values, torch.zeros_like(valid)).item() == 0


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-4, 1)])
def test_the_shift_that_makes_two_frames_alike(shift):
    first = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    second = torch.roll(first, (shift[1], shift[0]), dims=(2, 3))
    assert alike_shift(first, second, 5).tolist() == [list(map(float, shift))] * 2


def test_errors_on_moving_photographs():
    data = open_videos(VideoDataConfig(data="moving-photographs", stills="none", image_size=(32, 32)), 0)
    inputs = VideoInputs.of(data)
    source = data.test.clips
    known = {}

    def oracle(first, second):  # asked in order
        start = known.setdefault("asked", 0)
        known["asked"] += len(first)
        ids = data.test.ids[:8][start : start + len(first)]
        return torch.stack([torch.from_numpy(source.flow(int(i))) for i in ids])

    def still(first, second):
        return torch.zeros_like(first[:, :2])

    found = flow_errors({"exact": oracle}, inputs, data.test.subset(range(8)))
    assert found["exact"].tolist() == [0] * 8
    found = flow_errors({"still": still}, inputs, data.test, clips=40)
    assert found["still"].tolist() == found["no motion"].tolist()
    assert 3 < found["no motion"].mean() < 5
    assert 0.2 < found["best shift"].mean() < found["one shift"].mean() < 0.6 * found["no motion"].mean()
    known.clear()
    rows = flow_rows({"exact": oracle, "still": still}, inputs, data.test.subset(range(8)))
    assert [row.features for row in rows] == ["exact", "still", "no motion", "one shift"]
    assert rows[0].value == rows[0].high == 0 < rows[1].low < rows[1].value
    assert rows[1].detail["difference"]["high"] < 0


def test_a_run_of_mc_jepa_is_measured_at_its_end(tmp_path, capsys):
    tiny = {"data": "moving-photographs", "stills": "none", "image_size": (32, 32), "limit": 32, "steps": 1, "batch_size": 8}
    run = jepakit.pretrain("mc-jepa", out=tmp_path / "run", threads=1, device="cpu", **tiny)
    assert [row.features for row in run.rows] == ["encoder", "random init", "no motion", "one shift"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "End-point error of the flow" in page
    for options, words in (
        ({"data": "bouncing-digits"}, "the motion in bouncing-digits is not known"),
        ({"evaluators": ["flows"]}, "Did you mean 'flow'"),
    ):
        with pytest.raises(UserError, match=words):
            jepakit.evaluate(run.out, **{"evaluators": ["flow"], **options})


def test_mistakes():
    data = open_videos(VideoDataConfig(data="bouncing-digits", labels="none", stills="none"), 0)
    with pytest.raises(UserError, match="flow of these clips is not known"):
        flow_errors({"any": lambda a, b: a}, VideoInputs.of(data), data.test)
