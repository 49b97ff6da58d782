"""Fixed features as targets, against closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.energies import Energy
from jepakit.core.feature_targets import GradientTarget, PixelTarget, patches, ratio_gradient
from jepakit.core.masked import Masked
from jepakit.errors import UserError
from jepakit.nn.positions import grid_positions
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig
from tests.core.test_masked import EXACT, GRID, draw


def test_a_patch_holds_its_pixels_row_by_row_and_channel_by_channel():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    tokens = PixelTarget((2, 3), norm="none")(images)
    assert torch.equal(tokens.positions[1], grid_positions((2, 2)))
    for token, (row, column) in enumerate(tokens.positions[0].tolist()):
        block = images[1, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert torch.equal(tokens.values[1, token], block.permute(1, 2, 0).flatten())
    assert PixelTarget((2, 3)).dim(3) == 18 == tokens.values.shape[-1]


def test_clips_and_sequences_are_cut_as_images_are():
    clips = torch.randn(2, 3, 4, 6, 8)
    tokens = PixelTarget((2, 3, 4), norm="none")(clips)
    assert tokens.values.shape == (2, 8, 72)
    assert torch.equal(tokens.positions[0], grid_positions((2, 2, 2)))
    assert torch.equal(tokens.values[1, 6], clips[1, :, 2:4, 3:6, :4].permute(1, 2, 3, 0).flatten())
    waves = torch.randn(2, 1, 12)
    assert torch.equal(patches(waves, (4,)), waves.reshape(2, 3, 4))


def test_normalised_patches():
    """A ramp has mean and variance in closed form, whatever its height and slope; constants become zeros."""
    n = 16
    ramp = torch.arange(n).double().reshape(1, 1, 4, 4)
    standard = (torch.arange(n) - (n - 1) / 2) / math.sqrt(n * (n + 1) / 12)
    for slope, height in ((1.0, 0.0), (0.3, -5.0), (70.0, 1000.0)):
        tokens = PixelTarget((4, 4), eps=0.0)(slope * ramp + height)
        torch.testing.assert_close(tokens.values[0, 0], standard.double())
    assert torch.equal(PixelTarget((4, 4))(torch.full((1, 1, 4, 4), 0.7)).values, torch.zeros(1, 1, 16))
    eps = PixelTarget((4, 4), eps=1.0)(ramp).values[0, 0]
    torch.testing.assert_close(eps, ((torch.arange(n) - 7.5) / math.sqrt(n * (n + 1) / 12 + 1)).double())


def by_the_formula(picture, k):
    """Pixel by pixel, window by window."""
    height, width = picture.shape
    padded = F.pad(picture[None, None], (k, k, k, k), mode="reflect")[0, 0]
    strength = torch.empty(height, width, dtype=picture.dtype)
    for row in range(height):
        for column in range(width):
            window = padded[row : row + 2 * k + 1, column : column + 2 * k + 1]
            across = math.log(window[:, : k + 1].sum() / window[:, k:].sum())
            down = math.log(window[: k + 1].sum() / window[k:].sum())
            strength[row, column] = math.sqrt(across**2 + down**2)
    return strength


def speckle(*shape):
    """Exponential intensities, as of one look, away from 0."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.05 - uniform.clamp_min(1e-6).log()


