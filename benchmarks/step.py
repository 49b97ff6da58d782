"""A training step of I-JEPA, ViT-S/16 at 224 px: ours against the released step, transcribed; equal weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import product_rate
from benchmarks.timing import Result, peak_memory, seconds
from jepakit.device import autocast, native_bfloat16, to_device
from jepakit.masks.blocks import MultiBlockConfig
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.systems.i_jepa import IJEPA, IJEPAConfig
from jepakit.training.config import TrainingConfig
from jepakit.training.optimizer import build_optimizer
from jepakit.training.schedules import set_schedule

BATCH, SIDE = 32, 224
INPUTS = ImageInputs(image_size=(SIDE, SIDE), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
PAPER = {"targets": 4, "target_scale": (0.15, 0.2), "contexts": 1}


def system(predict: str, sampler: str = "corrected") -> IJEPA:
    """ViT-S/16 with a predictor of depth 6 and width 384."""
    torch.manual_seed(0)
    masks = MultiBlockConfig(predict=predict, sampler=sampler, **PAPER)
    return IJEPA(IJEPAConfig(size="small", patch_size=16, predictor_dim=384, predictor_depth=6, masks=masks), INPUTS)


def batch_of(model: IJEPA, device: torch.device, samples: int = BATCH) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    samples = [{"image": image, "id": number} for number, image in enumerate(images)]
    return to_device(model.collator(0)(samples), device)


@dataclass
class Ours:
    """The step as the training loop makes it."""

    model: IJEPA
    batch: dict
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.device = self.batch["inputs"].device
        self.config = TrainingConfig(steps=100, warmup=0.0, lr=1e-4)
        self.optimizer = build_optimizer(self.model, self.config.optimizer, self.device)

    def __call__(self) -> Tensor:
        set_schedule(self.optimizer, self.config, 1, 100)
        with autocast(self.device, self.dtype):
            loss = self.model.step(self.batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.after_step(0.5)
        return loss.detach()


class Released:
    """The released step from its description: encoder and target over the images, masks applied after the patches; context
    and positions repeated for each block, the blocks stacked on the batch axis, one smooth L1 over all; EMA and AdamW
    parameter by parameter. Weights are ours, attention is torch's `scaled_dot_product_attention`."""

    def __init__(self, model: IJEPA, batch: dict, dtype: torch.dtype):
        self.encoder, self.predictor = copy.deepcopy(model.encoder), copy.deepcopy(model.predictor)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.images = batch["inputs"]
        self.device, self.dtype = self.images.device, dtype
        self.context = batch["context"][:, 0]
        self.blocks = list(batch["targets"].unbind(1))
        trained = [p for part in (self.encoder, self.predictor) for p in part.parameters() if p.requires_grad]
        self.parameters = trained
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False, fused=False)

    @staticmethod
    def transform(block: nn.Module, x: Tensor) -> Tensor:
        q, k, v = rearrange(block.attn.qkv(block.norm1(x)), "b n (t h d) -> t b h n d", t=3, h=block.attn.heads)
        x = x + block.attn.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))
        return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))

    @staticmethod
    def take(x: Tensor, ids: Tensor) -> Tensor:
        return torch.gather(x, 1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def encode(self, encoder: nn.Module, ids: Tensor | None = None) -> Tensor:
        x = encoder.patch_embed(self.images).flatten(2).transpose(1, 2) + encoder.pos_embed
        x = x if ids is None else self.take(x, ids)
        for block in encoder.blocks:
            x = self.transform(block, x)
        return encoder.norm(x)

    def predict(self, context: Tensor) -> Tensor:
        p = self.predictor
        positions = p.predictor_pos_embed.expand(len(context), -1, -1)
        x = p.predictor_embed(context) + self.take(positions, self.context)
        queries = torch.cat([self.take(positions, ids) for ids in self.blocks]) + p.mask_token
        x = torch.cat([x.repeat(len(self.blocks), 1, 1), queries], dim=1)
        for block in p.predictor_blocks:
            x = self.transform(block, x)
        return p.predictor_proj(p.predictor_norm(x[:, self.context.shape[1] :]))

    def __call__(self) -> Tensor:
        with autocast(self.device, self.dtype):
            with torch.no_grad():
                h = F.layer_norm(self.encode(self.target).float(), (self.encoder.dim,))
                h = torch.cat([self.take(h, ids) for ids in self.blocks])
            loss = F.smooth_l1_loss(self.predict(self.encode(self.encoder, self.context)).float(), h)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for new, old in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
                old.mul_(0.996).add_(0.004 * new.detach())
        return loss.detach()


def work_of(step: Ours) -> float:
    """Floating-point operations of a step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def run() -> list[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = torch.bfloat16 if native_bfloat16(device) else torch.float32
    models = {predict: system(predict, "legacy").to(device) for predict in ("separate", "parallel", "joint")}
    batches = {predict: batch_of(model, device) for predict, model in models.items()}
    released = Released(models["separate"], batches["separate"], torch.float32)
    sides = {"released": released, **{name: Ours(model, batches[name], torch.float32) for name, model in models.items()}}
    if low != torch.float32:
        sides["released, low"] = Released(models["separate"], batches["separate"], low)
        sides["separate, low"] = Ours(models["separate"], batches["separate"], low)
        sides["joint, low"] = Ours(models["joint"], batches["joint"], low)
    off = abs(sides["separate"]().item() - released().item())  # before anything is trained
    took = dict(zip(sides, np.min(rounds(list(sides.values())), axis=0).tolist(), strict=True))
    memory = {name: peak_memory(side) for name, side in sides.items() if name in ("released", "separate")}

    def result(name: str, ours: str, note: str = "", reference: str = "released") -> Result:
        saved = memory["separate"] / memory["released"] if ours == "separate" else None
        return Result(f"step: {name}", BATCH / took[ours], BATCH / took[reference], "images/s", saved, note)

    share = work_of(sides["separate"]) / took["separate"] / product_rate(device=device)
    results = [
        result("equal function, float32", "separate", f"the loss is off by {off:.0e}; masks as the released sampler draws"),
        result("blocks in parallel, float32", "parallel", "one predictor pass, each block sees the context and itself"),
        result("blocks jointly (our default), float32", "joint", "one predictor pass over their union"),
        Result("step: share of the product rate, float32", share, 1.0, "share", note="equal function; 1 is the floor"),
    ]
    if low != torch.float32:
        results += [
            result("equal function, bfloat16", "separate, low", reference="released, low"),
            result("our defaults against the released ones", "joint, low"),
        ]
    return results


def rounds(sides: list, count: int = 2) -> list[list[float]]:
    """Seconds of each side, in turn, after one call of each that is not counted."""
    for side in sides:
        side()
    return [[seconds(side) for side in sides] for _ in range(count)]
