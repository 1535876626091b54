from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from rwtrain.cli import main
from rwtrain.errors import DataError
from rwtrain.knowledge.import_ntriples import import_ntriples
from rwtrain.knowledge.store import EntityStore

ENTITY, PROPERTY = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
LABEL, ALIAS = "http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#altLabel"
LINES = [
    "# a comment",
    f"<{ENTITY}Q90> <{PROPERTY}P17> <{ENTITY}Q142> .",
    f'<{ENTITY}Q90> <{LABEL}> "Paris"@fr .',
    f'<{ENTITY}Q90> <{LABEL}> "Paris"@en .',
    f'<{ENTITY}Q90> <{LABEL}> "\\u5DF4\\u9ECE"@zh .',
    f'<{ENTITY}Q90> <{ALIAS}> "City of \\"Light\\""@en .',
    f'<{ENTITY}Q142> <{LABEL}> "Frankreich"@de .',
    f'<{ENTITY}Q142> <http://schema.org/description> "country in Europe"@en .',
    f'<{ENTITY}Q142> <{PROPERTY}P1082> "67000000"^^<http://www.w3.org/2001/XMLSchema#integer> .',
    f"_:b0 <{PROPERTY}P17> <{ENTITY}Q142> .",
    "<http://example.org/a> <http://example.org/r> <http://example.org/a> . # a loop",
    f"<{ENTITY}Q90> <{PROPERTY}P17> <{ENTITY}Q142> .",
    "this is no statement",
]


def write(path: Path) -> Path:
    path.write_bytes(bz2.compress("\n".join(LINES).encode() + b"\n\xff\n"))
    return path


def test_statements_become_triples_and_names(tmp_path: Path) -> None:
    manifest = import_ntriples(write(tmp_path / "graph.nt.bz2"), tmp_path / "store", languages=("en", "de", "zh"))
    assert manifest["rejects"] == {"repeated triple": 1, "not an N-Triples statement": 1, "not UTF-8": 1}
    store = EntityStore.open(tmp_path / "store")
    paris, france = store.row("Q90"), store.row("Q142")
    assert (store.label(paris), store.aliases(paris)) == ("Paris", ["巴黎", 'City of "Light"'])
    assert (store.label(france), store.description(france)) == ("Frankreich", "country in Europe")
    loop = store.row("http://example.org/a")
    assert store.triples("train").tolist() == [[paris, 0, france], [loop, 1, loop]]
    assert [store.relation_id(row) for row in range(2)] == ["P17", "http://example.org/r"]


def test_files_without_links_and_truncated_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "names.nt").write_text(LINES[2] + "\n")
    with pytest.raises(DataError, match="no statement links two entities"):
        import_ntriples(tmp_path / "names.nt", tmp_path / "store")
    packed = write(tmp_path / "graph.nt.bz2").read_bytes()
    (tmp_path / "graph.nt.bz2").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"graph\.nt\.bz2, record \d+: cannot be read"):
        import_ntriples(tmp_path / "graph.nt.bz2", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_command_imports_either_form(tmp_path: Path, graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kg", "import", str(write(tmp_path / "graph.nt.bz2")), "--out", str(tmp_path / "one"), "--languages", "zh,en"]) == 0
    store = EntityStore.open(tmp_path / "one")
    assert store.label(store.row("Q90")) == "巴黎"
    assert main(["kg", "import", str(graph), "--out", str(tmp_path / "two")]) == 0
    assert "3 entities, 2 relations" in capsys.readouterr().out
    assert main(["kg", "show", str(tmp_path / "two"), "Q90"]) == 0
    assert "capital of France" in capsys.readouterr().out
    assert main(["kg", "import", str(tmp_path / "nowhere"), "--out", str(tmp_path / "three")]) == 2


def test_wikidata_statements_become_types_titles_and_redirects(tmp_path: Path) -> None:
    lines = [
        f"<{ENTITY}Q90> <{PROPERTY}P31> <{ENTITY}Q515> .",
        f"<https://en.wikipedia.org/wiki/Paris_%28city%29> <http://schema.org/about> <{ENTITY}Q90> .",
        f"<{ENTITY}Q7> <http://www.w3.org/2002/07/owl#sameAs> <{ENTITY}Q90> .",
        f'<{ENTITY}Q90> <{LABEL}> "Paris"@en .',
        f'<{ENTITY}Q90> <{LABEL}> "Paname"@en .',
    ]
    (tmp_path / "graph.nt").write_text("\n".join(lines))
    import_ntriples(tmp_path / "graph.nt", tmp_path / "store")
    store = EntityStore.open(tmp_path / "store")
    paris = store.row("Q90")
    assert (store.types(paris), store.titles(paris), store.row("Q7")) == (["Q515"], {"enwiki": "Paris (city)"}, paris)
    assert (store.label(paris), store.aliases(paris)) == ("Paris", ["Paname"])
    assert len(store) == 2
