"""Run by test_presets.py in a user's environment: everything a user loads from an exported folder; warnings are errors. Prints JSON."""

from __future__ import annotations

import json
import logging
import sys
import warnings

warnings.simplefilter("error", UserWarning)
# What releases say of their own pipelines' arguments and of coming changes; everything else, above all about weights, fails the test.
TOLERATED = ("deprecated", "max_new_tokens", "clean_up_tokenization_spaces")


class Raise(logging.Handler):
    """Collects what transformers and sentence-transformers warn of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main() -> None:
    import numpy as np
    import torch
    import transformers
    from PIL import Image
    from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

    collected = Raise()
    transformers.utils.logging.get_logger("transformers").addHandler(collected)
    logging.getLogger("sentence_transformers").addHandler(collected)
    found: dict = {}
    for folder in sys.argv[1:]:
        torch.manual_seed(0)
        result: dict = {}
        for auto in (AutoModel, AutoModelForCausalLM):
            model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
            wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
            assert not wrong, (auto.__name__, wrong)
        writer = pipeline("text-generation", model=folder, trust_remote_code=True, device=-1)
        made = writer("The history of", max_new_tokens=4, do_sample=False)
        result["generated"] = made[0]["generated_text"]
        prompt = torch.tensor([[1, 40, 50, 60, 70, 80]])
        result["cached"], result["uncached"] = (
            model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=cached, eos_token_id=None).tolist() for cached in (True, False)
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        read = processor(text=["a photo", "a longer text"], mode="embed")
        vectors = model.get_text_features(**read).detach()
        result["embedding"] = vectors[0].tolist()
        if processor.image_seq_length:
            image = Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3))
            result["image"] = list(model.get_image_features(processor(images=image, mode="embed")["pixel_values"]).shape)
            result["caption_tokens"] = int(model.generate(**processor(images=image), max_new_tokens=3).shape[1])
        assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("x")["input_ids"][0] == 1
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError:
            result["sentence_transformers"] = None
        else:
            embedded = SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode(["a photo", "a longer text"])
            result["sentence_transformers"] = float(np.abs(embedded - vectors.numpy()).max())
        found[folder] = result
    unexpected = [message for message in collected.messages if not any(words in message for words in TOLERATED)]
    assert not unexpected, unexpected
    print(json.dumps({"transformers": transformers.__version__, "folders": found}))


if __name__ == "__main__":
    main()
