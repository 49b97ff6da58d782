"""Mazes: every room can be reached, no dot passes a wall, and who knows the map arrives."""

import pickle

import numpy as np
import pytest

from jepakit.errors import UserError
from jepakit.modalities.trajectories.built_in.maze import MazeConfig, draw_mazes, draw_places, draw_task, guide, move, picture
from jepakit.modalities.trajectories.built_in.maze_episodes import maze_episodes, wander
from jepakit.modalities.trajectories.built_in.walls import HIGH, LOW, MOST
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.randomness import Draws

SIZES = [(2, 2), (1, 4), (3, 3), (4, 4)]


def mazes(rows, columns, worlds=200, **options):
    draws = Draws(0, "test", 0, np.arange(worlds))
    return draw_mazes(MazeConfig(rows=rows, columns=columns, **options), draws), draws


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_doors_make_a_tree(rows, columns):
    maze, _ = mazes(rows, columns)
    assert (maze.open.sum(1) == rows * columns - 1).all()
    assert maze.steps.max() < rows * columns  # every room can be reached from every other
    assert mazes(rows, columns, loops=1.0)[0].open.all()


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_who_knows_the_map_arrives_by_the_shortest_way(rows, columns):
    maze, draws = mazes(rows, columns)
    place, goal = draw_task(maze, draws)
    worlds = np.arange(len(maze))
    left = maze.steps[worlds, maze.room(place), maze.room(goal)]
    assert (left == maze.steps.max((1, 2))).all()
    for _ in range(120):
        action = guide(maze, place, goal)
        assert np.hypot(*action.T).max() <= MOST + 1e-9
        place = move(maze, place, action)
        now = maze.steps[worlds, maze.room(place), maze.room(goal)]
        assert (now <= left).all()
        left = now
    assert np.hypot(*(place - goal).T).max() < 0.1


def test_start_and_goal_anywhere_else():
    maze, draws = mazes(3, 3)
    start, goal = draw_task(maze, draws, far=False)
    doors = maze.steps[np.arange(len(maze)), maze.room(start), maze.room(goal)]
    assert doors.min() == 1
    assert len(set(doors.tolist())) > 3


def test_walls_stop_and_no_dot_leaves_its_room_but_by_a_door():
    maze, draws = mazes(2, 2)
    place = draw_places(maze, draws, draws.integers(4, 1)[:, 0])
    rng = np.random.default_rng(0)
    for _ in range(150):
        before, place = maze.room(place), move(maze, place, rng.uniform(-4, 4, place.shape))
        assert (maze.steps[np.arange(len(maze)), before, maze.room(place)] <= 1).all()
        assert ((place >= LOW) & (place <= HIGH)).all()


def test_a_picture_shows_walls_where_moves_stop():
    maze, draws = mazes(2, 2, worlds=4)
    shown = picture(maze, draw_places(maze, draws, np.zeros(4, dtype=int)))
    assert shown.shape == (4, 2, 65, 65)
    for world, (left, right, low, high) in ((w, r) for w in range(4) for r in maze.walls):
        box = [np.broadcast_to(bound, 4)[world] for bound in (left, right, low, high)]
        box = np.clip(box, LOW, HIGH)
        x0, x1, y0, y1 = np.ceil(box[0]), np.floor(box[1]), np.ceil(box[2]), np.floor(box[3])
        assert (shown[world, 1, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] == 255).all()
    assert (shown[:, 1, 8:28, 8:28] == 0).all()  # within the first room


def test_one_layout_for_all():
    maze, _ = mazes(3, 3, layout=4)
    assert (maze.open == maze.open[0]).all()
    assert (maze.door == maze.door[0]).all()
    other, _ = mazes(3, 3, layout=5)
    assert (maze.door[0] != other.door[0]).any()


def test_wanderers_see_several_rooms_and_their_episodes_are_a_function_of_the_seed():
    maze, places, actions = wander(MazeConfig(), 0, 50, 91)
    rooms = [len(set(maze[np.full(91, i)].room(places[i]))) for i in range(50)]
    assert np.mean(rooms) > 1.5
    assert np.hypot(*actions.reshape(-1, 2).T).max() <= 1.8 + 1e-9
    np.testing.assert_array_equal(places, wander(MazeConfig(), 0, 50, 91)[1])
    episodes = pickle.loads(pickle.dumps(maze_episodes(seed=0, episodes=50)))
    np.testing.assert_array_equal(episodes.observations[95], picture(maze[1:2], places[1, 4:5])[0])


def test_it_is_data_by_name():
    data = open_trajectories(TrajectoryDataConfig(data="maze-fixed", limit=4), 0)
    sample = data.train[0]
    assert sample["observations"].shape == (4, 2, 65, 65)
    assert sample["state"].shape == (2,)


@pytest.mark.parametrize("options", [{"rows": 1, "columns": 1}, {"rows": 5}, {"door": 12.0}, {"inertia": 1.0}, {"loops": 2}])
def test_mazes_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        MazeConfig(**options)
