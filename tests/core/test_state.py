from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.core.state import State, map_tree, tensors_of
from jepakit.errors import UserError


@dataclass(frozen=True)
class Inside:
    cache: dict
    filled: int
    nothing: None = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def window(batch):
    return torch.arange(batch * 6.0).reshape(batch, 3, 2)


def recurrent(batch):
    return {"hidden": (torch.arange(batch * 4.0).reshape(batch, 4), torch.ones(batch, 4)), "step": torch.tensor(7)}


def cache(batch):
    """Keys and values of two layers, as a dataclass with a number in it."""
    layers = [Pair(torch.arange(batch * 12.0).reshape(batch, 2, 3, 2), torch.zeros(batch, 2, 3, 2)) for _ in range(2)]
    return Inside({"layers": layers, "valid": torch.arange(batch)[:, None] > torch.arange(3)}, filled=3)


def samples(batch):
    """A pose and latent samples of several kinds of number."""
    return [torch.arange(batch * 5).reshape(batch, 5), torch.arange(batch, dtype=torch.float64)]


TREES = [window, recurrent, cache, samples]


@pytest.mark.parametrize("tree", TREES)
@settings(max_examples=10)
@given(batch=st.integers(1, 4), candidates=st.integers(1, 4), seed=st.integers(0, 99))
def test_expanding_then_selecting_gives_the_state_back(tree, batch, candidates, seed):
    state = State(tree(batch))
    expanded = state.expand(candidates)
    assert (state.batch, expanded.batch) == (batch, batch * candidates)
    chosen = torch.randint(candidates, (batch,), generator=torch.Generator().manual_seed(seed))
    for before, after in zip(tensors_of(state.tree), tensors_of(expanded.select(chosen).tree), strict=True):
        assert before.dtype == after.dtype
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("tree", TREES)
def test_candidates_of_a_sample_stand_together(tree):
    """So that actions `[env, candidate, ...]` are flattened as they lie."""
    state = State(tree(3))
    for one, many in zip(tensors_of(state.tree), tensors_of(state.expand(4).tree), strict=True):
        if one.ndim:
            apart = many.unflatten(0, (3, 4))
            assert all(torch.equal(apart[:, candidate], one) for candidate in range(4))
        else:
            assert torch.equal(one, many)


@pytest.mark.parametrize("tree", TREES)
def test_index_picks_and_concatenate_joins(tree):
    state = State(tree(4))
    parts = [state.index(torch.tensor(rows)) for rows in ([2], [0, 3], [2])]
    joined = State.concatenate(parts)
    assert type(joined.tree) is type(state.tree)
    for whole, found in zip(tensors_of(state.tree), tensors_of(joined.tree), strict=True):
        torch.testing.assert_close(found, whole[[2, 0, 3, 2]] if whole.ndim else whole, rtol=0, atol=0)


def test_select_takes_each_samples_own_candidate():
    plans = State({"plan": torch.arange(6)})  # two samples, three candidates each
    assert plans.select(torch.tensor([2, 0])).tree["plan"].tolist() == [2, 3]


def test_what_is_no_tensor_stays_and_structure_survives():
    mapped = State(cache(2)).map(lambda t: t * 2).tree
    assert isinstance(mapped, Inside)
    assert (mapped.filled, mapped.nothing) == (3, None)
    assert isinstance(mapped.cache["layers"][0], Pair)
    assert map_tree(lambda t: t.shape[0], {"a": torch.ones(2), "b": (torch.ones(3), None)}) == {"a": 2, "b": (3, None)}


def test_gradient_passes_through_and_detach_stops_it():
    leaf = torch.ones(2, 3, requires_grad=True)
    state = State({"z": leaf * 2}).expand(2)
    assert not state.detach().tree["z"].requires_grad
    state.tree["z"].sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full((2, 3), 4.0))
    assert State({"z": leaf}).to(torch.device("meta")).tree["z"].is_meta


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: State({"a": torch.ones(2), "b": torch.ones(3)}), r"sizes \[2, 3\]"),
        (lambda: State({"a": torch.tensor(1.0)}), r"sizes \[\]"),
        (lambda: State(torch.ones(2)).expand(0), "candidates must be at least 1"),
        (lambda: State(torch.ones(4)).select(torch.tensor([0, 2])), "from 0 to 1"),
        (lambda: State(torch.ones(4)).select(torch.tensor([0, -1])), "from 0 to 1"),
        (lambda: State(torch.ones(4)).select(torch.tensor([0, 0, 0])), "no whole number of candidates"),
        (lambda: State.concatenate([]), "at least one"),
        (lambda: State.concatenate([State(torch.ones(2)), State((torch.ones(2),))]), "different kinds"),
        (lambda: State.concatenate([State({"a": torch.ones(2)}), State({"b": torch.ones(2)})]), "other names"),
        (lambda: State.concatenate([State([torch.ones(2)]), State([torch.ones(2)] * 2)]), "another number"),
        (lambda: State.concatenate([State((torch.ones(2), 3)), State((torch.ones(2), 4))]), "another value"),
        (
            lambda: State.concatenate([State((torch.ones(2), torch.tensor(n))) for n in (1, 2)]),
            "holds for the whole batch",
        ),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises(UserError, match=message):
        mistake()
