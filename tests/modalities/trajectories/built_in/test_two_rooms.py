"""Two Rooms: walls hold, doors let through, pictures show what is there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.two_rooms import (
    HIGH,
    LOW,
    THICKNESS,
    TWO_ROOMS,
    Rooms,
    Tries,
    TwoRoomsConfig,
    draw_places,
    draw_rooms,
    guide,
    in_left_room,
    move,
    picture,
    two_rooms_episodes,
    wander,
)
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.randomness import Draws

CONFIG = TwoRoomsConfig()


def draws(count=200, seed=0):
    return Draws(seed, "test", 0, np.arange(count))


def in_wall(rooms, places, door=4.0):
    return (np.abs(places[:, 0] - rooms.wall) < THICKNESS / 2) & (np.abs(places[:, 1] - rooms.door) > door)


@given(seed=st.integers(0, 1000), size=st.floats(0.1, 60))
def test_nobody_gets_into_a_wall_whatever_the_action(seed, size):
    stream = draws(64, seed)
    rooms = draw_rooms(CONFIG, stream)
    places = draw_places(rooms, stream)
    for _ in range(4):
        places = move(rooms, places, size * stream.normal(2))
        assert not in_wall(rooms, places).any()
        assert places.min() >= LOW
        assert places.max() <= HIGH


def test_a_wall_stops_a_dot_where_it_is_met_and_a_door_does_not():
    rooms = Rooms(np.array([32.0, 32.0, 32.0]), np.array([20.0, 20.0, 20.0]))
    places = np.array([[25.0, 50.0], [25.0, 20.0], [25.0, 50.0]])
    after = move(rooms, places, np.array([[20.0, 0.0], [20.0, 0.0], [5.0, 3.0]]))
    np.testing.assert_allclose(after[0], [32 - THICKNESS / 2, 50], atol=2e-3)
    np.testing.assert_allclose(after[1], [45, 20])
    np.testing.assert_allclose(after[2], [30, 53])


def test_the_edge_of_a_door_stops_too():
    rooms = Rooms(np.array([32.0]), np.array([20.0]))
    after = move(rooms, np.array([[32.0, 20.0]]), np.array([[0.0, 30.0]]))
    np.testing.assert_allclose(after, [[32, 24]], atol=2e-3)


def test_outer_walls_let_slide():
    rooms = Rooms(np.array([32.0]), np.array([20.0]))
    np.testing.assert_allclose(move(rooms, np.array([[5.0, 10.0]]), np.array([[-9.0, 2.0]])), [[LOW, 12]])


def test_somebody_who_knows_the_map_always_arrives():
    stream = draws()
    rooms = draw_rooms(CONFIG, stream)
    left = stream.uniform(1)[:, 0] < 0.5
    places, goals = draw_places(rooms, stream, left), draw_places(rooms, stream, ~left)
    assert (in_left_room(rooms, places) == left).all()
    for _ in range(120):
        places = move(rooms, places, guide(rooms, places, goals))
    assert np.hypot(*(places - goals).T).max() < 1


def test_what_is_wandered_is_what_the_reference_wanders():
    rooms, places, actions = wander(CONFIG, 0, 500, 91)
    assert places.reshape(-1, 2).mean(0) == pytest.approx([31.59, 32.06], abs=1.0)
    assert places.reshape(-1, 2).std(0) == pytest.approx([16.10, 16.14], abs=1.2)
    assert not in_wall(Rooms(rooms.wall.repeat(91), rooms.door.repeat(91)), places.reshape(-1, 2)).any()
    length = np.hypot(*actions[:, :-1].reshape(-1, 2).T)
    assert length.min() >= 0.2 - 1e-9
    assert length.max() <= 1.8 + 1e-9
    left = places[:, :, 0] < rooms.wall[:, None]
    assert 0.3 < (left.any(1) & ~left.all(1)).mean() < 0.5
    pictures = picture(rooms[np.arange(500)], places[:, 40]) / 255
    assert pictures.mean((0, 2, 3)) == pytest.approx([0.0026, 0.0989], abs=3e-4)
    assert pictures.std((0, 2, 3)) == pytest.approx([0.0369, 0.2986], abs=3e-3)


def test_the_dot_is_drawn_where_it_is():
    rooms, places = Rooms(np.array([30.0, 30.0]), np.array([20.0, 20.0])), np.array([[10.0, 50.0], [45.5, 12.25]])
    dots = picture(rooms, places)[:, 0].astype(float)
    grid = np.arange(65)
    x, y = (dots.sum(axis) @ grid / dots.sum((1, 2)) for axis in (1, 2))
    np.testing.assert_allclose(np.stack([x, y], 1), places, atol=0.05)


def test_one_world_serves_all_its_pictures():
    rooms, places, _ = wander(CONFIG, 0, 3, 20)
    np.testing.assert_array_equal(picture(rooms[:1], places[0]), picture(rooms[np.zeros(20, dtype=int)], places[0]))


def test_flicker_is_new_in_every_frame_and_the_same_when_asked_again():
    config = TwoRoomsConfig(flicker=0.5)
    rooms, places = Rooms(np.array([30.0]), np.array([20.0])), np.array([[10.0, 50.0], [10.0, 50.0]])
    one = picture(rooms, places, config, draws(2))
    assert (one[0] != one[1]).mean() > 0.5
    np.testing.assert_array_equal(one, picture(rooms, places, config, draws(2)))
    with pytest.raises(UserError, match="flicker"):
        picture(rooms, places, config)


def test_episodes_are_drawn_when_looked_at():
    episodes = two_rooms_episodes(episodes=4, steps=10)
    assert episodes.observations.shape == (40, 2, 65, 65)
    part = episodes.observations[8:13]  # across an episode's end
    np.testing.assert_array_equal(part, np.stack([episodes.observations[step] for step in range(8, 13)]))
    again = two_rooms_episodes(episodes=4, steps=10)
    np.testing.assert_array_equal(again.observations[[3, 39]], episodes.observations[[3, 39]])
    assert not np.array_equal(two_rooms_episodes(seed=1, episodes=4, steps=10).actions, episodes.actions)


def test_as_data_for_a_world_model():
    data = open_trajectories(TrajectoryDataConfig(data="two-rooms", history=1, horizon=8), 0)
    inputs = TrajectoryInputs.of(data)
    assert inputs.shape == (2, 65, 65)
    samples = [data.train[index] for index in (0, 5000)]
    windows = inputs.windows(samples)
    assert windows["inputs"].shape == (2, 9, 2, 65, 65)
    assert inputs.plain(samples).shape == (2, 2 * 22 * 22)
    assert samples[0]["state"].shape == (4,)


def test_a_flickering_background_is_data_and_world_of_one_strength():
    flicker = TWO_ROOMS["two-rooms-flicker"].flicker
    episodes = two_rooms_episodes(TWO_ROOMS["two-rooms-flicker"], episodes=2, steps=5)
    still = two_rooms_episodes(episodes=2, steps=5)
    seen, plain = episodes.observations[0:5], still.observations[0:5]
    np.testing.assert_array_equal(episodes.states, still.states)  # the same walks, seen otherwise
    assert (seen >= plain).all()
    empty = plain == 0
    assert seen[empty].max() <= 255 * flicker
    assert seen[empty].mean() == pytest.approx(255 * flicker / 2, rel=0.1)
    assert (seen[0] != seen[1])[empty[0] & empty[1]].mean() > 0.9  # drawn anew for each frame
    np.testing.assert_array_equal(seen[3], episodes.observations[3])
    data = open_trajectories(TrajectoryDataConfig(data="two-rooms-flicker", history=1, horizon=8), 0)
    assert data.kind == "two-rooms-flicker"
    assert data.fingerprint != open_trajectories(TrajectoryDataConfig(data="two-rooms", history=1, horizon=8), 0).fingerprint


STOCHASTIC = TWO_ROOMS["two-rooms-stochastic"]


def test_a_locked_door_stops_an_open_one_does_not_and_nobody_sees_which():
    fixed = draw_rooms(STOCHASTIC, draws(2))
    rooms = Rooms(fixed.wall, fixed.door, fixed.doubtful, np.array([True, False]))
    after = move(rooms, np.array([[28.0, 22.0], [28.0, 22.0]]), np.array([[8.0, 0.0], [8.0, 0.0]]))
    np.testing.assert_allclose(after, [[32 - THICKNESS / 2, 22], [36, 22]], atol=2e-3)
    beside = move(rooms, np.array([[28.0, 36.0], [28.0, 50.0]]), np.array([[8.0, 0.0], [8.0, 0.0]]))
    np.testing.assert_allclose(beside, [[32 - THICKNESS / 2, 36], [36, 50]], atol=2e-3)  # wall between, and the sure door
    seen = picture(rooms, after[[0, 0]])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0, 1, :, 32] == 0).sum() == 2 * 9  # rows of two doors


@pytest.mark.parametrize("fixed", [True, False])
def test_half_of_the_second_doors_are_locked_and_they_lie_apart_from_the_first(fixed):
    rooms = draw_rooms(TwoRoomsConfig(locked=0.5, fixed=fixed), draws(2_000))
    assert np.abs(rooms.doubtful - rooms.door).min() >= 18
    assert rooms.doubtful.min() >= 10
    assert rooms.doubtful.max() <= 54
    assert rooms.locked.mean() == pytest.approx(0.5, abs=0.04)
    assert draw_rooms(TwoRoomsConfig(locked=1.0), draws(20)).locked.all()
    part = rooms[3:5]
    np.testing.assert_array_equal(part.state[:, 2:], np.stack([rooms.doubtful[3:5], rooms.locked[3:5]], 1))


def test_of_two_doors_one_is_open_or_both_are():
    either, both = (draw_rooms(TWO_ROOMS[name], draws(200)) for name in ("two-rooms-either-door", "two-rooms-two-doors"))
    assert (either.barred != either.locked).all()
    assert 0.4 < either.locked.mean() < 0.6
    assert not both.locked.any()
    assert both.barred is None
    fronts, push = np.array([28.0]), np.full((200, 2), [8.0, 0.0])
    for rooms, first, second in ((either, either.barred, either.locked), (both, both.locked, both.locked)):
        for y, shut in ((rooms.door, first), (rooms.doubtful, second)):
            after = move(rooms, np.stack([np.broadcast_to(fronts, 200), y], 1), push)
            np.testing.assert_allclose(after[:, 0], np.where(shut, 32 - THICKNESS / 2, 36), atol=2e-3)
    with pytest.raises(UserError, match="either"):
        TwoRoomsConfig(either=True)


def test_walkers_try_both_doors_where_either_may_be_locked():
    rooms, places, _ = wander(TWO_ROOMS["two-rooms-either-door"], 0, 400, 91)
    at = [
        ((np.abs(places[:, :, 0] - 32) < 3) & (np.abs(places[:, :, 1] - y[:, None]) < 4)).any(1)
        for y in (rooms.door, rooms.doubtful)
    ]
    assert (at[0] & at[1]).mean() > 0.25


def test_somebody_who_knows_what_is_locked_arrives_by_the_shorter_way():
    stream = draws()
    rooms = draw_rooms(TwoRoomsConfig(locked=0.5), stream)
    left = stream.uniform(1)[:, 0] < 0.5
    places, goals = draw_places(rooms, stream, left), draw_places(rooms, stream, ~left)
    door = rooms.known(places, goals).door
    assert (door == rooms.door)[rooms.locked].all()
    assert 0.2 < (door == rooms.doubtful)[~rooms.locked].mean() < 0.8
    for _ in range(120):
        places = move(rooms, places, guide(rooms, places, goals))
    assert np.hypot(*(places - goals).T).max() < 1


def test_what_a_walker_does_does_not_tell_whether_the_door_let_through():
    """The same streams in both worlds: places part, actions do not."""
    stream, other = draws(300), draws(300)
    rooms = draw_rooms(STOCHASTIC, stream), draw_rooms(STOCHASTIC, other)
    worlds = [replace(one, locked=np.full(300, locked)) for one, locked in zip(rooms, (True, False), strict=True)]
    places = [draw_places(worlds[0], stream), draw_places(worlds[1], other)]
    tries = [Tries(world, place, drawn) for world, place, drawn in zip(worlds, places, (stream, other), strict=True)]
    for _ in range(90):
        actions = [one.actions() for one in tries]
        np.testing.assert_array_equal(*actions)
        places = [move(world, place, action) for world, place, action in zip(worlds, places, actions, strict=True)]
    assert (np.hypot(*(places[0] - places[1]).T) > 3).mean() > 0.3
    with pytest.raises(UserError, match="one door"):
        Tries(draw_rooms(CONFIG, draws()), places[0], draws())


def test_numbers_are_the_same_walks_as_pictures():
    seen, drawn = (two_rooms_episodes(TWO_ROOMS[name], episodes=3, steps=8)
                   for name in ("two-rooms-stochastic", "two-rooms-stochastic-pixels"))  # fmt: skip
    np.testing.assert_array_equal(seen.states, drawn.states)
    np.testing.assert_array_equal(seen.observed(slice(0, 24)), drawn.states[:, :2])
    assert drawn.observations.shape == (24, 2, 65, 65)
    assert seen.states.shape == (24, 6)
    assert set(seen.states[:, 5]) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "option", [{"door": 0.5}, {"dot": 0}, {"brightness": 2}, {"flicker": -1}, {"locked": 1.5}, {"pixels": False}]
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(UserError, match=next(iter(option))):
        TwoRoomsConfig(**option)
