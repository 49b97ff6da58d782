"""kNN and a linear probe on many embeddings of a file: exact, within a stated memory of the process's own.

`JEPAKIT_EMBEDDINGS=1000000 pytest -m slow tests/end_to_end/test_a_million_embeddings.py`: 1,000,000 × 384 of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepakit.interop.embedding_files import EmbeddingFile

N = int(os.environ.get("JEPAKIT_EMBEDDINGS", "300000"))
DIM, CLASSES, QUERIES = 384, 10, 1000
# MiB over what the imports take, stated in `nearest` and `linear_probe`; the embeddings are 440 MiB, a million of them 1,465.
BOUND = 256

# The pages of a memory map are the file's, not the process's: RssAnon is what it cannot give back.
MEASURED = """
import json, re, sys, threading
import numpy as np, torch
from jepakit.evaluation.knn import knn_scores
from jepakit.evaluation.labels import read_targets
from jepakit.evaluation.linear import linear_probe

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

class Watch(threading.Thread):
    def run(self):
        self.peak, self.over = own(), threading.Event()
        while not self.over.wait(0.01):
            self.peak = max(self.peak, own())

torch.set_num_threads(1)
what, folder, queries = sys.argv[1], sys.argv[2], int(sys.argv[3])
x, labels = np.load(folder + "/x.npy", mmap_mode="r"), np.load(folder + "/labels.npy")
torch.ones(64, 64) @ torch.ones(64, 64)
watch, before = Watch(), own()
watch.start()
train, test = x[queries:], x[:queries]
if what == "knn":
    scores = knn_scores(train, labels[queries:], test, "classification")
else:
    scores, _ = linear_probe(train, test, read_targets(labels[queries:], labels[:queries]))
watch.over.set()
watch.join()
print(json.dumps({"peak": watch.peak - before, "accuracy": float((scores.argmax(1) == labels[:queries]).mean())}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_embeddings_fit_in_the_stated_memory(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    centres = 0.2 * generator.standard_normal((CLASSES, DIM), dtype=np.float32)
    labels = generator.integers(0, CLASSES, N)
    with EmbeddingFile(tmp_path / "x.npy", np.arange(N), None, {}).opened() as file:
        for part in np.split(labels, range(2**14, N, 2**14)):
            file.append(generator.standard_normal((len(part), DIM), dtype=np.float32) + centres[part])
        file.finish()
    np.save(tmp_path / "labels.npy", labels)
    for what in ("knn", "linear"):
        words = [sys.executable, "-c", MEASURED, what, str(tmp_path), str(QUERIES)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        print(what, found)
        assert found["peak"] < BOUND, what
        assert found["accuracy"] > 0.9, what
