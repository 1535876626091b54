"""Imports that are cut into parts, run by several processes and killed: the store must not show it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from rwtrain.knowledge import assembling, importing, numbering, tables, writing
from rwtrain.knowledge import import_tsv as import_tsv_module
from rwtrain.knowledge.import_ntriples import import_ntriples
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.import_wikidata import import_wikidata
from rwtrain.knowledge.parts import load_columns, save_columns
from rwtrain.knowledge.store import EntityStore
from tests.rwtrain.knowledge.test_import_wikidata import dump, item, statement, texts

ITEMS = 3_000


def records() -> list[dict]:
    draw = random.Random(5)
    found = []
    for number in range(1, ITEMS + 1):
        claims = {f"P{draw.randrange(1, 25)}": [statement(f"Q{draw.randrange(1, ITEMS + 200)}")] for _ in range(4)} | {"P31": [statement(f"Q{number % 9 + 1}")]}
        links = {f"{code}wiki": {"title": f"Thing {number}"} for code in ("en", "de", "fr")[: draw.randrange(4)]}
        aliases = {"de": [{"language": "de", "value": f"{word} {number}"} for word in ("auch", "sonst")[: draw.randrange(3)]]}
        found.append(item(f"Q{number}", texts(en=f"thing {number}", de=f"Ding {number}"), claims=claims, sitelinks=links, aliases=aliases))
    return found + [{"entity": f"Q{ITEMS + 1 + number}", "redirect": f"Q{number + 1}"} for number in range(150)] + found[:20]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (assembling, "RANGE_ROWS", 700),
        (importing, "RANGE_ROWS", 700),
        (assembling, "GROUP_IDS", 3_000),
        (numbering, "SLICE_IDS", 500),
        (numbering, "FIND_BLOCK", 333),
        (tables, "SPILL_ENTRIES", 400),
        (writing, "ROWS_PER_COUNT", 350),
        (writing, "TRIPLES_PER_READ", 300),
        (import_tsv_module, "READ_CHARACTERS", 37),
        (import_tsv_module, "NAMES_PER_PART", 100),
    ):
        monkeypatch.setattr(module, name, value)


def meaning(store: EntityStore) -> tuple:
    """Everything a store says, by ids."""
    entities = {
        store.external_id(row): (store.names(row), store.description(row), store.types(row), store.titles(row), int(store.popularity[row]))
        for row in range(len(store))
    }
    triples = sorted(
        (store.external_id(head), store.relation_id(relation), store.external_id(tail)) for head, relation, tail in store.triples("train").tolist()
    )
    return list(entities), entities, triples


def test_pieces_do_not_change_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path / "dump.json.gz", records())
    whole = import_wikidata(path, tmp_path / "whole", languages=("en", "de"), workers=1)
    small_pieces(monkeypatch)
    pieces = import_wikidata(path, tmp_path / "pieces", languages=("en", "de"), workers=1, unit_bytes=40_000)
    one, many = EntityStore.open(tmp_path / "whole", verify=True), EntityStore.open(tmp_path / "pieces", verify=True)
    assert meaning(one) == meaning(many)
    assert whole["rejects"] == pieces["rejects"] == {"repeated entity": 20}
    assert [(tmp_path / name / "rejects.jsonl").read_bytes() for name in ("whole", "pieces")].count((tmp_path / "whole" / "rejects.jsonl").read_bytes()) == 2
    assert (len(one), one.hash) == (ITEMS, many.hash)
    for number in (1, 77, 150):
        assert many.row(f"Q{ITEMS + number}") == many.row(f"Q{number}") == one.row(f"Q{number}")
    titled = next(row for row in range(ITEMS) if many.titles(row))
    assert many.by_title("enwiki", many.titles(titled)["enwiki"]) == titled


@pytest.mark.parametrize("form", ["tsv", "nt"])
def test_pieces_of_triples_find_repetitions_and_names_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    draw = random.Random(1)
    triples = [(f"e{draw.randrange(900)}", f"r{draw.randrange(5)}", f"e{draw.randrange(900)}") for _ in range(4_000)]
    triples += draw.sample(triples, 300)
    ids = list(dict.fromkeys(name for head, _, tail in triples for name in (head, tail)))
    small_pieces(monkeypatch)
    if form == "tsv":
        source = tmp_path / "graph"
        source.mkdir()
        (source / "train.tsv").write_text("".join("\t".join(triple) + "\n" for triple in triples))
        (source / "valid.tsv").write_text("e1\tr0\te900\ne1\tunseen\te2\n" + "\t".join(triples[9]) + "\n")
        (source / "entity2wikidata.json").write_text(
            json.dumps(
                {name: {"label": f"label of {name}", "alternatives": [f"label of {name}", "ü"], "description": None} for name in ids}, ensure_ascii=False
            )
        )
        manifest = import_tsv(source, tmp_path / "store", workers=1, unit_bytes=2_000)
        ids.append("e900") if "e900" not in ids else None
    else:
        source = tmp_path / "graph.nt"
        lines = [f'<{name}> <http://www.w3.org/2000/01/rdf-schema#label> "label of {name}"@en .' for name in ids]
        lines += [f"<{head}> <{relation}> <{tail}> ." for head, relation, tail in triples]
        lines += [f'<{name}> <http://www.w3.org/2004/02/skos/core#altLabel> "ü" .' for name in ids]
        source.write_text("\n".join(lines))
        manifest = import_ntriples(source, tmp_path / "store", workers=1, unit_bytes=2_000)
    store = EntityStore.open(tmp_path / "store", verify=True)
    found = [(store.external_id(head), store.relation_id(relation), store.external_id(tail)) for head, relation, tail in store.triples("train").tolist()]
    assert sorted(found) == sorted(set(triples))
    degree = Counter(name for head, _, tail in set(triples) for name in (head, tail))
    assert store.popularity.tolist() == [degree[name] for name in ids]
    assert all(store.row(name) == row for row, name in enumerate(ids))
    repeated = len(triples) - len(set(triples))
    expected = {"repeated triple": repeated + 1, "relation without training triples": 1} if form == "tsv" else {"repeated triple": repeated}
    assert manifest["rejects"] == expected
    assert [store.external_id(row) for row in range(len(store))] == ids
    assert all((store.label(row), store.aliases(row)) == (f"label of {name}", ["ü"]) for row, name in enumerate(ids) if name != "e900")
    kept = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    offset = len(lines) - 2 * len(ids) - len(triples) + len(ids) if form == "nt" else 0
    places = {entry["record"] for entry in kept if entry["reason"] == "repeated triple" and not entry["file"].startswith("valid")}
    assert places == {offset + number for number, triple in enumerate(triples, 1) if triple in triples[: number - 1]}


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from rwtrain.knowledge.import_wikidata import import_wikidata
from rwtrain.knowledge.parts import load_columns, save_columns
if __name__ == "__main__":
    import_wikidata(sys.argv[1], sys.argv[2], languages=("en", "de"), workers=int(sys.argv[3]), unit_bytes=30_000)
"""


