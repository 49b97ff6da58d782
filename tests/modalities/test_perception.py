"""A pretrained encoder of images as a world model's eyes, from a module of its own to a run that is loaded again."""

import shutil

import pytest
import torch

import jepakit
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.runs import Run
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.perception import PretrainedPerception, PretrainedTokens
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig

TINY = {"steps": 2, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "health_samples": 8, "test_fraction": 0.0}


def eyes(channels=1, side=8):
    torch.manual_seed(0)
    vit = VisionTransformer(ViTConfig(image_size=(side, side), patch_size=4, channels=channels, dim=8, depth=1, heads=2))
    inputs = ImageInputs(image_size=(side, side), channels=channels, mean=(0.3,) * channels, std=(0.5,) * channels)
    return PretrainedEncoder(vit, inputs)


def observed(*shape):
    return TrajectoryInputs(
        shape=shape, mean=(0.1,) * shape[0], std=(0.2,) * shape[0], action_mean=(0.0,), action_std=(1.0,), history=1, horizon=1
    )


def test_it_sees_what_the_encoder_saw_whatever_the_world_model_was_normalised_with():
    given = eyes()
    perception = PretrainedPerception(given, observed(1, 8, 8)).train()
    pixels = torch.rand(5, 1, 8, 8)
    found = perception((pixels - 0.1) / 0.2)
    torch.testing.assert_close(found, given.encoder((pixels - 0.3) / 0.5).values.flatten(1), atol=1e-5, rtol=1e-5)
    assert perception.output_dim == found.shape[1] == 4 * 8
    assert not found.requires_grad
    assert not perception.encoder.training


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 8, 8), "an observation here is 2 x 8 x 8"), ((1, 8, 12), "1 x 8 x 12"), ((3,), "a vector of 3")],
)
def test_other_channels_sizes_and_vectors_are_refused(shape, message):
    with pytest.raises(UserError, match=rf"pictures of 1 x 8 x 8.*{message}"):
        PretrainedPerception(eyes(), observed(*shape))


def test_two_channels_are_red_and_green_to_an_encoder_of_colour():
    given = eyes(channels=3)
    pixels = torch.rand(5, 2, 8, 8)
    shown = torch.cat([pixels, torch.zeros(5, 1, 8, 8)], dim=1)
    found = PretrainedPerception(given, observed(2, 8, 8))((pixels - 0.1) / 0.2)
    torch.testing.assert_close(found, given.encoder((shown - 0.3) / 0.5).values.flatten(1), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"3 x 8 x 8.*an observation here is 1 x 8 x 8"):
        PretrainedPerception(given, observed(1, 8, 8))


def test_tokens_one_by_one():
    given = eyes()
    perception = PretrainedTokens(given, observed(1, 8, 8))
    pixels = torch.rand(5, 1, 8, 8)
    found = perception((pixels - 0.1) / 0.2)
    torch.testing.assert_close(found.values, given.encoder((pixels - 0.3) / 0.5).values, atol=1e-5, rtol=1e-5)
    assert (perception.grid, perception.dim) == ((2, 2), 8)


@pytest.mark.parametrize("stills", [False, True])
def test_an_encoder_of_clips_sees_a_picture_that_stands_still_for_a_tubelet(stills):
    torch.manual_seed(0)
    config = VideoTransformerConfig(
        frames=4, image_size=(8, 12), patch_size=4, channels=1, stills=stills, dim=8, depth=1, heads=2
    )
    inputs = VideoInputs(frames=4, image_size=(8, 12), channels=1, mean=(0.3,), std=(0.5,), stills=stills)
    given = PretrainedEncoder(VideoTransformer(config), inputs, modality=VIDEO)
    perception = PretrainedTokens(given, observed(1, 8, 12))
    pixels = torch.rand(5, 1, 8, 12)
    clips = ((pixels - 0.3) / 0.5)[:, :, None].repeat(1, 1, 2, 1, 1)
    found = perception((pixels - 0.1) / 0.2)
    torch.testing.assert_close(found.values, given.encoder(clips).values, atol=1e-5, rtol=1e-5)
    assert perception.grid == (2, 3)


@pytest.mark.parametrize(("system", "options"), [("pldm", {"horizon": 2}), ("lewm", {"projector": [16]})])
def test_a_run_keeps_its_eyes(system, options, tmp_path):
    # Pictures of the pendulum as images for the encoder.
    channels = jepakit_channels()
    exported = eyes(channels, 32).save_pretrained(tmp_path / "eyes")
    run = tmp_path / "run"
    jepakit.pretrain(system, data="pendulum-pixels", out=run, limit=64, embedding=8, encoder=str(exported), **options, **TINY)
    shutil.rmtree(exported)
    opened = Run(run)
    loaded, config = opened.system, opened.config
    assert isinstance(loaded.encoder.encoder, PretrainedPerception)
    theirs = eyes(channels, 32).encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.encoder.encoder.encoder.state_dict().items())
    assert loaded.encode(torch.zeros(2, 1, *config.inputs.shape)).values.shape == (2, 1, 8)
    with pytest.raises(UserError, match="a vector of 3"):
        jepakit.pretrain(system, data="pendulum", out=tmp_path / "b", limit=64, encoder=str(run / "encoder"), **options, **TINY)
    with pytest.raises(UserError, match="reads trajectories"):
        jepakit.pretrain(system, data="pendulum-pixels", out=tmp_path / "c", limit=64, encoder=str(run), **options, **TINY)


def jepakit_channels():
    from jepakit.modalities.trajectories.built_in.pendulum import pendulum_episodes

    return pendulum_episodes(pixels=True).observations.shape[1]
