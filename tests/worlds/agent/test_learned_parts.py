"""The critic and the reactive actor: learned from memory alone, in closed forms."""

import pytest
import torch

from jepakit.errors import UserError
from jepakit.training.weight_files import read_weights, write_weights
from jepakit.worlds.agent.actor import distil
from jepakit.worlds.agent.critic import Critic, CriticConfig, train_critic
from jepakit.worlds.agent.memory import Entries, ShortTermMemory
from jepakit.worlds.agent.network import NetworkConfig, Standardised, fitted


def walks(episodes=40, length=30, noise=0.0, imagined=False):
    """Points that halve their way to a goal at each step: the cost k steps later is a quarter to the k-th of the cost now."""
    generator = torch.Generator().manual_seed(int(imagined))
    memory = ShortTermMemory()
    for episode in range(episodes):
        start, goal = torch.randn(2, 2, generator=generator)
        way = (start - goal) * 0.5 ** torch.arange(length)[:, None]
        cost = way.square().sum(1) + noise * torch.randn(length, generator=generator).square()
        memory.append(
            Entries(
                episode=torch.full((length,), episode),
                time=torch.arange(length),
                state=goal + way,
                goal=goal.expand(length, -1),
                action=-0.5 * way,
                cost=cost,
                imagined=torch.zeros(length, dtype=torch.bool),
            )
        )
    return memory


def test_the_critic_foresees_the_cost_and_says_how_well():
    memory = walks()
    critic, r2 = train_critic(memory, CriticConfig(delay=2, steps=1500))
    assert r2 > 0.85
    states, goals = torch.tensor([[1.0, 0.0], [0.0, 0.5]]), torch.zeros(2, 2)
    torch.testing.assert_close(critic(states, goals), torch.tensor([1 / 16, 0.25 / 16]), atol=0.02, rtol=0)
    assert not any(parameter.requires_grad for parameter in critic.parameters())


def test_what_cannot_be_foreseen_is_told_by_r2():
    assert train_critic(walks(noise=20.0), CriticConfig(delay=2, steps=100))[1] < 0.2


def test_the_critic_never_learns_from_what_was_imagined():
    memory, same = walks(episodes=10), walks(episodes=10)
    dreamt = walks(episodes=10).entries()
    memory.append(Entries(*(getattr(dreamt, name) for name in ("episode", "time", "state", "goal", "action")),
                          dreamt.cost + 100, torch.ones_like(dreamt.imagined)))  # fmt: skip
    config = CriticConfig(delay=1, steps=50)
    (one, r2), (other, same_r2) = (train_critic(each, config) for each in (memory, same))
    assert r2 == same_r2
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_actor_does_what_was_done():
    actor = distil(walks(episodes=60), NetworkConfig(hidden=(64,), steps=1500))
    states, goals = torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(actor(states, goals), -0.5 * (states - goals), atol=0.05, rtol=0)


def test_too_little_to_learn_from():
    with pytest.raises(UserError, match="only 4 episodes last 5"):
        train_critic(walks(episodes=4))
    with pytest.raises(UserError, match="20 steps, too few"):
        distil(walks(episodes=1, length=20))
    with pytest.raises(UserError, match="nothing was met"):
        distil(ShortTermMemory())
    with pytest.raises(UserError, match="delay"):
        CriticConfig(delay=0)


def test_a_fit_is_a_function_of_the_seed_and_of_no_scale():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] * x[:, 1:2]
    config = NetworkConfig(hidden=(32,), steps=400)
    one, again, other = fitted(x, y, config, 1), fitted(x, y, config, 1), fitted(x, y, config, 2)
    torch.testing.assert_close(one(x), again(x), rtol=0, atol=0)
    assert not torch.equal(one(x), other(x))
    scaled = fitted(1000 * x + 5, 1e-3 * y, config, 1)
    torch.testing.assert_close(1e3 * scaled(1000 * x + 5), one(x), atol=0.02, rtol=0)


def test_a_constant_input_does_not_break_the_fit():
    x = torch.cat([torch.randn(100, 1, generator=torch.Generator().manual_seed(0)), torch.full((100, 1), 7.0)], 1)
    network = fitted(x, 2 * x[:, :1], NetworkConfig(hidden=(32,), steps=400), 0)
    assert float((network(x) - 2 * x[:, :1]).abs().mean()) < 0.3


def test_networks_survive_a_file(tmp_path):
    network = fitted(torch.randn(50, 3), torch.randn(50, 2), NetworkConfig(hidden=(8, 4), steps=2), 0)
    path = tmp_path / "actor.safetensors"
    write_weights(path, network.state_dict())
    x = torch.randn(5, 3)
    torch.testing.assert_close(Standardised.of(read_weights(path), path)(x), network(x), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"actor.safetensors does not hold a network"):
        Standardised.of({"weight": torch.zeros(2)}, path)


def test_a_critic_survives_a_file(tmp_path):
    critic, _ = train_critic(walks(episodes=10), CriticConfig(delay=3, steps=20))
    path = tmp_path / "critic.safetensors"
    write_weights(path, critic.tensors())
    again = Critic.of(read_weights(path), path)
    states, goals = torch.randn(2, 5, 2)
    assert again.delay == 3
    torch.testing.assert_close(again(states, goals), critic(states, goals), rtol=0, atol=0)
    assert bool((again(100 * states, goals) >= 0).all())
    write_weights(path, critic.network.state_dict())
    with pytest.raises(UserError, match="holds no critic"):
        Critic.of(read_weights(path), path)
