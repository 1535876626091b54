"""spaCy's entity ruler as an entity linker: every known name is a pattern with the entity that it most often means.

    spacy_run.py FILE

FILE holds JSON: "names" [[name, entity], …] and "texts". Names of one word count as they are written, so that "it" is not the film; spaCy's own linker
needs a trained model with word vectors, which spaCy offers for download only. Prints one JSON object: "links" of each text as [start, end, entity],
and CPU-seconds of making the ruler and of reading the texts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import spacy


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    started = time.process_time()
    nlp = spacy.blank("en")
    nlp.max_length = 10**8
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "ORTH"})
    with nlp.select_pipes(enable=["entity_ruler"]):
        ruler.add_patterns([{"label": "ENTITY", "pattern": name, "id": str(entity)} for name, entity in data["names"]])
    build_seconds, started = time.process_time() - started, time.process_time()
    links = [[(span.start_char, span.end_char, int(span.ent_id_)) for span in nlp(text).ents] for text in data["texts"]]
    print(json.dumps({"links": links, "build_seconds": build_seconds, "seconds": time.process_time() - started}))


if __name__ == "__main__":
    main()
