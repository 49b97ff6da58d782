import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.frame_encoder import FrameEncoder
from jepakit.nn.positions import grid_positions
from jepakit.nn.tokens import Ids

SHAPE = ConvNetConfig(image_size=(16, 16), channels=1, dim=16, width=8)


def test_each_frame_is_encoded_as_the_convnet_encodes_the_picture():
    torch.manual_seed(0)
    frames, still = FrameEncoder(SHAPE), ConvNet(SHAPE)
    still.load_state_dict(frames.state_dict())
    clips = torch.randn(2, 1, 3, 24, 16)
    tokens = frames(clips)
    assert tokens.values.shape == (2, 3 * 6 * 4, 16)
    for clip in range(2):
        for frame in range(3):
            alone = still(clips[clip : clip + 1, :, frame])
            here = slice(24 * frame, 24 * (frame + 1))
            torch.testing.assert_close(tokens.values[clip, here], alone.values[0])
            assert torch.equal(tokens.positions[clip, here, 1:], alone.positions[0])
    assert torch.equal(tokens.positions[1], grid_positions((3, 6, 4)))
    torch.testing.assert_close(frames(clips[:, :, 0]).values, tokens.values[:, :24])


def test_no_clip_gives_no_tokens():
    assert FrameEncoder(SHAPE)(torch.zeros(0, 1, 2, 16, 16)).values.shape == (0, 32, 16)


def test_mistakes():
    encoder, clip = FrameEncoder(SHAPE), torch.zeros(1, 1, 2, 16, 16)
    with pytest.raises(UserError, match="frames one by one"):
        encoder(clip, levels=(0,))
    with pytest.raises(UserError, match="cannot encode some tokens alone"):
        encoder(clip, keep=Ids(torch.zeros(1, 1, dtype=torch.long)))
    with pytest.raises(UserError, match=r"images \[batch, 1"):
        encoder(torch.zeros(1, 3, 2, 16, 16))
