"""The order of the data, and the batches it gives: a function of the seed, whoever loads them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.training.order import WINDOW, DrawnDataset, StreamSampler, permutation
from tests.training.tiny_runs import tiny_trainer


@given(samples=st.integers(1, 40), batch=st.integers(1, 40), steps=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(samples, batch, steps, seed):
    batches = list(StreamSampler(samples, batch, steps, seed))
    assert [len(one) for one in batches] == [batch] * steps
    stream = list(itertools.chain(*batches))
    for epoch, draws in itertools.groupby(enumerate(stream), key=lambda pair: pair[0] // samples):
        drawn = [draw for _, draw in draws]
        assert all(draw.epoch == epoch for draw in drawn)
        seen = [draw.sample for draw in drawn]
        assert len(set(seen)) == len(seen)
        if len(seen) == samples:
            assert sorted(seen) == list(range(samples))
    assert [draw.step for draw in stream] == [step for step in range(steps) for _ in range(batch)]
    assert all(draw.progress == draw.step / steps for draw in stream)


@given(start=st.integers(0, 9), samples=st.integers(1, 30))
def test_to_resume_is_to_start_at_another_step(start, samples):
    whole = list(StreamSampler(samples, 7, 9, seed=3))
    rest = StreamSampler(samples, 7, 9, seed=3, start=start)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole) - start


def test_order_changes_with_epoch_and_seed_and_is_uniform():
    def order(seed, epoch):
        return [draw.sample for draw in list(StreamSampler(50, 50, epoch + 1, seed))[epoch]]

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 9
    first = [order(seed, 0)[0] for seed in range(2000)]
    counts = np.bincount(first, minlength=50)
    assert ((counts - 40) ** 2 / 40).sum() < 94  # chi squared, 49 degrees: p = 1e-4


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=13), seed=st.integers(0, 2**40))
def test_shards_are_read_a_window_after_the_other_and_mixed_within(sizes, seed):
    shards = np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(sizes)), sizes))  # some shards may be held out
    order = permutation(len(shards), np.random.default_rng(seed), shards)
    assert sorted(order) == list(range(len(shards)))
    read = shards[order]
    places = {shard: np.flatnonzero(read == shard) for shard in set(read.tolist())}
    begun = np.array([sum(at[0] <= place <= at[-1] for at in places.values()) for place in range(len(read))])
    assert begun.max() <= WINDOW


@given(start=st.integers(0, 9), ranks=st.integers(1, 3))
def test_reading_by_shards_is_resumed_and_shared_exactly(start, ranks):
    shards = np.repeat(np.arange(9), 4)
    whole = list(StreamSampler(36, 7, 12, seed=3, shards=shards))
    assert list(StreamSampler(36, 7, 12, seed=3, start=start, shards=shards)) == whole[start:]
    parts = [list(StreamSampler(36, 7, 12, seed=3, shards=shards, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)] == whole
    epochs = np.array([draw.sample for draws in whole for draw in draws])[:72].reshape(2, 36)
    assert (np.sort(epochs) == np.arange(36)).all()
    assert (epochs[0] != epochs[1]).any()


COMPANIONS = {"stills": (11, 3), "sounds": (2, 5)}


@given(ranks=st.integers(1, 5), batch=st.integers(5, 12), start=st.integers(0, 3))
def test_ranks_share_each_stream_of_a_batch_without_overlap_and_in_order(ranks, batch, start):
    whole = list(StreamSampler(30, batch, 6, 3, start, companions=COMPANIONS))
    parts = [list(StreamSampler(30, batch, 6, 3, start, companions=COMPANIONS, rank=r, ranks=ranks)) for r in range(ranks)]
    for step, draws in enumerate(whole):
        for stream, size in ((None, batch), ("stills", 3), ("sounds", 5)):
            of_stream = [draw for draw in draws if draw.stream == stream]
            shares = [[draw for draw in part[step] if draw.stream == stream] for part in parts]
            assert list(itertools.chain(*shares)) == of_stream
            assert len(of_stream) == size
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_companions_have_an_order_of_their_own_and_leave_the_main_one_as_it_is():
    alone = list(StreamSampler(11, 4, 20, seed=3))
    beside = list(StreamSampler(11, 4, 20, seed=3, companions={"stills": (11, 4), "more": (11, 4)}))
    streams = {
        name: [[draw.sample for draw in draws if draw.stream == name] for draws in beside] for name in (None, "stills", "more")
    }
    assert [[draw for draw in draws if draw.stream is None] for draws in beside] == alone
    assert len({str(order) for order in streams.values()}) == 3
    for order in streams.values():
        seen = list(itertools.chain(*order))
        assert all(sorted(seen[i : i + 11]) == list(range(11)) for i in range(0, 77, 11))


def test_a_sample_of_a_companion_is_fetched_from_it_and_says_so():
    dataset = DrawnDataset([{"id": i} for i in range(5)], {"stills": [{"id": 100 + i} for i in range(4)]})
    for draw in next(iter(StreamSampler(5, 3, 4, seed=0, companions={"stills": (4, 2)}))):
        sample = dataset[draw]
        assert sample.get("stream") == draw.stream
        assert sample["id"] == (draw.sample if draw.stream is None else 100 + draw.sample)
        assert (sample["epoch"], sample["step"], sample["progress"]) == (draw.epoch, draw.step, draw.progress)


def test_a_sample_carries_its_draw_to_the_collator():
    draw = next(iter(StreamSampler(5, 3, 4, seed=0, start=2)))[1]
    sample = DrawnDataset([{"id": 10 * i} for i in range(5)])[draw]
    assert sample == {"id": 10 * draw.sample, "epoch": 1, "step": 2, "progress": 0.5}


def direct(trainer):
    """The batches that are left, without a loader."""
    collate = trainer.system.collator(trainer.config.seed)
    dataset = DrawnDataset(trainer.dataset)
    sampler = StreamSampler(len(dataset), 16, trainer.steps, trainer.config.seed, trainer.step)
    return [collate([dataset[draw] for draw in draws]) for draws in sampler]


def same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert batch[name].dtype == other[name].dtype
        assert torch.equal(batch[name], other[name]), name


# Workers are processes that import torch, which takes seconds.
@pytest.mark.parametrize(
    ("system", "workers"),
    [
        ("i-jepa", 0),
        ("lejepa", 0),
        ("lejepa", 2),
        pytest.param("i-jepa", 1, marks=pytest.mark.slow),
        pytest.param("i-jepa", 2, marks=pytest.mark.slow),
        pytest.param("lejepa", 1, marks=pytest.mark.slow),
    ],
)
def test_batches_do_not_depend_on_the_workers(tmp_path, system, workers):
    trainer = tiny_trainer(tmp_path, system, workers=workers, limit=50, steps=6)
    trainer.step = 2  # as after a resume, and over the end of an epoch
    expected = direct(trainer)
    found = list(trainer.batches())
    assert len(found) == len(expected) == 4
    for batch, other in zip(found, expected, strict=True):
        same(batch, other)
    drawn = "context" if system == "i-jepa" else "views"
    assert not torch.equal(expected[0][drawn], expected[1][drawn])


def test_draws_of_a_sample_change_from_epoch_to_epoch_but_not_with_its_batch(tmp_path):
    trainer = tiny_trainer(tmp_path, "lejepa")
    collate = trainer.system.collator(0)
    sample = {**trainer.dataset[0], "step": 0, "progress": 0.0}
    other = {**trainer.dataset[1], "step": 0, "progress": 0.0, "epoch": 1}
    alone = collate([{**sample, "epoch": 1}])["views"][0]
    beside = collate([other, {**sample, "epoch": 1}])["views"][1]
    later = collate([{**sample, "epoch": 2}])["views"][0]
    torch.testing.assert_close(alone, beside)
    assert (alone - later).abs().max() > 0.1
