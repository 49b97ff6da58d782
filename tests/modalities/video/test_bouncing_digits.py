import pickle

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from jepakit.errors import UserError
from jepakit.modalities.images.arrays import digits
from jepakit.modalities.video.bouncing_digits import AHEAD, DIRECTIONS, TRAIN, BouncingDigits

IDS = np.arange(400)


def test_a_clip_shows_what_is_known_of_it():
    clips = BouncingDigits()
    facts = clips.facts(IDS)
    for index in IDS[:40]:
        clip = clips.read(int(index))
        assert clip.shape == (8, 1, 32, 32)
        assert clip.dtype == np.uint8
        for frame, (top, left) in zip(clip[:, 0], facts.position[index], strict=True):
            box = frame[top : top + 12, left : left + 12]
            assert box.shape == (12, 12)
            assert frame.sum() == box.sum() > 0  # nothing is cut off, nothing is beside it
            np.testing.assert_array_equal(box, clip[0, 0][tuple(slice(p, p + 12) for p in facts.position[index, 0])])
        np.testing.assert_array_equal(clips.read(int(index), frame=5), clip[5:6])


def test_digits_move_along_their_direction_and_bounce():
    facts = BouncingDigits().facts(IDS)
    steps = np.diff(facts.position, axis=1)
    along = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    turned = 0
    for index in IDS:
        vector = np.asarray(along[DIRECTIONS[facts.direction[index]]])
        assert (steps[index] @ (1 - np.abs(vector)) == 0).all()  # the other axis stands still
        forward = steps[index] @ vector
        assert np.abs(forward).max() <= 3
        middle = forward[3]
        edge = facts.position[index].min() <= 2 or facts.position[index].max() >= 18
        assert middle >= 0 or edge
        turned += (np.sign(forward[forward != 0]) < 0).any()
    assert 0.2 < turned / len(IDS) < 0.7
    assert facts.position.min() >= 0
    assert facts.position.max() <= 20


def test_a_mask_is_where_the_digit_is_seen():
    clips = BouncingDigits()
    for index in IDS[:20]:
        mask, clip = clips.mask(int(index)), clips.read(int(index))[:, 0]
        np.testing.assert_array_equal(mask, clip >= 64)
        assert 0.3 < mask[0].sum() / (clips.side**2) < 0.9
    noisy = BouncingDigits(noise=0.1)
    np.testing.assert_array_equal(noisy.mask(3), clips.mask(3))  # noise hides it, the truth is the same


def test_velocity_and_future_are_those_of_the_same_motion_in_a_longer_clip():
    facts = BouncingDigits(frames=8).facts(IDS)
    longer = BouncingDigits(frames=16).facts(IDS)  # the middle is the same, so that the clip begins 4 frames earlier
    np.testing.assert_array_equal(longer.position[:, 4:12], facts.position)
    np.testing.assert_array_equal(longer.position[:, 11 + AHEAD], facts.future)
    speed = np.abs(facts.velocity).sum(axis=1)
    assert ((facts.velocity == 0).sum(axis=1) == 1).all()
    assert 1 <= speed.min() < speed.max() <= 2.5
    seen = longer.position[:, 12] - longer.position[:, 11]
    free = ((longer.position[:, 10:14] > 2) & (longer.position[:, 10:14] < 18)).all(axis=(1, 2))  # turns near no edge
    assert free.sum() > 50
    assert np.abs(seen - facts.velocity)[free].max() <= 1  # both places are rounded
    turned = (np.sign(facts.velocity) != np.sign(np.asarray([(0, 1), (1, 0), (0, -1), (-1, 0)])[facts.direction])).any(axis=1)
    assert 0.1 < turned.mean() < 0.5


