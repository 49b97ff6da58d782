"""LLM-JEPA: a language model that also predicts the embedding of the code from the text, in embedding space.

Huang, LeCun and Balestriero 2025, arXiv 2509.14252. One causal language model learns the next token of the code as usual. In
a second forward, text, k tokens [PRED] and code lie packed in one sequence without seeing each other, and the hidden state at
the last [PRED] is to point where that at the code's last token does. Generation needs nothing of this.

What differs from the paper by default: trained from random weights (the paper finetunes pretrained models, and trains from
scratch in one table); words instead of pieces of words; lambda 0.1 and k = 1, the released code's, not searched for.

    python recipes/llm_jepa_regex.py --threads 1 --seeds 0

600 generated pairs, 0.34 M parameters, 900 steps of 32, 400 held-out pairs, one seed, 8 min on one core for the three:

| loss | exact match | retrieval@1 | cos+ | cos- | health |
|---|---|---|---|---|---|
| language model alone | 0.967 | 0.002 | -0.256 | -0.266 | fragmented |
| the paper's, lambda 0.1 | 0.965 | 0.013 | 0.994 | 0.990 | collapsed |
| InfoNCE 0.07, lambda 0.2 | 0.950 | 0.895 | 0.885 | 0.001 | healthy |

From random weights the paper's loss is met by read-out positions that are all alike (cos- 0.99), and codes are written no
better for it. InfoNCE, the worst of the paper's ablations of finetuning, aligns them. Differences in exact match are within the
noise of one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.collectives import global_count, sum_over_ranks
from jepakit.core.anticollapse import AntiCollapseOptions, chosen_anticollapse
from jepakit.core.batch import Batch, count_of
from jepakit.core.energies import Energy, mean_over_tokens
from jepakit.core.options import Size, SizeOptions
from jepakit.core.paired import Comparison, Paired
from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.modality import Modality, sample_facts
from jepakit.modalities.texts.inputs import END, SEPARATOR, TEXTS, TextInputs
from jepakit.nn.language_model import KeysValues, LanguageModel, LanguageModelConfig, Packed, Texts, pack
from jepakit.nn.tokens import Ids, Tokens
from jepakit.randomness import Draws
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class LLMJEPAConfig(SizeOptions, AntiCollapseOptions):
    """The choices of LLM-JEPA."""

    size: Size = "nano"
    """Language model, as wide and deep as the ViT of that size: jepakit list sizes."""
    dim: int | None = None
    """Width. Default: the size's."""
    depth: int | None = None
    """Blocks. Default: the size's."""
    predictor_tokens: int = 1
    """Tokens [PRED] after the text (the paper's k); 0 reads the text's own last word."""
    latent_weight: float = 0.1
    """Weight of the embeddings' loss (the paper's lambda); 0 leaves the language model alone."""
    latent_dropout: float = 0.0
    """Share of steps without the embeddings' loss and its forward; the others weigh more, so that latent_weight keeps its
    meaning."""
    target: Literal["shared", "stop-gradient"] = "shared"
    """Whether gradient flows into the code's embedding (the paper's: it does)."""
    anti_collapse: Literal["none", "sigreg", "vicreg", "barlow", "infonce"] = "none"
    """A loss on the embeddings of text and code; those that align views themselves (all but sigreg) replace the cosine."""

    def __post_init__(self) -> None:
        SizeOptions.__post_init__(self)
        for name in ("dim", "depth"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1)
        check_range("predictor_tokens", self.predictor_tokens, 0)
        check_range("latent_weight", self.latent_weight, 0)
        if not 0 <= self.latent_dropout < 1:
            raise UserError(f"latent_dropout must be at least 0 and below 1, got {self.latent_dropout}.")
        check_choice("target", self.target, ("shared", "stop-gradient"))

    def language_model(self, vocabulary: int) -> LanguageModelConfig:
        """The language model asked for."""
        dim, depth, heads, mlp_ratio = SIZES[self.size]["vit"]
        return LanguageModelConfig(
            vocabulary=vocabulary, dim=self.dim or dim, depth=self.depth or depth, heads=heads, mlp_ratio=mlp_ratio
        )


class TextEncoder(nn.Module):
    """The language model as encoder and predictor in one: a text's embedding is its hidden state at the last [PRED]."""

    def __init__(self, config: LanguageModelConfig, predictor_tokens: int):
        super().__init__()
        self.model = LanguageModel(config)
        self.dim, self.predictor_tokens = config.dim, predictor_tokens

    def prompted(self, text: Texts) -> Texts:
        """The text and its [PRED] tokens, which are the last of the vocabulary."""
        end = self.model.config.vocabulary
        return text.append(torch.arange(end - self.predictor_tokens, end, device=text.tokens.device))

    def embed(self, *texts: Texts) -> Float[Tensor, "texts batch dim"]:
        """Last hidden state of each text, of all texts in one forward."""
        packed = pack(*texts)
        return packed.read(self.model(packed.tokens, packed.segments))

    def extend(
        self, words: Int[Tensor, "1 words"], past: tuple[KeysValues, ...] = ()
    ) -> tuple[Tokens, tuple[KeysValues, ...]]:
        """Read further words of one text, from the keys and values kept of those before: the text's embedding after them, and
        what is kept of all its words. The [PRED] tokens follow the newest word each time, and are not kept."""
        end, asked = self.model.config.vocabulary, self.predictor_tokens
        count = words.shape[1] + (past[0][0].shape[2] if past else 0)
        prompt = torch.arange(end - asked, end, device=words.device)[None]
        hidden, longer = self.model.extend(torch.cat([words, prompt], dim=1), past)
        kept = tuple((keys[:, :, :count], values[:, :, :count]) for keys, values in longer)
        return Tokens(hidden[:, -1:], torch.tensor([[[count + asked - 1]]], device=hidden.device)), kept

    def forward(self, inputs: dict[str, Tensor]) -> Tokens:
        """One token for each text: its embedding, at the place where it is read. `inputs`: `tokens`, `lengths`."""
        text = self.prompted(Texts(**inputs))
        return Tokens(self.embed(text).transpose(0, 1), text.lengths[:, None, None] - 1)


