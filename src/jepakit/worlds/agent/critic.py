"""The trainable critic: foresees, from a state and its goal, what intrinsic cost is to come (LeCun 2022, section 3.2).

    min over v of || sqrt IC(s[t + delay]) - sqrt TC_v(s[t]) ||^2,  over what memory says was met

It never changes the intrinsic cost, and never learns from what was only imagined. Added to the last imagined state of a plan it
lets a short horizon see past its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError, check_range
from jepakit.randomness import derive_seed
from jepakit.worlds.agent.memory import ShortTermMemory
from jepakit.worlds.agent.network import NetworkConfig, Standardised, fitted

HELD_OUT = 0.2  # of the episodes


@dataclass(frozen=True, kw_only=True)
class CriticConfig(NetworkConfig):
    """How a critic is trained."""

    delay: int = 5
    """Steps of the model that it looks ahead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("delay", self.delay, 1)


class Critic(nn.Module):
    """`critic(states [n, dim], goals [n, dim]) -> costs [n]`: the intrinsic cost `delay` steps later, in its units.

    network: gives the root of the cost. Costs near a goal are a hundredth of those far off, and there a plan has to tell them
    apart; nor can a cost so foreseen be negative.
    """

    def __init__(self, network: Standardised, delay: int):
        super().__init__()
        self.network, self.delay = network, delay
        self.eval().requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """What a file of it holds."""
        return {**self.network.state_dict(), "delay": torch.tensor(self.delay)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], place: Path) -> Critic:
        """The critic of these tensors; `place` is where they were read. Errors: tensors of something else."""
        network = Standardised.of(tensors, place)
        if "delay" not in tensors:
            raise UserError(f"{place} holds no critic as `jepakit act --teach` writes it. Teach the run again.")
        return cls(network, int(tensors["delay"]))

    def forward(self, states: Float[Tensor, "n dim"], goals: Float[Tensor, "n dim"]) -> Float[Tensor, "n"]:
        return self.network(torch.cat([states, goals], 1).float())[:, 0].clamp_min(0).square()


def train_critic(
    memory: ShortTermMemory, config: CriticConfig | None = None, seed: int = 0
) -> tuple[Critic, float]:
    """A critic of what a memory holds, and its R2 on the fifth of the episodes that it was not trained on.

    Errors: fewer than five episodes that are long enough; costs that never change.
    """
    config = config or CriticConfig()
    now, cost = memory.later(config.delay)
    allowed = cost.isfinite()  # where a limit was broken the cost is infinite
    now, cost = now[allowed], cost[allowed]
    episodes = now.episode.unique()
    if len(episodes) < 5:
        raise UserError(
            f"critic: only {len(episodes)} episodes last {config.delay} steps and more, and a fifth of them is to be held out. "
            "Act in more episodes first, or lower delay."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "critic"))
    held = episodes[torch.randperm(len(episodes), generator=generator)[: max(1, round(HELD_OUT * len(episodes)))]]
    test = torch.isin(now.episode, held)
    x, y = torch.cat([now.state, now.goal], 1), cost[:, None].sqrt()
    critic = Critic(fitted(x[~test], y[~test], config, derive_seed(seed, "critic")), config.delay)
    true = cost[test]
    off = (critic(now.state[test], now.goal[test]) - true).square().sum()
    spread = (true - true.mean()).square().sum()
    if not float(spread):
        raise UserError("critic: the intrinsic cost of the held-out episodes never changes, there is nothing to foresee.")
    return critic, float(1 - off / spread)
