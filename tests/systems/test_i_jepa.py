import copy
import pickle
from dataclasses import replace

import pytest
import torch

from jepakit.core.anticollapse import SIGRegConfig
from jepakit.errors import UserError
from jepakit.masks.blocks import MultiBlockConfig
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.systems.i_jepa import IJEPA, IJEPAConfig

INPUTS = ImageInputs(image_size=(14, 21), channels=1, mean=(0.4,), std=(0.3,))
EXACT = {"atol": 1e-5, "rtol": 1e-5}


PAPER = MultiBlockConfig(contexts=1, targets=4, target_scale=(0.15, 0.2), predict="separate", min_keep=1)


def build(seed=0, **options):
    torch.manual_seed(seed)
    options = {"predictor_dim": 32, "predictor_depth": 1, "masks": PAPER, **options}
    return IJEPA(IJEPAConfig(**options), INPUTS, seed)


def samples(ids=range(6), epoch=0, size=(14, 21)):
    def image(i):
        return torch.rand(1, *size, generator=torch.Generator().manual_seed(i))

    return [{"image": image(i), "id": i, "epoch": epoch, "step": 4, "label": i % 2} for i in ids]


def masks_of(batch, place):
    kept = batch["context"][place, 0, : batch["context_lengths"][place, 0]].tolist()
    blocks = zip(batch["targets"][place], batch["target_lengths"][place], strict=True)
    return kept, [block[:n].tolist() for block, n in blocks]


def test_the_batch_it_draws():
    batch = build().collator(0)(samples())
    assert batch["inputs"].shape == (6, 1, 14, 21)
    assert batch["context"].shape[:2] == (6, 1)
    assert batch["targets"].shape[:2] == (6, 4)
    assert batch["id"].tolist() == list(range(6))
    assert batch["label"].tolist() == [0, 1] * 3
    assert int(batch["step"]) == 4
    torch.testing.assert_close(batch["inputs"][2] * 0.3 + 0.4, samples()[2]["image"], **EXACT)  # whole, only normalised
    assert build().collator(0, views=3)(samples())["context"].shape[:2] == (6, 3)


def test_a_samples_masks_are_a_function_of_seed_epoch_and_id_and_survive_pickling():
    collate = pickle.loads(pickle.dumps(build().collator(0)))
    together, reordered = collate(samples()), collate(samples([5, 2]))
    for place, sample in enumerate([5, 2]):
        assert masks_of(reordered, place) == masks_of(together, sample)
    other_epoch, other_seed = collate(samples(epoch=1)), build().collator(1)(samples())
    for batch in (other_epoch, other_seed):
        assert [masks_of(batch, i) for i in range(6)] != [masks_of(together, i) for i in range(6)]


def test_crops_are_random_parts_of_the_image_and_repeat():
    system = build(crop=(0.3, 0.5))
    collate = system.collator(0)
    batch = collate(samples())
    assert batch["inputs"].shape == (6, 1, 14, 21)
    torch.testing.assert_close(collate(samples([3]))["inputs"], batch["inputs"][3:4], **EXACT)
    assert (batch["inputs"] - build().collator(0)(samples())["inputs"]).abs().mean() > 0.1
    assert (batch["inputs"] - collate(samples(epoch=1))["inputs"]).abs().mean() > 0.1


RAGGED = {"paper": {}, "joint": {"masks": MultiBlockConfig(min_keep=1)}}


def gradients(system, loss):
    system.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    return found


def predictions(system, batch):
    """Predictions of every (sample, context, block), unpadded."""
    found = []

    def keep(module, given, predicted):
        lengths = given[1].lengths.tolist()
        found.extend(rows[:n] for rows, n in zip(predicted, lengths, strict=True))

    handle = system.predictor.register_forward_hook(keep)
    loss = system.step(batch)["loss"]
    handle.remove()
    return found, loss


def test_the_collator_cuts_nothing():
    """Contexts and blocks of different lengths, each as the sampler drew it for the sample alone."""
    batch = build().collator(0)(samples())
    kept = batch["context_lengths"].flatten().tolist()
    asked = batch["target_lengths"].flatten().tolist()
    assert len(set(kept)) > 2
    assert len(set(asked)) > 1
    assert batch["context"].shape[2] == max(kept)
    assert batch["targets"].shape[2] == max(asked)
    for i in range(6):
        alone = build().collator(0)(samples([i]))
        assert masks_of(alone, 0) == masks_of(batch, i)


@pytest.mark.parametrize("masks", RAGGED)
def test_a_ragged_batch_equals_each_sample_alone(masks):
    """Predictions, loss and gradients of the whole are those of its samples one by one, each weighing by its tokens."""
    system = build(**RAGGED[masks])
    collate = system.collator(0)
    together, loss = predictions(system, collate(samples(range(4))))
    expected, counts = gradients(system, loss), system.counts(collate(samples(range(4))))
    one_by_one, losses = [], []
    for i in range(4):
        found, part = predictions(system, {**collate(samples([i])), "counts": counts})
        one_by_one += found
        losses.append(part)
    assert len({len(rows) for rows in together}) > 1
    for ours, alone in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(ours, alone, **EXACT)
    torch.testing.assert_close(sum(losses), loss, **EXACT)
    torch.testing.assert_close(gradients(system, sum(losses)), expected, **EXACT)
    energies = system.energy(collate(samples(range(4))), torch.arange(4))
    for i in range(4):
        torch.testing.assert_close(system.energy(collate(samples([i])), torch.tensor([0]))[0], energies[i], **EXACT)


