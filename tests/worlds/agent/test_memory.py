"""Short-term memory: queries by time and by likeness, what is forgotten, and what a critic may learn from."""

import pytest
import torch

from jepakit.errors import UserError
from jepakit.worlds.agent.memory import Entries, ShortTermMemory


def entries(times, episode=0, imagined=False, dim=2):
    time = torch.tensor(times)
    state = torch.stack([time, torch.full_like(time, episode)], 1).float().repeat(1, dim // 2)
    count = len(time)
    return Entries(
        torch.full((count,), episode), time, state, torch.zeros(count, dim), torch.zeros(count, 1),
        10.0 * episode + time.float(), torch.full((count,), imagined),
    )  # fmt: skip


def test_by_time():
    memory = ShortTermMemory()
    for episode in (3, 7):
        for time in range(5):
            memory.append(entries([time], episode))
    assert len(memory) == 10
    assert memory.at(2).episode.tolist() == [3, 7]
    assert memory.at(2, episode=7).cost.tolist() == [72.0]
    assert len(memory.at(9)) == 0


def test_the_newest():
    memory = ShortTermMemory()
    for time in range(70):
        memory.append(entries([time], 3))
    memory.append(entries([70, 71], 3))
    for count in (1, 2, 3, 72):
        assert memory.newest(count).time.tolist() == list(range(72 - count, 72))
    assert len(memory.newest(99)) == 72
    with pytest.raises(UserError, match="imagined"):
        memory.newest(1, imagined=True)


def test_by_likeness():
    memory = ShortTermMemory()
    memory.append(entries(range(10)))
    found = memory.nearest(torch.tensor([3.2, 0.0]), k=3)
    assert found.time.tolist() == [3, 4, 2]
    assert len(memory.nearest(torch.zeros(2), k=99)) == 10


def test_the_imagined_is_kept_apart():
    memory = ShortTermMemory()
    memory.append(entries([0, 1, 2]))
    memory.append(entries([1, 2, 3], imagined=True))
    assert memory.entries().time.tolist() == [0, 1, 2]
    assert memory.entries(imagined=True).time.tolist() == [1, 2, 3]
    assert bool(memory.entries(imagined=True).imagined.all())
    assert memory.nearest(torch.tensor([3.0, 0.0])).time.tolist() == [2]
    assert memory.nearest(torch.tensor([3.0, 0.0]), imagined=True).time.tolist() == [3]
    now, cost = memory.later(1)
    assert now.time.tolist() == [0, 1]
    assert cost.tolist() == [1.0, 2.0]
    mixed = Entries.concatenate([entries([0]), entries([0], imagined=True)])
    with pytest.raises(UserError, match="apart"):
        memory.append(mixed)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_oldest_are_forgotten(size):
    memory = ShortTermMemory(capacity=25)
    for begin in range(0, 210, size):
        memory.append(entries(range(begin, begin + size)))
    last = begin + size
    assert memory.entries().time.tolist() == list(range(last - 25, last))


def test_what_came_later_in_the_same_episode_whatever_the_order():
    memory = ShortTermMemory()
    for time in (4, 0, 2, 1, 3):
        memory.append(Entries.concatenate([entries([time], 5), entries([time], 1)]))
    memory.append(entries([9], 1))  # nothing lies two before or after it
    now, cost = memory.later(2)
    assert sorted(zip(now.episode.tolist(), now.time.tolist(), cost.tolist(), strict=True)) == [
        (episode, time, 10.0 * episode + time + 2) for episode in (1, 5) for time in range(3)
    ]
    assert len(memory.later(20)[0]) == 0


def test_what_does_not_fit_is_named():
    memory = ShortTermMemory()
    for query in (memory.entries, lambda: memory.at(0), lambda: memory.nearest(torch.zeros(2)), lambda: memory.later(1)):
        with pytest.raises(UserError, match="nothing was met"):
            query()
    memory.append(entries([0]))
    with pytest.raises(UserError, match=r"states of 2 .* 4"):
        memory.append(entries([0], dim=4))
    with pytest.raises(UserError, match="nothing was imagined"):
        memory.entries(imagined=True)
    with pytest.raises(UserError, match="delay"):
        memory.later(0)
    with pytest.raises(UserError, match="capacity"):
        ShortTermMemory(0)
