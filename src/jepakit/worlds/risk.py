"""What a plan costs that has several futures: their mean, the worst of them, or a quantile."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, shown

Risk = Literal["mean", "worst"] | float
UNLIKELY = 1e-3  # of the likeliest future: what the worst case does not count


def check_risk(risk: object) -> None:
    """Raise `UserError` unless this is a `Risk`: "mean", "worst", or a share between 0 and 1."""
    if risk in ("mean", "worst") or (isinstance(risk, float) and 0 < risk < 1):
        return
    raise UserError(f"risk: mean, worst, or a quantile between 0 and 1 (0.9: one future in ten is dearer); got {shown(risk)}.")


def over_futures(
    costs: Float[Tensor, "*plans futures"], risk: Risk, belief: Float[Tensor, "*plans futures"] | None = None
) -> Float[Tensor, "*plans"]:
    """The cost of each plan, of those of its futures, which are equally likely or as likely as `belief` says (it sums to 1).

    A quantile q is the least cost that a share q of the futures does not exceed (value at risk), one of the costs and never
    between two: of two equal futures the better up to .5, the worse above. The worst is that of the futures which are more
    than a thousandth as likely as the likeliest. NaN counts as worst; in a mean it stays NaN, unless nobody believes in it.
    """
    if belief is None:
        belief = torch.full_like(costs[..., :1], 1 / costs.shape[-1]).expand_as(costs)
    if risk == "mean":
        return torch.where(belief > 0, belief * costs, 0).sum(-1)
    if risk == "worst":
        return torch.where(belief > UNLIKELY * belief.amax(-1, keepdim=True), costs, -torch.inf).amax(-1)
    ordered, order = costs.sort(dim=-1)
    reached = belief.double().expand_as(costs).gather(-1, order).cumsum(-1) >= float(risk) - 1e-6
    rank = reached.to(torch.uint8).argmax(-1, keepdim=True)  # the first that reaches the share
    return ordered.gather(-1, rank)[..., 0]
