"""Whether a masked system of clips expects what came next: its energy beside that of wrong continuations."""

from __future__ import annotations

from typing import ClassVar

from jepakit.evaluation.continuation import CONTINUATION, TOLD_APART, continuation_rows, grid_of_clips
from jepakit.evaluation.evaluated_model import EvaluatedModel
from jepakit.evaluation.evaluators.evaluator import EvaluationOptions, Evaluator, When
from jepakit.evaluation.frozen_features import choose_parts
from jepakit.evaluation.metrics import Metric
from jepakit.evaluation.rows import Row
from jepakit.modalities.modality import ClipSamples, Data


class Continuation(Evaluator):
    """How often the energy of a clip's own second half is below that of a wrong one; of the system trained and untrained."""

    when: ClassVar[When] = "asked for"
    metrics: ClassVar[tuple[Metric, ...]] = (TOLD_APART,)

    def fits(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> str | None:
        if model.system is None:
            return f"{CONTINUATION} needs a run, whose masks and energy it asks with; {model.path} is an encoder. Leave it out."
        if grid_of_clips(model.system) is None or not isinstance(data.test, ClipSamples):
            return (
                "continuations are of masked systems of clips (v-jepa, v-jepa-2, v-jepa-2.1), of two time steps or more; this "
                f"is a {type(model.system).__name__} on {data.noun}. Leave {CONTINUATION} out."
            )
        return None

    def rows(self, model: EvaluatedModel, data: Data, options: EvaluationOptions) -> list[Row]:
        test = choose_parts(data, model.inputs, model.seed, options.limit).test
        return [
            row for name, system in model.systems.items() for row in continuation_rows(system, test, name, model.device)
        ]
