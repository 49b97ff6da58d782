"""Problems whose best plan is known: each number of a plan has a target of its own."""

import torch

from jepakit.worlds.problem import ActionSpace


class Quadratic:
    """cost = sum of squares of (action - target), in float64; `also` changes the cost, as a broken model or a wall does."""

    def __init__(self, environments=3, horizon=4, width=2, *, most=None, seed=0, ids=None, also=None, target=None):
        self.environments, self.horizon, self.device = environments, horizon, torch.device("cpu")
        self.ids = list(range(environments)) if ids is None else ids
        self.space = ActionSpace(torch.full((width,), -1.0).double(), torch.full((width,), 2.0).double(), most)
        # Of an environment by its id, not by its row.
        drawn = [
            torch.rand(horizon, width, generator=torch.Generator().manual_seed(seed + i), dtype=torch.float64) * 2 - 0.5
            for i in self.ids
        ]
        self.target = torch.stack(drawn) if target is None else target
        self.also, self.seen = also, []

    def cost(self, actions):
        self.seen.append(actions.detach())
        cost = (actions - self.target[:, None]).square().sum((2, 3))
        return cost if self.also is None else self.also(actions, cost)