def test_digits_and_directions_come_evenly_and_independently():
    facts = BouncingDigits().facts(np.arange(TRAIN))
    table = np.zeros((10, 4))
    np.add.at(table, (facts.digit, facts.direction), 1)
    expected = TRAIN / 40
    assert ((table - expected) ** 2 / expected).sum() < 39 + 5 * (2 * 39) ** 0.5  # chi-squared, 39 degrees of freedom


def test_held_out_clips_show_held_out_handwriting():
    clips = BouncingDigits()
    facts, (arrays, held_out) = clips.facts(np.arange(len(clips))), digits()
    assert not set(facts.sprite[:TRAIN]) & set(facts.sprite[TRAIN:])
    assert not held_out[facts.sprite[:TRAIN]].any()
    np.testing.assert_array_equal(facts.digit, arrays.labels[0][facts.sprite])


def test_a_clip_is_a_function_of_seed_and_id():
    clips = pickle.loads(pickle.dumps(BouncingDigits()))
    np.testing.assert_array_equal(clips.read(17), BouncingDigits().read(17))
    assert (clips.facts(np.asarray([17])).position == clips.facts(IDS).position[17]).all()
    assert (BouncingDigits(seed=1).read(17) != clips.read(17)).any()
    assert (clips.read(18) != clips.read(17)).any()


def test_other_sizes():
    clips = BouncingDigits(frames=3, image_size=(24, 48))
    assert clips.read(0).shape == (3, 1, 24, 48)
    assert clips.side == 9
    rows, columns = zip(*(center_of_mass(clips.read(int(i))[1, 0]) for i in IDS[:200]), strict=True)
    assert max(rows) < 24 - 3
    assert max(columns) > 38  # the width is used
    with pytest.raises(UserError, match="at least 16 x 16"):
        BouncingDigits(image_size=(12, 32))


def test_noise_is_another_in_every_frame_and_hides_no_facts():
    plain, noisy = BouncingDigits(), BouncingDigits(noise=0.1)
    np.testing.assert_array_equal(noisy.facts(IDS).position, plain.facts(IDS).position)
    ground, brightest = [], []
    for index in range(60):
        clip, shown = noisy.read(index).astype(float), plain.read(index)
        np.testing.assert_array_equal(noisy.read(index), clip)
        np.testing.assert_array_equal(noisy.read(index, frame=3), clip[3:4])
        ground.append(clip[shown == 0])
        brightest.append(clip[shown > 240].mean() / 255 if (shown > 240).any() else np.nan)
    ground = np.concatenate(ground) / 255
    assert abs(ground.mean() - 0.25) < 0.005
    assert abs(ground.std() - 0.1) < 0.005
    assert np.nanmin(brightest) < 0.62  # 0.25 + 0.6 * 0.5 to 0.25 + 0.6
    assert np.nanmax(brightest) > 0.78
    assert (noisy.read(0)[0] != noisy.read(0)[1]).mean() > 0.9
    assert (BouncingDigits(noise=0.1, seed=1).read(0) != noisy.read(0)).mean() > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_impossible_events(noise):
    clips, plain = BouncingDigits(noise=noise), BouncingDigits()
    facts = plain.facts(IDS)
    for index in IDS[:20]:
        clip = clips.read(int(index))
        for kind in ("teleport", "vanish"):
            np.testing.assert_array_equal(clips.read(int(index), event=(kind, 4))[:4], clip[:4])
        assert not plain.read(int(index), event=("vanish", 4))[4:].any()
        frame = plain.read(int(index), event=("teleport", 4))[6, 0]
        still = facts.velocity[index] == 0
        top, left = np.where(still, (facts.position[index, 6] + 10) % 20, facts.position[index, 6])
        np.testing.assert_array_equal(frame[top : top + 12, left : left + 12], plain.read(int(index))[6, 0][
            tuple(slice(p, p + 12) for p in facts.position[index, 6])
        ])
        assert frame.sum() == frame[top : top + 12, left : left + 12].sum()
    with pytest.raises(UserError, match="teleport, vanish"):
        clips.read(0, event=("explode", 4))