def test_padding_may_hold_anything():
    """Other ids in the padding, and other embeddings where the encoder leaves it, change neither loss nor gradients."""
    system, batch = build(), build().collator(0)(samples())
    loss = system.step(batch)["loss"]
    expected = gradients(system, loss)
    poisoned = dict(batch)
    for name in ("context", "targets"):
        padding = torch.arange(batch[name].shape[-1]) >= batch[f"{name.rstrip('s')}_lengths"][..., None]
        assert padding.any()
        tokens = system.grid[0] * system.grid[1]
        poisoned[name] = torch.where(padding, torch.randint(0, tokens, batch[name].shape), batch[name])

    def poison(module, given, tokens):
        return replace(tokens, values=torch.where(tokens.valid[..., None], tokens.values, 1e4))

    system.encoder.register_forward_hook(poison)
    again = system.step(poisoned)["loss"]
    torch.testing.assert_close(again, loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients(system, again), expected, **EXACT)


def test_uneven_pieces_of_a_step_add_up():
    system = build()
    batch = system.collator(0)(samples())
    loss = system.step(batch)["loss"]
    expected, counts = gradients(system, loss), system.counts(batch)
    pieces = [{n: v if v.ndim == 0 else v[part] for n, v in batch.items()} for part in ([4], [0, 1, 5], [2, 3])]
    assert len({int(system.counts(piece)["prediction"]) for piece in pieces}) == 3
    parts = [system.step({**piece, "counts": counts})["loss"] for piece in pieces]
    torch.testing.assert_close(sum(parts), loss, **EXACT)
    torch.testing.assert_close(gradients(system, sum(parts)), expected, **EXACT)
    # The mean of the pieces' means is another number: what a trainer without counts would get.
    means = [system.step(piece)["loss"].item() for piece in pieces]
    assert abs(sum(means) / 3 - loss.item()) > 1e-4


def test_the_defaults_make_a_step():
    torch.manual_seed(0)
    system = IJEPA(IJEPAConfig(), INPUTS)
    terms = system.step(system.collator(0)(samples()))
    assert set(terms) == {"loss", "prediction"}
    assert torch.isfinite(terms["loss"])


def test_the_average_follows_its_schedule():
    """`target = m target + (1 - m) encoder`, m linear from `ema` to `ema_end`; called after the optimiser's step."""
    system = build(ema=0.9, ema_end=1.0)
    target = [p.clone() for p in system.target.average.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(target, system.encoder.parameters(), strict=True))
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        with torch.no_grad():
            for p in system.encoder.parameters():
                p.add_(0.1)
        assert system.after_step(progress) == {"ema": pytest.approx(momentum)}
        target = [momentum * t + (1 - momentum) * p for t, p in zip(target, system.encoder.parameters(), strict=True)]
        for ours, expected in zip(system.target.average.parameters(), target, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    assert build(target="stop-gradient").after_step(0.5) == {}


@pytest.mark.parametrize("target", ["ema", "shared", "stop-gradient"])
def test_a_copy_learns_without_touching_the_original(target):
    """What the estimate of a run's cost relies on."""
    system = build(target=target, ema=0.996)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    twin = copy.deepcopy(system)
    batch = twin.collator(0)(samples())
    optimizer = torch.optim.SGD([p for g in twin.parameter_groups() for p in g["params"]], lr=0.1)
    twin.step(batch)["loss"].backward()
    optimizer.step()
    twin.after_step(0.0)
    assert all(p.grad is None for p in system.parameters())
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert any(not torch.equal(v, before[name]) for name, v in twin.state_dict().items() if name.startswith("encoder."))
    if target == "ema":
        moved = twin.target.average.norm.bias - before["target.average.norm.bias"]
        expected = (1 - 0.996) * (twin.encoder.norm.bias - before["encoder.norm.bias"])
        assert expected.abs().max() > 0
        torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-2)


@pytest.mark.parametrize("anti_collapse", ["sigreg", "vicreg", "barlow", "infonce"])
def test_with_each_regulariser(anti_collapse):
    system = build(anti_collapse=anti_collapse, masks=replace(PAPER, contexts=2), invariance=1.0)
    terms = system.step(system.collator(0)(samples()))
    assert {"loss", "prediction", "alignment"} < set(terms)
    terms["loss"].backward()
    assert all(p.grad is not None for p in system.projector.parameters())


def test_it_learns_to_predict_a_fixed_batch():
    system = build(ema=1.0).train()  # the target stands still, so the loss can only fall by predicting it
    batch = system.collator(0)(samples())
    optimizer = torch.optim.AdamW([p for g in system.parameter_groups() for p in g["params"]], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = system.step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        system.after_step(0.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_the_seed_decides_the_initialisation():
    first, again, other = build(0).state_dict(), build(0).state_dict(), build(1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.blocks.0.attn.qkv.weight"], other["encoder.blocks.0.attn.qkv.weight"])
    # The target starts as the encoder.
    assert torch.equal(first["encoder.norm.weight"], first["target.average.norm.weight"])
    assert torch.equal(first["encoder.blocks.0.attn.qkv.weight"], first["target.average.blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "nanno"}, "Did you mean 'nano'"),
        ({"ema": 1.5}, "ema must be at least 0 and at most 1"),
        ({"invariance": 1.0}, "anti_collapse"),
        ({"invariance": 1.0, "anti_collapse": "sigreg"}, "masks.contexts of at least 2"),
        ({"sigreg": SIGRegConfig(weight=2.0)}, "would do nothing"),
        ({"target": "emma"}, "Did you mean 'ema'"),
        ({"target_norm": "batch"}, "target_norm"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"predictor_depth": 0}, "predictor.depth must be at least 1"),
        ({"predictor_dim": 0}, "predictor.dim must be at least 1"),
        ({"patch_size": 4}, "not a multiple of patch_size 4"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
