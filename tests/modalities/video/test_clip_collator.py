from dataclasses import replace

import pytest
import torch

from jepakit.errors import UserError
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.video.clip_collator import ClipAugmentation, ClipCollator
from jepakit.modalities.video.inputs import VideoInputs

INPUTS = VideoInputs(frames=4, image_size=(16, 24), channels=1, mean=(0.5,), std=(0.25,))
GRID = (2, 4, 6)


def samples(ids=range(6), epoch=0, size=(16, 24)):
    """Clips whose pixels say where they lie: brightness is the column, and the same in all frames."""
    columns = torch.linspace(0, 1, size[1]).expand(4, 1, *size)
    return [{"clip": columns, "id": i, "epoch": epoch, "step": 0, "progress": 0.0} for i in ids]


def collate(given, seed=0, **options):
    return ClipCollator(INPUTS, TubeConfig(), {"video": GRID}, seed, augment=ClipAugmentation(**options))(given)["inputs"]


def test_nothing_is_drawn_by_default():
    torch.testing.assert_close(collate(samples()), INPUTS.prepare(samples()))


def test_a_crop_is_one_box_for_all_frames_and_a_function_of_seed_epoch_and_id():
    found = collate(samples(), crop=(0.3, 0.6))
    assert found.shape == (6, 1, 4, 16, 24)
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found))
    unit = INPUTS.unit(found.transpose(1, 2))[:, 0, 0, 8]  # a row of each
    widths = unit[:, -1] - unit[:, 0]
    assert (widths > 0.35).all()  # a share of 0.3 of the area, at 3/4 of the proportions
    assert (widths < 0.95).all()
    assert widths.std() > 0.02
    slopes = unit.diff(dim=1)[:, 1:-1]
    torch.testing.assert_close(slopes, slopes[:, :1].expand_as(slopes), atol=2e-3, rtol=0)  # a crop, and no other change
    torch.testing.assert_close(collate(samples(ids=[4, 2]), crop=(0.3, 0.6)), found[[4, 2]])
    for other in (collate(samples(epoch=1), crop=(0.3, 0.6)), collate(samples(), seed=1, crop=(0.3, 0.6))):
        assert (other - found).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def test_some_are_mirrored():
    plain, found = collate(samples(range(200))), collate(samples(range(200)), flip=0.3)
    mirrored = torch.tensor([bool(torch.equal(x, y.flip(-1))) for x, y in zip(found, plain, strict=True)])
    torch.testing.assert_close(found[~mirrored], plain[~mirrored])
    assert 0.2 < mirrored.float().mean() < 0.4


def test_clips_of_several_sizes_and_stills_are_cropped_too():
    inputs = replace(INPUTS, stills=True)
    stills = [{**sample, "clip": sample["clip"][:1], "stream": "image"} for sample in samples(range(3))]
    grids = {"video": GRID, "image": (1, 4, 6)}
    given = [*samples([0]), *samples([1], size=(40, 30)), *stills]
    batch = ClipCollator(inputs, TubeConfig(), grids, 0, still_frames=2, augment=ClipAugmentation(crop=(0.5, 0.9)))(given)
    assert batch["video"]["inputs"].shape == (2, 1, 4, 16, 24)
    assert batch["image"]["inputs"].shape == (3, 1, 2, 16, 24)
    assert (batch["image"]["inputs"][0] - batch["image"]["inputs"][1]).abs().max() > 1e-3


def test_mistakes():
    for crop in ((0.0, 1.0), (0.6, 0.3), (0.5, 1.2)):
        with pytest.raises(UserError, match=r"augment.crop must be two numbers with 0 < low <= high <= 1"):
            ClipAugmentation(crop=crop)
    with pytest.raises(UserError, match=r"augment.flip"):
        ClipAugmentation(flip=1.5)
