"""What holds for the step of any system."""

from contextlib import closing

import pytest
import torch

from jepakit.device import to_device
from tests.tiny_systems import TINY, tiny_trainer

# Which wait once a step: for the nodes of the batch's subgraphs; for the words that the language loss is asked for, as the
# product with the whole vocabulary for all others would cost more.
WAITS = ("graph-jepa", "llm-jepa")


@pytest.mark.parametrize("name", [name for name in TINY if name not in WAITS])
def test_a_step_waits_for_nothing(name, tmp_path):
    """On the meta device a number cannot be read, as on a GPU it can only be waited for; the whole step runs there."""
    trainer = tiny_trainer(name, tmp_path / "run", precision="float32")
    with closing(trainer.batches()) as batches:
        batch = next(batches)
    system = trainer.system.to("meta")
    optimizer = torch.optim.AdamW([group for group in system.parameter_groups() if group["params"]], lr=1e-3)
    terms = system.step(to_device(batch, torch.device("meta")))
    terms["loss"].backward()
    torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
    optimizer.step()
    system.after_step(0.5)
    assert all(term.device.type == "meta" for term in terms.values())
