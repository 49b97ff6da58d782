import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.evaluation.frozen_features import Reading, clips_of_a_file, frozen_features, labels_of, some
from jepakit.evaluation.pooling import pool
from jepakit.interop.embedding import at_levels, embed_samples
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.systems.v_jepa_2 import VJEPA2, VJEPA2Config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    data = open_videos(VideoDataConfig(data="bouncing-digits", frames=4, image_size=(16, 16), stills="none"), 0)
    return data.train.subset(range(12)), data.test.subset(range(6)), VideoInputs.of(data)


@pytest.fixture(scope="module")
def system(parts):
    torch.manual_seed(0)
    return VJEPA2(VJEPA2Config(patch_size=4, predictor_dim=24, predictor_depth=1), parts[2]).eval()


def read(system, parts, reading, inputs=None):
    encoders = {"encoder": system.target.encoder, "random init": system.encoder}
    return frozen_features(encoders, system.predictor, inputs or parts[2], parts[:2], reading, CPU, 0)


def test_levels_stand_side_by_side_each_normalised(parts):
    torch.manual_seed(0)
    shape = VideoTransformerConfig.of_size("nano", 4, (16, 16), 1, 4)
    encoder = VideoTransformer(shape).eval()
    found = embed_samples(at_levels(encoder, (1, shape.depth)), parts[2], parts[0], pooling=None)
    clips = parts[2].prepare([parts[0][i] for i in range(12)])
    with torch.no_grad():
        torch.testing.assert_close(found[..., shape.dim :], encoder(clips).values)
        torch.testing.assert_close(found[..., : shape.dim], encoder(clips, levels=(1,)).values[:, :, 0])
    torch.testing.assert_close(found[..., : shape.dim].mean(-1), torch.zeros(12, 32), atol=1e-4, rtol=0)
    assert at_levels(encoder, None) is encoder
    with pytest.raises(UserError, match=f"between 1 and the depth {shape.depth}"):
        at_levels(encoder, (0,))(clips)
    with pytest.raises(UserError, match="levels are of transformers; this encoder is a ConvNet"):
        at_levels(ConvNet(ConvNetConfig(image_size=(16, 16))), (1,))


def test_levels_of_every_encoder_and_tokens_only_where_asked(system, parts):
    features = read(system, parts, Reading(levels=(1, 2), tokens=True))
    assert [one.name for one in features] == ["encoder", "random init", "pixels", "pca"]
    assert [one.train_tokens is None for one in features] == [False, False, True, True]
    assert features[0].train_tokens.shape == (12, 2 * 16, 2 * 128)
    torch.testing.assert_close(features[0].train, pool(features[0].train_tokens))
    assert read(system, parts, Reading())[0].train_tokens is None


def test_anticipation_has_the_predictors_tokens_beside_those_of_what_was_seen(system, parts):
    features = read(system, parts, Reading(seen=2, tokens=True))
    assert [one.name for one in features] == ["encoder", "with predictor", "random init", "pixels", "pca"]
    without, predicted, random = (one.test_tokens for one in features[:3])
    assert (without.shape[1], predicted.shape[1], random.shape[1]) == (16, 32, 16)
    torch.testing.assert_close(predicted[:, :16], without)
    assert features[3].train.shape == (12, 2 * 16 * 16)  # pixels of the frames that were seen, and of no others
    assert read(system, parts, Reading(ahead=2, tokens=True))[1].test_tokens.shape[1] == 32 + 16
    for reading, words in (
        (Reading(seen=4), "nothing is left of 4 frames to anticipate"),
        (Reading(seen=2, levels=(1,)), "Leave --levels out"),
    ):
        with pytest.raises(UserError, match=words):
            read(system, parts, reading)
    with pytest.raises(UserError, match="seen and ahead are of clips"):
        Reading(seen=2).frames(object())


class Files:
    """Six files of two clips each, as a data set knows them."""

    def __init__(self, ids):
        self.ids, self.labels = np.asarray(ids), np.asarray(ids) // 2

    def __len__(self):
        return len(self.ids)

    def subset(self, chosen):
        return Files(self.ids[chosen])


class TwoClips:
    clips = 2


def test_clips_of_a_file_stay_together():
    files = Files(range(4, 16))
    assert clips_of_a_file(files, TwoClips()) == 2
    assert clips_of_a_file(Files(range(3, 15)), TwoClips()) == 1  # begins in the middle of a file
    assert clips_of_a_file(files, object()) == 1
    drawn = some(files, 7, seed=0, together=2)
    assert len(drawn) == 6
    assert (drawn.ids[1::2] == drawn.ids[::2] + 1).all()
    assert (drawn.ids[::2] % 2 == 0).all()
    assert len(labels_of(drawn, 2)) == 3
    assert some(files, 12, seed=0, together=2) is files


def test_tokens_of_the_clips_of_a_file_are_attended_together(system, parts):
    apart = read(system, parts, Reading(tokens=True))[0]
    joined = read(system, parts, Reading(tokens=True, together=3))[0]
    assert joined.train_tokens.shape == (4, 3 * 32, 128)
    torch.testing.assert_close(joined.train_tokens[1], apart.train_tokens[3:6].flatten(0, 1))
    torch.testing.assert_close(joined.train[1], apart.train[3:6].mean(0))
