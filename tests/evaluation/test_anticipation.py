import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.anticipation import Anticipating
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.systems.v_jepa import VJEPA, VJEPAConfig
from jepakit.systems.v_jepa_2 import VJEPA2, VJEPA2Config
from jepakit.systems.v_jepa_2_1 import VJEPA21, VJEPA21Config

INPUTS = VideoInputs(frames=8, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,))
STILLS = VideoInputs(frames=8, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,), stills=True)
SMALL = {"patch_size": 4, "predictor_dim": 24, "predictor_depth": 1}
SYSTEMS = {
    "v-jepa": (VJEPA, VJEPAConfig, INPUTS),
    "v-jepa-2": (VJEPA2, VJEPA2Config, STILLS),
    "v-jepa-2.1": (VJEPA21, VJEPA21Config, STILLS),
}


def build(name):
    torch.manual_seed(0)
    kind, config, inputs = SYSTEMS[name]
    system = kind(config(**SMALL), inputs).eval()
    with torch.no_grad():
        system.predictor.mask_token.normal_()
    return system


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_what_was_seen_is_followed_by_the_predictors_answers_for_later_positions(name):
    system = build(name)
    clips = torch.randn(3, 1, 8, 16, 16)
    both = Anticipating(system.encoder, system.predictor, seen=4, ahead=4)
    tokens = both(clips)
    width = 128 * (2 if name == "v-jepa-2.1" else 1)
    assert tokens.values.shape == (3, 2 * 16 + 2 * 16, width)
    assert tokens.positions[0, :, 0].tolist() == [t for t in range(4) for _ in range(16)]
    seen = Anticipating(system.encoder, system.predictor, seen=4, ahead=0)(clips)
    torch.testing.assert_close(tokens.values[:, :32], seen.values)
    # one by one, through the predictor's own interface
    levels = system.levels
    context = system.encoder(clips[:1, :, :4], **({} if levels is None else {"levels": levels}))
    asked = {"kind": 1}
    if system.predictor.rotation is not None:
        asked["grid"] = (4, 4, 4)
    if system.predictor.condition_embed is not None:
        asked["condition"] = torch.tensor([[1.0, 0.0]])
    expected = system.predictor(context, Ids(torch.arange(32, 64)[None]), **asked)
    torch.testing.assert_close(tokens.values[:1, 32:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_later_frames_are_not_looked_at(name):
    system = build(name)
    clips = torch.randn(2, 1, 8, 16, 16)
    changed = clips.clone()
    changed[:, :, 4:] = 0
    both = Anticipating(system.encoder, system.predictor, seen=4, ahead=4)
    assert torch.equal(both(clips).values, both(changed).values)
    changed[:, :, 3] = 0
    assert not torch.allclose(both(clips).values[:, 32:], both(changed).values[:, 32:])


@torch.no_grad()
def test_rotary_positions_go_on_beyond_the_clip_and_a_fixed_table_ends():
    system = build("v-jepa-2")
    clips = torch.randn(2, 1, 8, 16, 16)
    tokens = Anticipating(system.encoder, system.predictor, seen=8, ahead=4)(clips)
    assert isinstance(tokens, Tokens)
    assert tokens.values.shape[1] == 64 + 32
    assert int(tokens.positions[..., 0].max()) == 5
    fixed = build("v-jepa")
    with pytest.raises(UserError, match="fixed positions end after 8 frames"):
        Anticipating(fixed.encoder, fixed.predictor, seen=8, ahead=4)


def test_messages():
    system = build("v-jepa")
    with pytest.raises(UserError, match="ahead 3 is no multiple"):
        Anticipating(system.encoder, system.predictor, seen=4, ahead=3)
    with pytest.raises(UserError, match="kind"):
        Anticipating(system.encoder, system.predictor, seen=4, ahead=4, kind=2)
    with pytest.raises(UserError, match="seen 8: these clips have only 4 frames"):
        Anticipating(system.encoder, system.predictor, seen=8, ahead=0)(torch.randn(1, 1, 4, 16, 16))
    images = VisionTransformer(ViTConfig(image_size=(16, 16), patch_size=4))
    with pytest.raises(UserError, match="Systems that have both: v-jepa"):
        Anticipating(images, system.predictor, seen=4, ahead=4)