class LLMJEPA(Paired):
    """LLM-JEPA's parts put together."""

    Config: ClassVar[type] = LLMJEPAConfig
    modality: ClassVar[Modality] = TEXTS
    inputs: TextInputs
    training_defaults: ClassVar[dict[str, Any]] = {"batch_size": 32}

    def __init__(self, config: LLMJEPAConfig, inputs: TextInputs, seed: int = 0):
        anti_collapse = chosen_anticollapse(config, seed)
        aligned = anti_collapse is not None and anti_collapse.aligns_views
        super().__init__(Energy(name="cosine"), anti_collapse=anti_collapse, invariance=0.0 if aligned else 1.0)
        vocabulary = len(inputs.vocabulary) + config.predictor_tokens
        self.encoder = TextEncoder(config.language_model(vocabulary), config.predictor_tokens)
        self.config, self.inputs, self.seed = config, inputs, seed
        self.joins_batch = anti_collapse is not None

    @staticmethod
    def peak_lr(config: LLMJEPAConfig) -> float:
        """1e-3 was measured at width 96."""
        return 1e-3 * (96 / config.language_model(1).dim) ** 0.5

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the code's next token; in embedding space, predict the code from the text."""
        language = self.language_loss(batch)
        weight = self.weight_at(int(batch["step"]))
        if weight == 0:
            return {"loss": language, "language": language}
        compared = self.compare(batch)
        latent = self.score(compared, batch)
        negative = negative_cosine(compared, count_of(batch, "prediction"))
        loss = language + weight * latent["loss"]
        return {**latent, "loss": loss, "language": language, "negative_cosine": negative}

    def compare(self, batch: Batch) -> Comparison:
        """The text's embedding predicts the code's; one packed forward gives both."""
        text, code = Texts(**batch["text"]), Texts(**batch["code"])
        embedded = self.encoder.embed(self.encoder.prompted(text), code)
        partners = embedded[1:] if self.config.target == "shared" else embedded[1:].detach()
        return Comparison(embedded[:1], partners, embedded)

    def language_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of the code's words and its end, given the text."""
        packed = self.dialogue(Texts(**batch["text"]), Texts(**batch["code"]))
        whole = packed.segments.clamp_max(0)  # the code sees the text here
        hidden = self.encoder.model(packed.tokens, whole)
        losses = self.encoder.model.next_token_loss(hidden, packed.tokens, packed.segments == 1)
        return mean_over_tokens(losses, count=count_of(batch, "language"))

    def dialogue(self, text: Texts, code: Texts) -> Packed:
        """Text, separator, code, end."""
        separator, end = torch.tensor([[SEPARATOR], [END]], device=text.tokens.device)
        return pack(text.append(separator), code.append(end))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Words to be predicted (with the end of each code), and pairs."""
        lengths = batch["code"]["lengths"]
        return {"language": (lengths + 1).sum(), "prediction": torch.full_like(lengths, 1).sum()}

    def weight_at(self, step: int) -> float:
        """What the embeddings' loss weighs at this step, on all ranks: 0 where it is dropped, latent_weight on average."""
        kept = 1 - self.config.latent_dropout
        drawn = Draws(self.seed, "latent dropout", 0, [step]).uniform().item()
        return self.config.latent_weight / kept if drawn < kept else 0.0

    def encode(self, inputs: dict[str, Tensor], keep: Ids | None = None) -> Tokens:
        """The text's embedding at the last [PRED], one token: what the loss compares. Errors: `keep` is given."""
        if keep is not None:
            raise UserError("llm-jepa reads whole texts: there is no choice of tokens to keep.")
        return self.encoder(inputs)

    def encoders(self) -> dict[str, nn.Module]:
        return {"target": self.encoder, "encoder": self.encoder}

    def collator(self, seed: int, views: int | None = None) -> TextPairCollator:
        """A pair has two views, its text and its code, whatever number is asked for. Nothing is drawn."""
        return TextPairCollator(self.inputs)


def negative_cosine(compared: Comparison, count: Tensor | None = None) -> Float[Tensor, ""]:
    """Mean cosine of predictions with the partners of *other* samples of the batch (of all ranks), without gradient.

    Near 1, all embeddings are alike, and a small energy says nothing. In pieces, a sample meets only the others of its piece.
    """
    predictions, partners = (F.normalize(part[0].detach(), dim=-1) for part in (compared.predictions, compared.partners))
    sums = sum_over_ranks(torch.stack([predictions.sum(0), partners.sum(0)]))
    matching = sum_over_ranks((predictions * partners).sum())
    pairs = global_count(torch.tensor(len(predictions), device=sums.device))
    # The sum over all i and j from the sums of unit vectors; those with i = j are taken out.
    total = ((sums[0] * sums[1]).sum() - matching) / (pairs - 1).clamp_min(1)
    return total / (pairs if count is None else count)


@dataclass(frozen=True)
class TextPairCollator:
    """Word ids of the texts and of the codes of a batch, each padded at the right end."""

    inputs: TextInputs

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        return {
            "text": self.inputs.prepare(samples),
            "code": self.inputs.tokens([sample["code"] for sample in samples]),
            **sample_facts(samples),
        }
