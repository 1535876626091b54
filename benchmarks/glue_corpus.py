"""The text of the GLUE benchmark: what the given folder holds in English, lower-cased, its words parted as in a treebank.

A model of a few million parameters that sees ten million tokens cannot learn twice what `Movie.` and `movie .` mean, so texts and tasks are
written alike. Only training files are read: no sentence of a development set is in the corpus.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from data_prep.tokenizer_training import train_tokenizer
from data_prep.wikitext import wikitext_to_text
from rwtrain.data.shards import Document, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.files import content_hash

VOCABULARY = 12_000
SHORTEST = 40  # characters of a paragraph
SST_COPIES = 4  # the only text that judges
PARTS = re.compile(r"\w+(?:-\w+)*|[^\w\s]")
CONTRACTION = re.compile(r"(?<=\w)(n't|'s|'re|'ve|'ll|'d|'m)\b")
QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "`": "'"})


def plain(text: str) -> str:
    """Lower case, words and marks parted by spaces, contractions split as in the Penn treebank: "It isn't" → "it is n't"."""
    text = text.translate(QUOTES).lower().replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").replace("<unk>", "")
    text = CONTRACTION.sub(r" \1", text)
    return " ".join(word for part in text.split() for word in ([part] if part in CONTRACTIONS else PARTS.findall(part)))


CONTRACTIONS = {"n't", "'s", "'re", "'ve", "'ll", "'d", "'m"}


def texts(data: Path) -> Iterator[tuple[str, str]]:
    """(source, document) of the whole corpus, plain."""
    for line in read_lines(data / "wikitext2" / "train.txt.gz"):
        if len(line) > SHORTEST:
            yield "wikitext2", plain(line)
    yield from (("wikipedia", plain(paragraph)) for paragraph in wikipedia(data / "wikipedia-dump" / "enwiki-pages-articles1-shortened.xml.bz2"))
    glue = data / "glue"
    sentences = whole_sentences([row["sentence"] for row in read_table(glue / "SST-2_train.tsv.gz")])
    yield from (("sst2", plain(sentence)) for sentence in sentences for _ in range(SST_COPIES))
    for name, columns in (("MRPC", ("#1 String", "#2 String")), ("RTE", ("sentence1", "sentence2"))):
        yield from ((name.lower(), plain(row[column])) for row in read_table(glue / f"{name}_train.tsv.gz") for column in columns)
    yield from (("stsb", plain(part)) for line in read_lines(glue / "STS-B_sts-train.tsv.gz") for part in line.split("\t")[5:7])
    yield from (("flickr8k", plain(" ".join(captions))) for captions in flickr8k(data / "flickr8k"))
    yield from (("multi30k", plain(line)) for line in read_lines(data / "multi30k" / "train.en.gz"))
    with gzip.open(data / "qa" / "squad2_dev_half_a.json.gz", "rt", encoding="utf-8") as stream:
        yield from (("squad", plain(paragraph["context"])) for article in json.load(stream)["data"] for paragraph in article["paragraphs"])


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a gzip file without their ends."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from (line.strip("\n") for line in stream)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated gzip file with a header."""
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def whole_sentences(phrases: list[str]) -> list[str]:
    """The phrases that are no part of a longer one."""
    found: list[str] = []
    joined = ""
    for phrase in sorted({phrase.strip() for phrase in phrases}, key=len, reverse=True):
        if phrase not in joined:
            found.append(phrase)
            joined += "\n" + phrase
    return found


def wikipedia(path: Path) -> Iterator[str]:
    """Paragraphs of a dump's articles."""
    with bz2.open(path, "rb") as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.endswith("}page"):
                text = next((child.text for child in element.iter() if child.tag.endswith("}text")), None) or ""
                if not text.lower().startswith("#redirect"):
                    yield from (line for line in wikitext_to_text(text)[0].splitlines() if len(line) > SHORTEST)
                element.clear()


def flickr8k(folder: Path) -> Iterator[list[str]]:
    """The five captions of each training image."""
    wanted = set((folder / "train.txt").read_text().split())
    captions: dict[str, list[str]] = {}
    for line in read_lines(folder / "Flickr8k.token.txt.gz"):
        name, caption = line.split("\t")
        captions.setdefault(name.split("#")[0], []).append(caption)
    yield from (captions[name] for name in sorted(wanted & captions.keys()))


def write_corpus(data: Path, out: Path) -> dict[str, int]:
    """Write `out`/tokenizer.model and the shards `out`/text; return tokens by source."""
    documents = [(source, text) for source, text in texts(data) if text]
    out.mkdir(parents=True, exist_ok=True)
    model = out / "tokenizer.model"
    model.write_bytes(train_tokenizer((text for _, text in documents), vocab_size=VOCABULARY))
    tokenizer = Tokenizer(model)
    counts: dict[str, int] = {}
    with ShardWriter(out / "text", vocab_size=tokenizer.vocab_size, tokenizer_hash=content_hash(model)) as writer:
        for number, ((source, _), ids) in enumerate(zip(documents, tokenizer.encode_batch([text for _, text in documents]), strict=True)):
            tokens = np.concatenate(([BOS_ID], ids, [EOS_ID]))
            counts[source] = counts.get(source, 0) + len(tokens)
            writer.add(Document(doc_id=f"{source}-{number}", source=source, language="en", tokens=tokens, content_id=number))
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with wikitext2, wikipedia-dump, glue, flickr8k, multi30k, qa")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    json.dump(write_corpus(options.data, options.out), sys.stdout)
    print()
