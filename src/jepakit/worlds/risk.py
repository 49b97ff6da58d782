"""What a plan costs that has several futures: their mean, the worst of them, or a quantile."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError, shown

Risk = Literal["mean", "worst"] | float


def check_risk(risk: object) -> None:
    """Raise `UserError` unless this is a `Risk`: "mean", "worst", or a share between 0 and 1."""
    if risk in ("mean", "worst") or (isinstance(risk, float) and 0 < risk < 1):
        return
    raise UserError(f"risk: mean, worst, or a quantile between 0 and 1 (0.9: one future in ten is dearer); got {shown(risk)}.")


def over_futures(costs: Float[Tensor, "*plans futures"], risk: Risk) -> Float[Tensor, "*plans"]:
    """The cost of each plan, of those of its equally likely futures.

    A quantile q is the least cost that a share q of the futures does not exceed (value at risk), one of the costs and never
    between two: of two futures the better up to .5, the worse above. NaN counts as worst; in a mean it stays NaN.
    """
    if risk == "mean":
        return costs.mean(-1)
    if risk == "worst":
        return costs.amax(-1)
    rank = math.ceil(float(risk) * costs.shape[-1] - 1e-9)  # .07 of 100 is 7, whatever binary fractions make of it
    return costs.sort(dim=-1).values[..., rank - 1]
