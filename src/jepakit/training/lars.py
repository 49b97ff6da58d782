"""LARS: SGD with momentum whose step is, layer by layer, a fixed share of the layer's weights (You et al. 2017, 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, for large batches (SimCLR, BYOL, Barlow Twins):

        g = gradient + weight_decay * w
        v = momentum * v + trust * |w| / (|gradient| + weight_decay * |w|) * g
        w = w - lr * v

    The share is 1 where the weights or the gradient are all 0, and in groups with `adapt: False` (biases and norms, in those
    papers), which are plain SGD's. As in `torch.optim.SGD` the learning rate stands outside the momentum; the paper has it
    inside, which differs only while the rate changes.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        change = gradient.add(parameter, alpha=decay) if decay else gradient
        if group["adapt"]:
            change = change * trust_ratio(parameter, gradient, decay, group["trust"])
        if momentum:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            change = state["momentum_buffer"].mul_(momentum).add_(change)
        parameter.add_(change, alpha=-group["lr"])


def trust_ratio(parameter: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """What a layer's gradient is multiplied by; norms are of the whole layer, also where it lies in shards."""
    weight, slope = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
    ratio = trust * weight / (slope + decay * weight)
    return torch.where((weight > 0) & (slope > 0), ratio, torch.ones_like(ratio))
