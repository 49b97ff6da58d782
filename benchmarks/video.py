"""Clips/s of decoding, of drawing masks, and of a training step of V-JEPA 2, on one process.

Sixteen frames at 4 a second, 96 x 96, of ten films of 20 s at 320 x 240, 25 frames a second, a key frame every two seconds
(H.264, as PyAV's FFmpeg writes it): a clip is 3.75 s anywhere in a film. The reference decodes as one does first: the film from
its beginning, every frame to RGB, those wanted kept and reduced with PIL. Masks and step are compared with the decoding: how
many times its clips/s they are. Below 1 the step is what a run waits for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Result
from jepakit.device import autocast, native_bfloat16
from jepakit.masks.tubes import TubeConfig, Tubes
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import VideoData, open_videos
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.samples import pixels_of
from jepakit.randomness import Draws
from jepakit.systems.v_jepa_2 import VJEPA2, VJEPA2Config

FILMS, SECONDS, RATE, SIZE = 10, 20, 25, (240, 320)
FRAMES, FPS, SEEN, BATCH = 16, 4, (96, 96), 8


def write_films(folder: Path) -> None:
    """Coarse coloured shapes that drift, with grain."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(FILMS):
        wide = Image.fromarray(rng.integers(0, 256, (18, 48, 3), dtype=np.uint8)).resize((960, 360), Image.Resampling.BICUBIC)
        ground = np.asarray(wide).astype(np.int16)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            stream.codec_context.gop_size = 2 * RATE
            for frame in range(SECONDS * RATE):
                seen = ground[frame % 100 : frame % 100 + SIZE[0], frame : frame + SIZE[1]]
                grain = rng.integers(-8, 9, seen.shape, dtype=np.int16)
                picture = np.clip(seen + grain, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def plain_clip(path: Path, begin: float) -> torch.Tensor:
    """The decoding of a first attempt."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [round((begin + number / FPS) * RATE) for number in range(FRAMES)]
    small = [np.asarray(Image.fromarray(frames[number]).resize(SEEN)) for number in wanted]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


def rate(work: Callable[[int], object], clips: int, rounds: int = 3) -> float:
    """Clips/s of the fastest round."""
    best = float("inf")
    for number in range(rounds):
        start = time.perf_counter()
        work(number)
        best = min(best, time.perf_counter() - start)
    return clips / best


def step_of(data: VideoData, size: str) -> Callable[[int], object]:
    """A step of `BATCH` clips, and what it learns from."""
    torch.manual_seed(0)
    system = VJEPA2(VJEPA2Config(size=size, patch_size=16), VideoInputs.of(data))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad])
    samples = [{**data.train[number % len(data.train)], "epoch": 0} for number in range(BATCH)]
    batch, cpu = system.collator(0)([{**sample, "clip": pixels_of(sample)} for sample in samples]), torch.device("cpu")

    def step(_: int) -> None:
        with autocast(cpu, torch.bfloat16 if native_bfloat16(cpu) else torch.float32):
            loss = system.step(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        system.after_step(0.5)

    return step


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        films = Path(place) / "films"
        write_films(films)
        config = VideoDataConfig(data=str(films), labels="none", stills="none", fps=FPS, image_size=SEEN, test_fraction=0.0)
        data = open_videos(config, 0)
        inputs, paths = VideoInputs.of(data), sorted(films.glob("*.mp4"))
        begins = np.random.default_rng(0).uniform(0, SECONDS - FRAMES / FPS - 1, FILMS)

        def ours(epoch: int) -> None:
            for number in range(FILMS):
                inputs.prepare([{**data.train[number], "epoch": epoch}])

        def plain(_: int) -> None:
            for path, begin in zip(paths, begins, strict=True):
                plain_clip(path, float(begin))

        decoded = rate(ours, FILMS)
        results = [Result("video: decoding", decoded, rate(plain, FILMS, 2), "clips/s")]
        tubes = Tubes(TubeConfig(), (8, 6, 6))
        drawn = rate(lambda number: tubes(Draws(number, "masks", 0, range(256))), 256)
        results.append(Result("video: masks, against decoding", drawn, decoded, "clips/s"))
        for size in ("nano", "tiny", "small"):
            learned = rate(step_of(data, size), BATCH)
            results.append(Result(f"video: a step, {size}, against decoding", learned, decoded, "clips/s"))
        return results
