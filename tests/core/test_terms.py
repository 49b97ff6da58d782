"""Terms of the masked step: a term of one's own, and alignment without an anti-collapse loss."""

import pytest
import torch

from jepakit.core.masked import Stream
from jepakit.core.terms import AlignmentTerm, Term
from jepakit.errors import UserError
from tests.core.test_masked import EXACT, build, draw, gradients, pick, streams_of


class Norms(Term):
    """The mean squared length of the context's tokens, and a number that is only shown."""

    def __call__(self, made):
        energy = made.context.values.square().mean(-1)
        mean = made.mean(energy, made.context.valid, "norms")
        return {"norms": mean, "shown": mean.detach() * 2}, 0.3 * mean

    def counts(self, masked):
        return {"norms": masked.context.valid.sum()}


def test_a_term_of_ones_own_adds_its_numbers_and_its_loss():
    system, batch = build(terms=[Norms()]), draw(contexts=2)
    numbers = system.step(batch)
    assert list(numbers) == ["loss", "prediction", "norms", "shown"]
    torch.testing.assert_close(numbers["prediction"], build().step(batch)["prediction"], rtol=0, atol=0)
    torch.testing.assert_close(numbers["loss"], numbers["prediction"] + 0.3 * numbers["norms"], **EXACT)
    torch.testing.assert_close(numbers["shown"], 2 * numbers["norms"].detach(), rtol=0, atol=0)
    assert not system.joins_batch
    assert set(system.counts(batch)) == {"prediction", "norms"}


@pytest.mark.parametrize("terms", [[Norms()], [AlignmentTerm(weight=0.7)], [AlignmentTerm(weight=0.7), Norms()]])
def test_terms_of_accumulated_pieces_add_up(terms):
    system, batch = build(terms=terms), draw(contexts=2)
    whole, counts = system.step(batch), system.counts(batch)
    expected = gradients(system, whole["loss"])
    pieces = [system.step({**pick(batch, rows), "counts": counts}) for rows in ([0], [1, 2, 3], [4])]
    for name, value in whole.items():
        torch.testing.assert_close(sum(piece[name] for piece in pieces), value, **EXACT)
    torch.testing.assert_close(gradients(system, sum(piece["loss"] for piece in pieces)), expected, **EXACT)


def test_a_streams_terms_bear_its_name_and_its_weight():
    streams = {"still": Stream(terms=[Norms()]), "other": Stream(weight=0.5, terms=[Norms()])}
    system = build(streams=streams)
    batch = streams_of(still=3, other=2)
    numbers = system.step(batch)
    assert set(numbers) == {
        "loss", "still/prediction", "still/norms", "still/shown", "other/prediction", "other/norms", "other/shown",
    }  # fmt: skip
    parts = {name: numbers[f"{name}/prediction"] + 0.3 * numbers[f"{name}/norms"] for name in streams}
    torch.testing.assert_close(numbers["loss"], parts["still"] + 0.5 * parts["other"], **EXACT)
    assert set(system.counts(batch)) == {"still/prediction", "still/norms", "other/prediction", "other/norms"}


def test_alignment_is_the_spread_of_a_samples_contexts():
    system, batch = build(terms=[AlignmentTerm(weight=0.5)]), draw(contexts=3)
    numbers, views = system.step(batch), system.views(batch)
    expected = (views - views.mean(1, keepdim=True)).square().mean()
    torch.testing.assert_close(numbers["alignment"], expected, **EXACT)
    torch.testing.assert_close(numbers["loss"], numbers["prediction"] + 0.5 * expected, **EXACT)
    with pytest.raises(UserError, match="invariance must be at least 0"):
        AlignmentTerm(weight=-1.0)
