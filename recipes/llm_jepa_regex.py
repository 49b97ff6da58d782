"""LLM-JEPA on generated descriptions and regular expressions, 600 pairs: the language model alone, the paper's loss, InfoNCE.

    python recipes/llm_jepa_regex.py --threads 1 --seeds 0

Exact match counts codes decoded greedily, word for word, of 400 held-out texts. Retrieval looks for each text's own code among
the 400 by cosine (chance 0.0025). cos+ and cos- are the mean cosines of matching and of other pairs: where both are near 1,
the embeddings have collapsed, and a small distance says nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from seeds import arguments, run, spread, verdict
from torch import Tensor
from torch.nn import functional as F

from jepakit.interop.runs import Run
from jepakit.modalities.texts.data import open_texts
from jepakit.modalities.texts.inputs import END, SEPARATOR
from jepakit.nn.language_model import Texts
from jepakit.nn.tokens import valid_mask
from jepakit.systems.llm_jepa import LLMJEPA

SETTING = {"data": "regex", "limit": 600, "dim": 96, "depth": 3, "steps": 900, "batch_size": 32, "lr": 1e-3}
VARIANTS = {
    "language model alone": {"latent_weight": 0.0},
    "paper (lambda 0.1)": {"latent_weight": 0.1},
    "InfoNCE 0.07 (lambda 0.2)": {"latent_weight": 0.2, "anti_collapse": "infonce", "infonce": {"temperature": 0.07}},
}
COLUMNS = ("exact match", "retrieval@1", "cos+", "cos-")


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """The four numbers of a run, on the held-out pairs."""
    run = Run(folder)
    system, config = run.system, run.config
    test = open_texts(config.dataset, config.training.seed).test
    batch = system.collator(0)([test[index] for index in range(len(test))])
    compared = system.compare(batch)
    texts, codes = (F.normalize(part[0], dim=-1) for part in (compared.predictions, compared.partners))
    cosines = texts @ codes.mT
    own = torch.eye(len(cosines), dtype=torch.bool)
    text, code = Texts(**batch["text"]), Texts(**batch["code"])
    longest = code.tokens.shape[1]
    said = decode(system, text, longest + 1)
    asked = code.append(torch.tensor([END])).tokens
    ends = torch.arange(longest + 1) <= code.lengths[:, None]
    return {
        "exact match": float(((said == asked) | ~ends).all(dim=1).float().mean()),
        "retrieval@1": float((cosines.argmax(dim=1) == torch.arange(len(cosines))).float().mean()),
        "cos+": float(cosines[own].mean()),
        "cos-": float(cosines[~own].mean()),
    }


def decode(system: LLMJEPA, text: Texts, count: int) -> Tensor:
    """The `count` likeliest words after each text, each given those before it: `[batch, count]`. No [PRED] is used."""
    model, prompt = system.encoder.model, text.append(torch.tensor([SEPARATOR]))
    tokens, lengths = F.pad(prompt.tokens, (0, count)), prompt.lengths
    rows = torch.arange(len(tokens))
    for _ in range(count):
        width = int(lengths.max())
        segments = valid_mask(lengths, width).long() - 1
        hidden = model(tokens[:, :width], segments)[rows, lengths - 1]
        tokens[rows, lengths] = (hidden @ model.embedding.weight.mT).argmax(dim=1)
        lengths = lengths + 1
    places = prompt.lengths[:, None] + torch.arange(count)
    return tokens.gather(1, places)


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    print("| variant | " + " | ".join(COLUMNS) + " | health |\n" + "|---" * (len(COLUMNS) + 2) + "|")
    for name, options in VARIANTS.items():
        short = name.split(" ")[0].lower()
        folders = run(f"llm-jepa-{short}", "llm-jepa", asked.seeds, asked.out, threads=asked.threads, **SETTING, **options)
        found = [measure(folder) for folder in folders]
        cells = [spread([values[column] for values in found]) for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + f" | {', '.join(map(verdict, folders))} |", flush=True)