def test_ratio_gradients_are_the_formula():
    pictures = speckle(2, 1, 12, 9)
    for k in (1, 3):
        strength = ratio_gradient(pictures, k)
        for picture, single in zip(pictures[:, 0], strength[:, 0], strict=True):
            torch.testing.assert_close(single, by_the_formula(picture, k))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_step_edge_in_closed_form(k):
    """At an edge from a to b, seen from the first column of b: k columns of a and one of b, over k + 1 of b."""
    a, b, height, width = 0.2, 1.7, 16, 32
    picture = torch.full((1, 1, height, width), a, dtype=torch.float64)
    picture[..., width // 2 :] = b
    across, down = ratio_gradient(picture, k), ratio_gradient(picture.transpose(2, 3), k)
    expected = abs(math.log((k * a + b) / ((k + 1) * b)))
    torch.testing.assert_close(across[0, 0, 8, 16], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(down.transpose(2, 3), across)
    assert across[0, 0, 8, : 16 - k - 1].abs().max() < 1e-12  # nothing where no window reaches the edge
    assert ratio_gradient(torch.full((1, 1, 12, 12), 0.3, dtype=torch.float64), k).abs().max() < 1e-12


def test_a_gain_changes_no_ratio_and_speckle_looks_alike_in_dark_and_bright():
    target = GradientTarget((4, 4), scales=(1, 2, 3), offset=0.0)
    pictures = speckle(3, 1, 16, 16)
    expected = target(pictures).values
    assert expected.std() > 0.1
    for gain in (1e-3, 7.0, 1e4):
        torch.testing.assert_close(target(gain * pictures).values, expected)
    torch.testing.assert_close(target(pictures * torch.tensor([0.1, 1.0, 30.0])[:, None, None, None]).values, expected)
    # A difference of pixels grows with their brightness; with an offset the ratio is nearly what it was.
    near = GradientTarget((4, 4), scales=(1, 2, 3))
    assert (near(7 * pictures).values - near(pictures).values).abs().max() < 0.1 * expected.max()


def test_tokens_hold_each_pixels_scales_side_by_side_and_normalisation_is_undone():
    pictures = speckle(2, 1, 12, 12)
    target = GradientTarget((3, 4), scales=(1, 2), offset=0.01, mean=(0.4,), std=(2.0,))
    tokens = target((pictures - 0.4) / 2.0)
    assert tokens.values.shape == (2, 12, 24) == (2, 12, target.dim(1))
    for scale, k in enumerate((1, 2)):
        expected = patches(ratio_gradient(pictures + 0.01, k), (3, 4))
        torch.testing.assert_close(tokens.values[..., scale::2], expected)


@pytest.mark.parametrize("target", [PixelTarget((4, 4)), GradientTarget((4, 4), scales=(1, 2))], ids=["pixels", "gradients"])
def test_only_kept_tokens_are_given_and_nothing_flows(target):
    images = speckle(2, 1, 16, 24).requires_grad_()
    keep = Ids(torch.tensor([[5, 0, 0], [23, 7, 1]]), torch.tensor([1, 3]))
    whole, kept = target(images), target(images, keep=keep)
    assert torch.equal(kept.values, keep.gather(whole.values))
    assert torch.equal(kept.positions, keep.gather(whole.positions))
    assert kept.lengths is keep.lengths
    assert not whole.values.requires_grad
    assert not list(target.state_dict())
    target.update(0.5)  # nothing follows
    assert torch.equal(target(images).values, whole.values)
    assert target(images.detach().float()).values.dtype == target(images.detach().bfloat16()).values.dtype == torch.float32


def system(target, **options):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(16, 24), patch_size=4, channels=1, dim=16, depth=1, heads=2))
    predictor = MaskedPredictor(PredictorConfig(dim=12, depth=1, heads=3), 16, GRID, target.dim(1))
    return Masked(encoder, predictor, target, Energy(name="l2"), target_norm="none", **options)


@pytest.mark.parametrize("sees", ["all", "asked"])
def test_the_masked_shape_with_pixels_as_target_is_mae(sees):
    """The mean squared error over the pixels of hidden patches; `encode` is the encoder, and a step trains it."""
    model, batch = system(PixelTarget((4, 4)), target_sees=sees), draw(blocks=1)
    numbers, errors = model.step(batch), []
    for i in range(5):
        context = model.encoder(batch["inputs"][i : i + 1], keep=Ids(batch["context"][i, :, : batch["context_lengths"][i, 0]]))
        hidden = batch["targets"][i, 0, : batch["target_lengths"][i, 0]]
        prediction = model.predictor(context, Ids(hidden[None]))[0]
        for token, patch in zip(hidden.tolist(), prediction, strict=True):
            row, column = divmod(token, 6)
            pixels = batch["inputs"][i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((patch - pixels).square().mean())
    torch.testing.assert_close(numbers["loss"], torch.stack(errors).mean(), **EXACT)
    assert model.encoders() == {"target": model.encoder, "encoder": model.encoder}
    torch.testing.assert_close(model.encode(batch["inputs"]).values, model.encoder(batch["inputs"]).values, rtol=0, atol=0)
    numbers["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not [name for name in model.state_dict() if name.startswith("target")]


def test_mistakes():
    images = torch.ones(1, 1, 16, 24)
    for target, message in (
        (PixelTarget((5, 4)), r"patch \(5, 4\) does not tile inputs of sides \(16, 24\)"),
        (PixelTarget((4,)), "does not tile"),
        (PixelTarget((1, 1)), "one number"),
        (GradientTarget((4, 4)), "scales .*does not fit into an image of 16 x 24. Give scales below 16"),
    ):
        with pytest.raises(UserError, match=message):
            target(images)
    with pytest.raises(UserError, match="levels"):
        PixelTarget((4, 4))(images, levels=(1, 2))
    for build, message in (
        (lambda: PixelTarget((0, 4)), "patch"),
        (lambda: PixelTarget((4, 4), norm="layer"), "norm: 'layer' is not known"),
        (lambda: GradientTarget((2, 4, 4)), "of images"),
        (lambda: GradientTarget((4, 4), scales=()), "scales"),
        (lambda: GradientTarget((4, 4), offset=-1.0), "offset"),
    ):
        with pytest.raises(UserError, match=message):
            build()
