"""Runs in another environment: load an exported folder with the auto classes and compare its numbers with the trainer's.

Started as `python -I parity_probe.py REQUEST_FOLDER` and uses only torch, numpy, transformers and pillow. REQUEST_FOLDER holds
request.json (the folder, texts, limits), reference.npz (arrays of the training classes) and image-N.png; report.json is written into it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

OURS = ("rwtrain", "data_prep")


class _Block:
    """Makes the trainer's packages look absent in an environment that has them."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Probe:
    """The exported model as a user sees it, and the comparison of its outputs with the reference arrays."""

    def __init__(self, request: Path) -> None:
        import numpy as np

        self.request = request
        self.settings = json.loads((request / "request.json").read_text(encoding="utf-8"))
        self.reference = dict(np.load(request / "reference.npz"))
        self.differences: dict[str, float] = {}
        self.problems: list[str] = []
        self.generated: dict[str, str] = {}
        self.load()

    def load(self) -> None:
        """Load with the auto classes; missing, surplus or reshaped weights and warnings are problems."""
        import torch
        import transformers
        from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

        head = self.settings["auto_class"]
        autos = (getattr(transformers, head),) if head else (AutoModelForCausalLM, AutoModel)

        torch.manual_seed(0)
        collected = _Collect()
        transformers.utils.logging.get_logger("transformers").addHandler(collected)
        folder, options = self.settings["folder"], {"trust_remote_code": True, "dtype": torch.float32, "output_loading_info": True}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            loaded: dict[str, Any] = {auto.__name__: auto.from_pretrained(folder, **options) for auto in autos}
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
            self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        for name, (_, info) in loaded.items():
            self.problems += [f"{name}: {kind} {sorted(map(str, keys))}" for kind, keys in info.items() if keys]
        self.problems += [f"warning: {message}" for message in collected.messages]
        self.problems += [f"warning: {item.message}" for item in caught if issubclass(item.category, UserWarning)]
        models = [model.eval() for model, _ in loaded.values()]
        self.causal, self.base = models[0], models[-1]

    def compare(self, name: str, found: Any, mask: Any = None) -> None:
        """Note the largest difference between `found` and the reference array `name`, over real tokens only."""
        import numpy as np

        rows = found.float().numpy()
        rows = rows if mask is None else rows[mask.bool().numpy()]
        expected = self.reference[name]
        if rows.shape != expected.shape:
            self.problems.append(f"{name}: shape {rows.shape}, the trainer's is {expected.shape}")
        elif not np.isfinite(rows).all():
            self.problems.append(f"{name}: not finite")
        else:
            self.differences[name] = float(np.abs(rows - expected).max())

    def compare_logits(self, name: str, text: list[str] | None, **inputs: Any) -> None:
        read = self.processor(text=text, truncation=True, max_length=self.settings["max_tokens"], **inputs)
        self.compare(name, self.causal(**read).logits, read["attention_mask"])

    def compare_embeddings(self, name: str, text: list[str], **inputs: Any) -> None:
        read = self.processor(text=text, mode="embed", truncation=True, max_length=self.settings["max_tokens"], **inputs)
        self.compare(name, self.base.get_text_features(**read))

    def generate(self, name: str, **read: Any) -> None:
        """Greedy text with the cache, whose logits must be those of one pass over the finished text."""
        import torch

        made = self.causal.generate(**read, max_new_tokens=self.settings["new_tokens"], do_sample=False, return_dict_in_generate=True, output_logits=True)
        whole = self.causal(**{**read, "input_ids": made.sequences, "attention_mask": torch.ones_like(made.sequences)}).logits
        steps = torch.stack(made.logits, dim=1)
        self.differences[f"{name}_cache"] = float((steps - whole[:, -steps.shape[1] - 1 : -1]).abs().max())
        self.generated[name] = str(self.tokenizer.decode(made.sequences[0], skip_special_tokens=True))

    def run(self) -> None:
        import torch
        from PIL import Image

        texts = self.settings["texts"]
        if self.tokenizer(texts, add_special_tokens=False)["input_ids"] != self.settings["token_ids"]:
            self.problems.append("the tokenizer's ids differ from sentencepiece's")
        with torch.no_grad():
            if self.settings["auto_class"]:
                rows = [self.processor(text=text, truncation=True, max_length=self.settings["max_tokens"]) for text in texts]
                self.compare("task_logits", torch.cat([output.flatten() for row in rows for output in self.causal(**row).to_tuple()]))
                return
            self.compare_logits("text_logits", texts)
            self.compare_embeddings("text_embeddings", texts)
            self.generate("text", **self.processor(text=texts[0]))
            if "entity_vectors" in self.reference:
                positions = torch.tensor([self.settings["entity_positions"]])
                read = self.processor(text=texts[:1], truncation=True, max_length=self.settings["max_tokens"])
                read |= {"entity_embeds": torch.tensor(self.reference["entity_vectors"])[None], "entity_positions": positions}
                self.compare("entity_logits", self.causal(**read).logits, read["attention_mask"])
            if self.settings["linked_texts"]:
                self.compare_logits("linked_logits", self.settings["linked_texts"], link=True)
                self.compare_embeddings("linked_embeddings", self.settings["linked_texts"], link=True)
                self.generate("linked", **self.processor(text=self.settings["linked_texts"][0], link=True))
            if self.settings["images"]:
                images = [Image.open(self.request / name) for name in self.settings["images"]]
                self.compare_logits("image_logits", texts[: len(images)], images=images)
                self.compare("image_embeddings", self.base.get_image_features(self.processor(images=images, mode="embed")["pixel_values"]))
                self.generate("image", **self.processor(images=images[0]))


def main() -> int:
    request = Path(sys.argv[1])
    started = time.monotonic()
    settings = json.loads((request / "request.json").read_text(encoding="utf-8"))
    importable = [name for name in OURS if importlib.util.find_spec(name) is not None]
    if settings["isolated"] and importable:
        (request / "report.json").write_text(json.dumps({"importable": importable}), encoding="utf-8")
        return 0
    if not settings["isolated"]:
        sys.meta_path.insert(0, _Block())
    probe = Probe(request)
    probe.run()
    import torch
    import transformers

    report = {
        "problems": probe.problems,
        "differences": probe.differences,
        "generated": probe.generated,
        "importable": importable,
        "loaded": [name for name in (*OURS, "deepspeed", "sentencepiece") if name in sys.modules],
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seconds": round(time.monotonic() - started, 2),
    }
    (request / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
