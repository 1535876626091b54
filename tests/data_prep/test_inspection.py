from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rwtrain.cli import main
from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["prep", "inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_overview_has_counts_lengths_and_packing(datasets: tuple[Path, Path], tokenizer_file: Path, capsys) -> None:
    text = shown(capsys, datasets[0], "--tokenizer", tokenizer_file.parent, "--seq-len", 500)
    dataset = ShardDataset(datasets[0])
    assert f"{len(dataset)} documents, {int(dataset.lengths.sum()):,} tokens" in text
    assert f"longest {dataset.lengths.max():,}" in text
    rows = int((-(-dataset.lengths // 500)).sum())
    assert re.search(r"rows of 500: best fit 9\d\.\d\d% full", text)
    assert f"padding {100 * dataset.lengths.sum() / (500 * rows):.2f}% full, {rows:,} rows" in text


def test_document_has_its_entities_by_name(datasets: tuple[Path, Path], tokenizer_file: Path, entity_store: Path, paragraphs: list[str], capsys) -> None:
    text = shown(capsys, datasets[0], "--doc", "7", "--tokenizer", tokenizer_file.parent, "--store", entity_store)
    assert paragraphs[7] in text
    starts, ends, entities = ShardDataset(datasets[0]).mentions(7)
    tokens = ShardDataset(datasets[0]).tokens(7)
    for start, end, entity in zip(starts, ends, entities, strict=True):
        words = Tokenizer(tokenizer_file).decode(tokens[start:end]).strip()
        assert f"tokens {start:>6}–{end:<6} {words}  →  entity {entity} (Q{entity})" in text
    assert "row 7" in shown(capsys, datasets[0], "--doc", "7", "--tokenizer", tokenizer_file.parent)


def test_a_store_of_another_corpus_is_refused(datasets: tuple[Path, Path], tokenizer_file: Path, tmp_path: Path, capsys) -> None:
    from rwtrain.knowledge.writing import Rejects, entity_batch, write_store

    rows = [{"id": f"other{index}", "wikidata_id": "", "label": "x", "description": "", "aliases": []} for index in range(3)]
    write_store(
        tmp_path, entities=[entity_batch(rows)], relations=[("P", "p")], triples={"train": np.zeros((1, 3), np.int32)}, rejects=Rejects(), provenance={}
    )
    assert main(["prep", "inspect", str(datasets[0]), "--doc", "7", "--tokenizer", str(tokenizer_file.parent), "--store", str(tmp_path)]) == 2
    assert "was linked with" in capsys.readouterr().err


def test_saved_images_stay_in_the_folder_and_texts_cannot_touch_the_terminal(tokenizer_file: Path, tmp_path: Path, capsys) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    encoded = io.BytesIO()
    Image.new("RGB", (7, 9)).save(encoded, "PNG")
    with ShardWriter(tmp_path / "set", vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as writer:
        tokens = np.concatenate(([BOS_ID], tokenizer.encode("red \x1b[31m text \u202e turned"), [EOS_ID]))
        for number, image in enumerate((encoded.getvalue(), b"no image")):
            writer.add(Document(doc_id=f"../../../outside/{number}.png", source="\x1b]0;title\x07", tokens=tokens, content_id=1, images=[image]))
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents}
    folder = tmp_path / "saved"
    for number, description in ((0, "PNG 7×9 RGB"), (1, "not an image that can be read, 8 bytes")):
        text = shown(capsys, tmp_path / "set", "--doc", f"../../../outside/{number}.png", "--tokenizer", tokenizer_file.parent, "--save-images", folder)
        assert description in text
        assert not set("\x1b\x07\u202e") & set(text)
    assert {path.read_bytes() for path in folder.iterdir()} == {encoded.getvalue(), b"no image"}
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents} == before


def test_mistakes_are_named(datasets: tuple[Path, Path], tokenizer_file: Path, tmp_path: Path, capsys) -> None:
    for arguments, message in (
        ([str(tmp_path)], "no dataset here"),
        ([str(datasets[0])], "--tokenizer"),
        ([str(datasets[0]), "--doc", "none", "--tokenizer", str(tokenizer_file.parent)], "no document 'none'"),
    ):
        assert main(["prep", "inspect", *arguments]) == 2
        assert message in capsys.readouterr().err
