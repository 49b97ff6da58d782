"""End-point error of the motion that a system finds between frames, where the true motion is known."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from jepakit.core.system import System
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator
from jepakit.evaluation.flow_error import FLOW, Flow, flow_rows, knows_flow
from jepakit.evaluation.metrics import METRICS, Metric
from jepakit.evaluation.rows import Row
from jepakit.modalities.modality import Data


class FlowError(Evaluator):
    """The error of the system trained and untrained, of no motion and of one shift a pair."""

    metrics: ClassVar[tuple[Metric, ...]] = (METRICS["end_point_error"],)

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if model.system is None or not model.system.finds_flow:
            return f"{FLOW} is of systems that find the motion in clips (mc-jepa with --motion above 0). Leave it out."
        if not knows_flow(data.test):
            return f"{FLOW}: the motion in {data.name} is not known. Evaluate other data: --data moving-photographs."
        return None

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        flows = {name: _on_its_device(system) for name, system in model.systems.items()}
        return flow_rows(flows, model.inputs, data.test, model.seed)


def _on_its_device(system: System) -> Flow:
    device = next(system.parameters()).device

    def flow(first: Tensor, second: Tensor) -> Tensor:
        return system.flow(first.to(device), second.to(device)).cpu()

    return flow