def test_killed_imports_go_on_and_write_the_same_bytes(tmp_path: Path) -> None:
    path = dump(tmp_path / "dump.json.bz2", records())
    import_wikidata(path, tmp_path / "whole", languages=("en", "de"), workers=1, unit_bytes=30_000)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(path), str(tmp_path / "store"), "2"]
    draw, log, kills = random.Random(0), "", 0
    parts = tmp_path / ".store.import"
    done = 0
    while True:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        instant = done + draw.randrange(1, 25)
        while process.poll() is None and kills < 4:
            done = len(list(parts.glob("*.json"))) if parts.is_dir() else 0
            if done >= instant if kills < 3 else any(tmp_path.glob(".store.*.tmp")):  # the last one while the store itself is written
                time.sleep(draw.random() * 0.02)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.stderr is not None
        log += process.stderr.read()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL, log
        kills += 1
        assert not (tmp_path / "store").exists() or EntityStore.open(tmp_path / "store")
    assert kills >= 3
    assert "continuing the import" in log
    assert content(tmp_path / "store") == content(tmp_path / "whole")
    assert not parts.exists()
    assert [entry.name for entry in tmp_path.glob(".store*")] == []


def test_other_settings_or_sources_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path / "dump.json", records()[:50])

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_store", fail)
        with pytest.raises(KeyboardInterrupt):
            import_wikidata(path, tmp_path / "store", languages=("en",), workers=1)
    import_wikidata(path, tmp_path / "store", languages=("de",), workers=1)
    assert EntityStore.open(tmp_path / "store").label(0) == "Ding 1"


def test_one_file_of_a_range_is_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pa.schema({"row": pa.int32(), "text": pa.large_string()})
    rows = pa.array([row for row in range(1_000) for _ in range(50)], pa.int32())
    groups = [tmp_path / f"group-{number}" for number in range(4)]
    for group in groups:
        save_columns(group, "facts", schema, {"row": rows, "text": pa.array([f"fact {row}" for row in rows.to_pylist()], pa.large_string())})
    mapped = []

    def load(prefix: Path, name: str) -> pa.RecordBatch:
        mapped.append(len({line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line}))
        return load_columns(prefix, name)

    monkeypatch.setattr(assembling, "load_columns", load)
    found = assembling._slice(groups, "facts", "row", 400, 402, schema)
    assert found.column("row").to_pylist() == ([400] * 50 + [401] * 50) * 4
    assert set(found.column("text").to_pylist()) == {"fact 400", "fact 401"}
    assert mapped == [0, 1, 1, 1]
