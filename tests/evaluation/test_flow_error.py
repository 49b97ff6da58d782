import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.flow_error import alike_shift, end_point_error, flow_errors, mean_inside, stays_inside
from jepakit.modalities.video import VideoDataConfig, VideoInputs, open_videos


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

    exact = flow_errors(oracle, inputs, data.test.subset(range(8)))
    assert exact.flow == 0
    still = flow_errors(lambda a, b: torch.zeros_like(a[:, :2]), inputs, data.test, clips=40)
    assert still.flow == still.zero
    assert 3 < still.zero < 5
    assert 0.2 < still.best_shift < still.shift < 0.6 * still.zero


def test_mistakes():
    data = open_videos(VideoDataConfig(data="bouncing-digits", labels="none", stills="none"), 0)
    with pytest.raises(UserError, match="flow of these clips is not known"):
        flow_errors(lambda a, b: a, VideoInputs.of(data), data.test)
