"""An exported folder in sentence-transformers, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rwtrain.evaluate.model import open_model
from rwtrain.export.export import export_run
from tests.rwtrain.export.random_run import make_run

PYTHON = Path(__file__).parents[3] / ".peers" / "sentence-transformers" / "bin" / "python"
TEXTS = ["a short one", "a longer sentence with more words in it", "word " * 300]
SCRIPT = """
import json, sys
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
folder, saved, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
images = [Image.fromarray(np.full((20, 20, 3), level, np.uint8)) for level in (10, 200)]
model.save_pretrained(saved)
again = SentenceTransformer(saved, trust_remote_code=True, device="cpu")
result = {"texts": model.encode(texts), "images": model.encode(images), "again": again.encode(texts)}
print(json.dumps({name: values.tolist() for name, values in result.items()} | {"dimension": model.get_embedding_dimension()}))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="make it with: python -m rwtrain.export.environment .peers/sentence-transformers 'sentence-transformers>=6'")
def test_embeddings_are_those_of_the_trainer(tmp_path: Path, train_settings: dict) -> None:
    make_run(tmp_path / "run", train_settings)
    export_run(tmp_path / "run", tmp_path / "out", parity=False)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [str(PYTHON), "-I", "-c", SCRIPT, str(tmp_path / "out"), str(tmp_path / "saved"), json.dumps(TEXTS)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    expected = open_model(tmp_path / "run", device="cpu").embed_texts(TEXTS)
    assert np.abs(np.array(result["texts"]) - expected).max() < 1e-5
    assert np.abs(np.array(result["again"]) - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(result["images"], axis=1), 1, atol=1e-5)
    assert result["dimension"] == 16
