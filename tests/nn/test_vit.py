import pytest
import torch

from jepakit.errors import UserError
from jepakit.interop.released.hugging_face import IMAGE_NAMES, to_theirs
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig, default_patch_size
from jepakit.registry import SIZES

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def vit(image_size=(32, 32), patch_size=8, depth=3, seed=0):
    torch.manual_seed(seed)
    model = VisionTransformer(ViTConfig(image_size=image_size, patch_size=patch_size, dim=48, depth=depth, heads=4))
    with torch.no_grad():  # away from the small initialisation, where any error would be small too
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def peer():
    """The same weights in `transformers`' IJepaModel."""
    transformers = pytest.importorskip("transformers")
    ours = vit()
    config = transformers.IJepaConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=8,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    state = to_theirs(dict(ours.state_dict()), IMAGE_NAMES)
    theirs, report = transformers.IJepaModel.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return ours, theirs.eval()


@pytest.mark.peer
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (16, 48), (56, 24), (8, 8)])
@torch.no_grad()
def test_agrees_with_transformers_square_and_rectangular(peer, size):
    ours, theirs = peer
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = theirs(images, interpolate_pos_encoding=size != (32, 32)).last_hidden_state
    tokens = ours(images).values
    assert tokens.std() > 0.5
    torch.testing.assert_close(tokens, expected, **EXACT)


@torch.no_grad()
def test_kept_tokens_are_as_if_the_others_did_not_exist():
    """A ragged batch equals each sample alone, and that equals the blocks applied to the kept embeddings by hand."""
    model = vit(image_size=(24, 40))
    images = torch.randn(3, 3, 24, 40)
    keep = [torch.tensor([14, 3]), torch.tensor([0, 1, 2, 7, 11]), torch.tensor([5])]
    padded = torch.nn.utils.rnn.pad_sequence(keep, batch_first=True)
    ragged = model(images, keep=Ids(padded, torch.tensor([2, 5, 1])))
    assert ragged.lengths.tolist() == [2, 5, 1]
    for sample, ids in enumerate(keep):
        alone = model(images[sample : sample + 1], keep=Ids(ids[None]))
        torch.testing.assert_close(ragged.values[sample, : len(ids)], alone.values[0], **EXACT)
        assert ragged.positions[sample, : len(ids)].tolist() == [[int(i) // 5, int(i) % 5] for i in ids]
        x = (model.patch_embed(images[sample : sample + 1]).flatten(2).transpose(1, 2) + model.pos_embed)[:, ids]
        for block in model.blocks:
            x = block(x)
        torch.testing.assert_close(alone.values, model.norm(x), **EXACT)


@torch.no_grad()
def test_hidden_pixels_and_padding_ids_never_leak():
    model = vit()
    images = torch.randn(2, 3, 32, 32)
    ids, lengths = torch.tensor([[0, 1, 5, 0], [8, 9, 10, 11]]), torch.tensor([3, 4])
    before = model(images, keep=Ids(ids, lengths)).values
    changed = images.clone()
    changed[:, :, 24:, 24:] += 10  # token 15, which nobody keeps
    ids[0, 3] = 13  # another padding
    after = model(changed, keep=Ids(ids, lengths)).values
    torch.testing.assert_close(after[0, :3], before[0, :3], rtol=0, atol=0)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)


@torch.no_grad()
def test_levels_are_the_normalised_outputs_of_blocks():
    model, images = vit(), torch.randn(2, 3, 32, 32)
    tokens = model(images, levels=(1, 3)).values
    assert tokens.shape == (2, 16, 2, 48)
    torch.testing.assert_close(tokens[:, :, 1], model(images).values, **EXACT)
    shallow = vit(depth=1)
    shallow.load_state_dict({k: v for k, v in model.state_dict().items() if k in shallow.state_dict()})
    torch.testing.assert_close(tokens[:, :, 0], shallow(images).values, **EXACT)
    both = model(images, keep=Ids(torch.tensor([[3, 1], [0, 2]])), levels=(3, 2)).values
    assert both.shape == (2, 2, 2, 48)
    torch.testing.assert_close(both[:, :, 0], model(images, keep=Ids(torch.tensor([[3, 1], [0, 2]]))).values, **EXACT)


def test_positions_are_not_trained_and_everything_else_is():
    model = vit()
    model(torch.randn(2, 3, 32, 32)).values.square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"pos_embed"}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(1, 1, 32, 32), {}, "3, height, width"),
        (torch.zeros(1, 3, 30, 32), {}, "multiples of the patch size 8"),
        (torch.zeros(1, 3, 32, 32), {"levels": (0,)}, "between 1 and the depth 3"),
    ],
)
def test_mistakes_in_inputs(images, options, message):
    with pytest.raises(UserError, match=message):
        vit()(images, **options)


def test_mistakes_in_options():
    with pytest.raises(UserError, match=r"height 30 is not a multiple of patch_size 8\. Use 32"):
        ViTConfig(image_size=(30, 32), patch_size=8)
    with pytest.raises(UserError, match="heads"):
        ViTConfig(image_size=(32, 32), patch_size=8, dim=50, heads=4)
    with pytest.raises(UserError, match="depth must be at least 1"):
        ViTConfig(image_size=(32, 32), patch_size=8, depth=0)


@pytest.mark.parametrize(
    ("size", "patch"), [((224, 224), 16), ((28, 28), 7), ((8, 8), 2), ((32, 48), 8), ((40, 24), 4), ((7, 7), 1)]
)
def test_default_patches_divide_the_image_and_leave_four_a_side(size, patch):
    assert default_patch_size(size) == patch


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_have_the_released_widths(size):
    config = ViTConfig.of_size(size, (224, 224), 3, 14)
    released = {  # width, depth, heads, hidden: facebookresearch/ijepa, src/models/vision_transformer.py
        "tiny": (192, 12, 3, 768), "small": (384, 12, 6, 1536), "base": (768, 12, 12, 3072),
        "large": (1024, 24, 16, 4096), "huge": (1280, 32, 16, 5120), "giant": (1408, 40, 16, 6144),
    }  # fmt: skip
    if size in released:
        assert (config.dim, config.depth, config.heads, round(config.dim * config.mlp_ratio)) == released[size]
    assert config.grid == (16, 16)
