"""Use an exported folder the way anybody would: with torch and transformers, and nothing of rwtrain installed.

    python use_export.py EXPORTED_FOLDER IMAGES.npz CLASSES.json

Prints what it does to stderr and one JSON object to stdout.
IMAGES.npz holds `images` [N, height, width] uint8 and `labels` [N] (class numbers); CLASSES.json holds `classes` and `templates`.
"""

import importlib.util
import json
import sys

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

BATCH = 100


def main(folder: str, images_file: str, classes_file: str) -> None:
    assert importlib.util.find_spec("rwtrain") is None, "rwtrain is importable here: this proves nothing"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    result = {"environment": {"python": sys.executable, "torch": torch.__version__}}

    prompt = processor(text=["The history of"], mode="causal")
    written = model.generate(**prompt, max_new_tokens=24, do_sample=True, top_k=40)
    result["generated"] = processor.batch_decode(written, skip_special_tokens=True)[0]

    sentence = "Barack Obama was born in Honolulu, the capital of Hawaii."
    linked = processor(text=[sentence], link=True, mode="causal")
    result["links"] = [{"text": sentence[start:end], "entity": processor.linker.label(entity)} for start, end, entity in processor.find_entities(sentence)]
    with torch.no_grad():
        logits = model(**linked).logits
        assert torch.isfinite(logits).all()
        plain = model(**processor(text=[sentence], mode="causal")).logits
        result["links_change_logits_by"] = float((logits - plain).abs().max())

    with torch.no_grad():
        texts = processor(text=["a photo of a shoe", "a photo of a boot", "the king of France"], mode="embed")
        embeddings = model.get_text_features(**texts)
    result["text_similarities"] = [[round(float(value), 3) for value in row] for row in embeddings @ embeddings.T]
    result |= zero_shot(model, processor, images_file, classes_file)
    print(json.dumps(result))


@torch.no_grad()
def zero_shot(model, processor, images_file: str, classes_file: str) -> dict:
    """Classify images by the nearest class description."""
    data = np.load(images_file, allow_pickle=False)
    with open(classes_file, encoding="utf-8") as stream:
        names = json.load(stream)
    prototypes = []
    for name in names["classes"]:
        prompts = [template.format(name) for template in names["templates"]]
        prototypes.append(model.get_text_features(**processor(text=prompts, mode="embed")).mean(0))
    prototypes = torch.nn.functional.normalize(torch.stack(prototypes), dim=-1)
    correct = 0
    for start in range(0, len(data["labels"]), BATCH):
        pictures = [Image.fromarray(pixels) for pixels in data["images"][start : start + BATCH]]
        features = model.get_image_features(processor(images=pictures, mode="embed")["pixel_values"])
        correct += int(((features @ prototypes.T).argmax(1).numpy() == data["labels"][start : start + BATCH]).sum())
    return {"zero_shot_accuracy": correct / len(data["labels"]), "zero_shot_images": len(data["labels"]), "chance": 1 / len(names["classes"])}


if __name__ == "__main__":
    main(*sys.argv[1:4])
