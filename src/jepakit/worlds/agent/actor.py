"""The actor's Mode 1: a reactive policy that was taught what planning (Mode 2) does (LeCun 2022, section 3.1.4).

    min over A of || a*[t] - A(s[t], goal) ||^2,  over the actions that a planner chose and memory holds

One pass through a small network in the place of thousands of imagined steps. Mode 2 itself is a planner of `worlds.planners`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepakit.errors import UserError
from jepakit.randomness import derive_seed
from jepakit.worlds.agent.memory import ShortTermMemory
from jepakit.worlds.agent.network import NetworkConfig, Standardised, fitted

FEWEST = 32  # steps to copy


class ReactiveActor(nn.Module):
    """`actor(states [n, dim], goals [n, dim]) -> blocks [n, block]`: the next block of actions, as episodes hold it."""

    def __init__(self, network: Standardised):
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, states: Float[Tensor, "n dim"], goals: Float[Tensor, "n dim"]) -> Float[Tensor, "n block"]:
        return self.network(torch.cat([states, goals], 1).float())


def distil(memory: ShortTermMemory, config: NetworkConfig | None = None, seed: int = 0) -> ReactiveActor:
    """Mode 2 as Mode 1: a network that does in each remembered state what was done there; a function of the seed.

    Errors: fewer than 32 steps to learn from.
    """
    found = memory.entries()
    if len(found) < FEWEST:
        raise UserError(f"actor: memory holds {len(found)} steps, too few to copy. Act in more episodes in mode 2 first.")
    x = torch.cat([found.state, found.goal], 1)
    return ReactiveActor(fitted(x, found.action, config or NetworkConfig(), derive_seed(seed, "reactive actor")))
