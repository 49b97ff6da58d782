import pickle

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.modalities.video.moving_photographs import SHARE, SHIFT, TRAIN, TURN, MovingPhotographs
from jepakit.nn.flow import carry, stays
from jepakit.nn.pyramid import FeatureMap

IDS = np.concatenate([np.arange(300), np.arange(TRAIN, TRAIN + 300)])


def test_the_known_flow_explains_the_next_frame():
    clips = MovingPhotographs(frames=3)
    gained = []
    for index in (*range(12), *range(TRAIN, TRAIN + 12)):
        clip, known = torch.from_numpy(clips.read(index)).float(), torch.from_numpy(clips.flow(index))
        flow = known.flip(0)[None]
        for time in range(2):
            first, second = clip[time : time + 1], FeatureMap(clip[time + 1 : time + 2], 1)
            inside = stays(second, flow)[0]
            moved, still = ((x - first).abs().mean(1)[0][inside].mean() for x in (carry(second, flow), second.values))
            gained.append(float(moved / still))
    assert max(gained) < 0.7  # two readings between pixels blur
    assert np.median(gained) < 0.25


def test_the_middle_of_a_frame_goes_by_the_shift_and_the_rest_turns_clockwise():
    clips, facts = MovingPhotographs(image_size=(33, 41)), MovingPhotographs(image_size=(33, 41)).facts(IDS)
    for index in range(5):
        flow = clips.flow(index)
        assert flow.shape == (2, 33, 41)
        np.testing.assert_allclose(flow[:, 16, 20], facts.shift[index], atol=1e-6)
        beside = flow[:, 16, 30] - flow[:, 16, 20]  # 10 pixels to the right goes down
        turn = facts.turn[index]
        np.testing.assert_allclose(beside, [10 * (np.cos(turn) - 1), 10 * np.sin(turn)], atol=1e-5)


def test_motions_come_evenly_and_places_stay_on_their_side():
    clips = MovingPhotographs(frames=3)
    facts = clips.facts(IDS)
    assert np.abs(facts.shift).max() <= SHIFT
    assert np.abs(facts.turn).max() <= TURN
    np.testing.assert_allclose(facts.shift.std(0), SHIFT / 3**0.5, rtol=0.1)
    np.testing.assert_allclose(facts.turn.std(), TURN / 3**0.5, rtol=0.1)
    border = SHARE * 640
    train, test = facts.middle[:300, 1], facts.middle[300:, 1]
    assert train.min() >= clips.reach
    assert train.max() <= border - clips.reach
    assert test.min() >= border + clips.reach
    assert test.max() <= 639 - clips.reach
    seen = [clips._seen(clips.facts(np.asarray([i])), time) for i in (0, TRAIN) for time in range(3)]
    assert all(places[..., 1].max() < border for places in seen[:3])
    assert all(places[..., 1].min() >= border for places in seen[3:])


def test_a_clip_is_a_function_of_seed_and_id():
    clips = pickle.loads(pickle.dumps(MovingPhotographs()))
    assert clips.read(17).shape == (2, 3, 64, 64)
    assert clips.read(17).dtype == np.uint8
    np.testing.assert_array_equal(clips.read(17), MovingPhotographs().read(17))
    np.testing.assert_array_equal(clips.read(17, frame=1), clips.read(17)[1:])
    np.testing.assert_array_equal(clips.facts(np.asarray([17])).shift[0], clips.facts(IDS).shift[17])
    assert (MovingPhotographs(seed=1).read(17) != clips.read(17)).any()


def test_mistakes():
    with pytest.raises(UserError, match="at least 16 x 16"):
        MovingPhotographs(image_size=(8, 64))
    with pytest.raises(UserError, match="Lower --frames or"):
        MovingPhotographs(frames=16)
