import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.tokens import Ids
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig, level_depths

SHAPE = {"frames": 6, "image_size": (8, 12), "patch_size": 4, "channels": 2, "dim": 24, "depth": 4, "heads": 2, "levels": 2}
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(**options):
    torch.manual_seed(0)
    return VideoTransformer(VideoTransformerConfig(**{**SHAPE, "stills": True, **options}))


def clips(frames=6, batch=3):
    return torch.randn(batch, 2, frames, 8, 12, generator=torch.Generator().manual_seed(1))


def test_levels_are_the_released_ones():
    released = {12: (3, 6, 9, 12), 24: (6, 12, 18, 24), 40: (10, 20, 30, 40)}  # counted from 1
    assert {depth: level_depths(depth, 4) for depth in released} == released
    assert level_depths(4, 2) == (2, 4)
    assert level_depths(5, 3) == (2, 4, 5)
    assert level_depths(3, 1) == (3,)
    with pytest.raises(UserError, match="at most the encoder's depth 2"):
        level_depths(2, 4)


def test_a_token_is_a_tubelet_times_the_patch_weights_and_its_place():
    encoder, clip = build(), clips()
    seen = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tokens = encoder(clip)
    assert tokens.values.shape == (3, 3 * 2 * 3, 24)
    weight, bias = encoder.patch_embed.proj.weight.flatten(1), encoder.patch_embed.proj.bias
    for number, (time, row, column) in enumerate(tokens.positions[0].tolist()):
        assert number == (time * 2 + row) * 3 + column
        tubelet = clip[1, :, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = weight @ tubelet.flatten() + bias + encoder.pos_embed[0, number] + encoder.video_mod_embed[0, 0]
        torch.testing.assert_close(seen[0][1, number], expected, **EXACT)


def test_a_still_picture_has_a_patchifier_of_its_own():
    encoder, still = build(), clips(frames=1)
    seen = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tokens = encoder(still)
    assert tokens.values.shape == (3, 6, 24)
    assert tokens.positions[0].tolist() == [[0, row, column] for row in range(2) for column in range(3)]
    patch = still[1, :, 0, 4:8, 8:12]
    weight, bias = encoder.patch_embed_img.proj.weight.flatten(1), encoder.patch_embed_img.proj.bias
    expected = weight @ patch.flatten() + bias + encoder.pos_embed[0, 5] + encoder.img_mod_embed[0, 0]
    torch.testing.assert_close(seen[0][1, 5], expected, **EXACT)
    tokens.values.square().sum().backward()
    assert encoder.patch_embed_img.proj.weight.grad.abs().sum() > 0
    assert encoder.patch_embed.proj.weight.grad is None
    assert encoder.video_mod_embed.grad is None


def test_no_two_places_share_a_position():
    table = build(dim=32).pos_embed[0]
    apart = torch.cdist(table, table) + 9 * torch.eye(len(table))
    assert apart.min() > 0.1


def test_levels_have_norms_of_their_own_and_the_last_is_the_output():
    encoder, clip = build(), clips()
    with torch.no_grad():
        for scale, norm in enumerate(encoder.norms_block, start=2):
            norm.weight.fill_(scale)
    both = encoder(clip, levels=(2, 4)).values
    assert both.shape == (3, 18, 2, 24)
    torch.testing.assert_close(encoder(clip).values, both[:, :, 1], rtol=0, atol=0)
    torch.testing.assert_close(both.std(-1, correction=0).mean((0, 1)), torch.tensor([2.0, 3.0]), atol=1e-3, rtol=1e-3)
    halfway = build(depth=2, levels=1)
    halfway.load_state_dict({n.replace("norms_block.0", "norm"): v for n, v in encoder.state_dict().items()}, strict=False)
    torch.testing.assert_close(halfway(clip).values, both[:, :, 0], **EXACT)
    with pytest.raises(UserError, match="norms for the levels"):
        encoder(clip, levels=(3, 4))


def test_kept_tokens_are_encoded_as_if_alone():
    encoder, clip = build(), clips(batch=2)
    keep = Ids(torch.tensor([[0, 5, 17, 3], [4, 9, 0, 0]]), torch.tensor([4, 2]))
    tokens = encoder(clip, keep, levels=(2, 4))
    for sample, n in ((0, 4), (1, 2)):
        alone = encoder(clip[sample : sample + 1], Ids(keep.values[sample : sample + 1, :n]), levels=(2, 4))
        torch.testing.assert_close(tokens.values[sample, :n], alone.values[0], **EXACT)
    assert tokens.positions[0, 2].tolist() == [2, 1, 2]


def test_fewer_frames_are_the_first_moments():
    encoder, clip = build(), clips()
    short, first = encoder(clip[:, :, :2]), encoder(clip, Ids(torch.arange(6).expand(3, -1)))
    torch.testing.assert_close(short.values, first.values, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 5}, "cannot be cut into tubelets of 2"),
        ({"patch_size": 5}, "not a multiple of patch_size 5"),
        ({"heads": 5}, "multiple of heads"),
        ({"levels": 5}, "at most the encoder's depth 4"),
        ({"tubelet": 0}, "tubelet must be at least 1"),
    ],
)
def test_shapes_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(1, 1, 6, 8, 12), r"expects clips \[batch, 2, frames, 8 x 12\]"),
        (torch.zeros(1, 2, 6, 12, 12), r"expects clips \[batch, 2, frames, 8 x 12\]"),
        (torch.zeros(1, 2, 3, 8, 12), r"a multiple of 2 \(or 1, a still picture\), got 3"),
        (torch.zeros(1, 2, 8, 8, 12), "2 to 6 frames"),
    ],
)
def test_clips_that_do_not_fit(clip, message):
    with pytest.raises(UserError, match=message):
        build()(clip)


def test_without_stills_a_single_frame_is_refused_and_nothing_is_built_for_it():
    encoder = build(stills=False)
    assert not [name for name in encoder.state_dict() if "img" in name or "mod_embed" in name]
    with pytest.raises(UserError, match="got 1"):
        encoder(clips(frames=1))
