from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwtrain.errors import DataError
from rwtrain.export.folder import CODE_FILES
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.import_wikidata import import_wikidata
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import Rejects, entity_batch, write_store, write_vectors
from rwtrain.model.linking_refinedweb import EntityLinker
from tests.rwtrain.knowledge.conftest import NAMES, write_graph

WIKIDATA = Path(__file__).parents[1] / "knowledge" / "data" / "wikidata.json"  # items of a dump (CC0), their names alone


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EntityStore:
    """The sample graph; its vectors put what belongs together into one direction."""
    folder = tmp_path_factory.mktemp("linker")
    import_tsv(write_graph(folder / "graph"), folder / "store")
    store = EntityStore.open(folder / "store")
    groups = [{"/m/paris", "/m/france", "/m/italy"}, {"/m/paris_tx", "/m/texas", "/m/usa"}, {"/m/ny", "/m/nyc"}, {"/m/will", "/m/actor", "/m/it", "/m/who"}]
    vectors = np.array([[float(store.external_id(row) in group) + 0.01 * row for group in groups] for row in range(len(store))], np.float32)
    write_vectors(store, entity_vectors=vectors, relation_vectors=np.zeros((store.relation_count, 4), np.float32), details={"norm": 2})
    return EntityStore.open(folder / "store")


@pytest.fixture(scope="module")
def linker(store: EntityStore, tmp_path_factory: pytest.TempPathFactory) -> EntityLinker:
    folder = tmp_path_factory.mktemp("linker") / "linker"
    build_linker(store, folder)
    return EntityLinker.open(folder)


def found(linker: EntityLinker, store: EntityStore, text: str, *, left_context: bool = False) -> list[tuple[str, str]]:
    mentions = linker.link(text, left_context=left_context)
    assert all(text[mention.start : mention.end] == mention.surface and 0 <= mention.score <= 1 for mention in mentions)
    assert all(one.end <= other.start for one, other in itertools.pairwise(mentions))
    return [(mention.surface, store.external_id(mention.entity)) for mention in mentions]


def test_longest_name_wins_on_word_boundaries(linker: EntityLinker, store: EntityStore) -> None:
    assert found(linker, store, "She left New York City for Texas.") == [("New York City", "/m/nyc"), ("Texas", "/m/texas")]
    assert found(linker, store, "Parisian Texasville, email me at paris@france.com") == []
    assert found(linker, store, "Made in the U.S. and sold in France") == [("U.S.", "/m/usa"), ("France", "/m/france")]


def test_context_decides_between_candidates(linker: EntityLinker, store: EntityStore) -> None:
    assert found(linker, store, "Paris lies in Texas, near the Lone Star State fair.")[0] == ("Paris", "/m/paris_tx")
    assert found(linker, store, "Paris lies in France, next to Italy.")[0] == ("Paris", "/m/paris")
    assert found(linker, store, "In Texas, the Lone Star State, lies Paris", left_context=True)[-1] == ("Paris", "/m/paris_tx")


def test_everyday_words_are_not_linked(linker: EntityLinker, store: EntityStore) -> None:
    text = "It will rain. Who said it? Will you come, or will it not? The fr code is not a name; WHO knows."
    assert found(linker, store, text) == [("WHO", "/m/who")]
    assert ("Will Smith", "/m/will") in found(linker, store, "The actor Will Smith won.")


def test_case_accents_and_spacing_do_not_hide_a_name(linker: EntityLinker, store: EntityStore) -> None:
    for surface in ("NEW YORK CITY", "New\u00a0York City", "New  York-City", "Ne\u0301w Yórk City"):
        assert found(linker, store, f"We saw {surface} again") == [(surface, "/m/nyc")]
    assert found(linker, store, "We are new. York City is far\nNew\nYork City") == []


def test_left_context_covers_the_words_of_a_longer_name(linker: EntityLinker, store: EntityStore) -> None:
    assert found(linker, store, "She left New York City", left_context=True) == [("New York City", "/m/nyc")]
    eager = EntityLinker.open(linker.folder)
    eager.configure(eager.settings | {"left_context_bias": 3.0})
    assert [surface for surface, _ in found(eager, store, "She left New York City", left_context=True)] == ["New York", "City"]


WORDS = [
    *(name for label, _, _, aliases in NAMES.values() for name in (label, *aliases)),
    "the",
    "City",
    "will",
    "Obama's",
    "in",
    "\n\n",
    ".",
    ". The",
    ",",
    "ü",
    "北京",
    "\u0301",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=25), st.sampled_from([" ", ""]), st.data())
def test_a_longer_text_never_changes_earlier_mentions(linker: EntityLinker, words: list[str], glue: str, data: st.DataObject) -> None:
    text = glue.join(words)
    cut = data.draw(st.integers(0, len(text)))
    whole, part = linker.link(text, left_context=True), linker.link(text[:cut], left_context=True)
    inside_word = 0 < cut < len(text) and text[cut - 1 : cut + 1].isalnum()
    limit = max((place for place in range(cut) if not text[place].isalnum()), default=0) if inside_word or text[cut : cut + 1] in ".@/#\u0301" else cut
    assert [mention for mention in part if mention.end <= limit] == [mention for mention in whole if mention.end <= limit]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_linked(linker: EntityLinker, text: str) -> None:
    for left_context in (False, True):
        for mention in linker.link(text, left_context=left_context):
            assert text[mention.start : mention.end] == mention.surface


def everything(linker: EntityLinker, texts: list[str], *, left_context: bool) -> list[object]:
    """Words, spots, candidates with all their bits, and mentions."""
    run = linker.run(texts, left_context=left_context)
    count = run.spot_bounds[-1]
    total = run.spots.begin[count]
    arrays = [*run.words, run.spots.first[:count], run.spots.last[:count], run.spots.score[:count], run.candidates.entity[:total], run.candidates.score[:total]]
    found = run.mentions()
    return [array.tolist() for array in (*arrays, found.bounds, found.start, found.end, found.entity, found.score)]


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=120),
        st.lists(st.sampled_from([*WORDS, "𠀀", "カタ", "x" * 50]), max_size=20).map(" ".join),
        st.text("aA. ,\n-北カ\u0301é𠀀1", max_size=60),
    )
)
def test_compiled_code_gives_the_same_bits(linker: EntityLinker, text: str) -> None:
    pytest.importorskip("numba")
    compiled = EntityLinker.open(linker.folder, compiled=True)
    for left_context in (False, True):
        texts = [text, text[::-1], text + " Will Smith. Smith left Paris, Texas."]
        assert everything(linker, texts, left_context=left_context) == everything(compiled, texts, left_context=left_context)


def test_long_work_switches_to_compiled_code(linker: EntityLinker, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    text = "Will Smith left Paris for New York City. " * 5
    expected = EntityLinker.open(linker.folder, compiled=False).link(text)
    monkeypatch.setattr("rwtrain.model.linking_refinedweb.COMPILE_AFTER_CHARACTERS", 300)
    fresh = EntityLinker.open(linker.folder)
    assert [fresh.link(text) for _ in range(3)] == [expected] * 3
    assert fresh.run([text]).code.compiled


@pytest.mark.parametrize("left_context", [False, True])
def test_a_batch_gives_what_single_texts_give(linker: EntityLinker, left_context: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwtrain.model.linking_refinedweb.CHUNK_CHARACTERS", 100)
    texts = ["Will Smith left Paris.", "", "Smith is not named in full here.", "New York City " * 20, "巴黎", "In Texas, the Lone Star State, lies Paris"] * 3
    for threads in (1, 3):
        found = linker.link_batch(texts, left_context=left_context, threads=threads)
        for number, text in enumerate(texts):
            part = slice(found.bounds[number], found.bounds[number + 1])
            spans = list(zip(found.start[part].tolist(), found.end[part].tolist(), found.entity[part].tolist(), strict=True))
            assert spans == [(mention.start, mention.end, mention.entity) for mention in linker.link(text, left_context=left_context)]
    assert linker.link_batch([]).bounds.tolist() == [0]


def test_parts_of_a_name_mean_who_was_named_in_full(store: EntityStore, tmp_path: Path) -> None:
    names = {"Q76": "Barack Obama", "Q5": "human", "Q90": "Paris"}
    rows = [{"id": name, "wikidata_id": name, "label": label, "description": "", "aliases": []} for name, label in names.items()]
    triples = {"train": np.array([[0, 0, 1]] + [[0, 1, 2]] * 20)}
    relations = [("P31", "instance of"), ("P551", "residence")]
    write_store(tmp_path / "store", entities=[entity_batch(rows)], relations=relations, triples=triples, rejects=Rejects(), provenance={})
    store = EntityStore.open(tmp_path / "store")
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker")
    for left_context in (False, True):
        assert found(linker, store, "Barack Obama came. Barack's plane left; the barack dance.", left_context=left_context) == [
            ("Barack Obama", "Q76"),
            ("Barack", "Q76"),
        ]
        assert found(linker, store, "Barack came.", left_context=left_context) == []
        assert found(linker, store, "Obama came.", left_context=left_context) == [("Obama", "Q76")]  # nobody else has this last name


def test_given_spans_are_scored_even_if_they_are_not_names(linker: EntityLinker, store: EntityStore) -> None:
    text = "The paris of the French Republic, and nobody."
    spans = [(4, 9), (13, 32), (38, 44), (0, 0)]
    rows = [[store.external_id(candidate.entity) for candidate in candidates] for candidates in linker.score_spans(text, spans)]
    assert sorted(rows[0]) == ["/m/paris", "/m/paris_tx"]
    assert rows[1:] == [["/m/france"], [], []]
    text = "From Texas City, France"  # before the comma stands a known name: it says more than the one behind
    assert [store.external_id(candidates[0].entity) for candidates in linker.score_spans(text, [(5, 23), (11, 23)])] == ["/m/texas", "/m/france"]


def test_hostile_texts_end_soon(linker: EntityLinker) -> None:
    pytest.importorskip("numba")
    compiled = EntityLinker.open(linker.folder, compiled=True)
    texts = ["x" * 3_000_000, "Paris " * 100_000, "\0" * 100_000, "\ud800Paris\udfff", "New York " * 50_000, "\u0301" * 1000, "Will Smith Smith " * 30_000]
    for left_context in (False, True):
        found = compiled.link_batch(texts, left_context=left_context)
        assert len(found.bounds) == len(texts) + 1


def test_german_and_chinese_texts_link_to_the_same_entities(tmp_path: Path) -> None:
    import_wikidata(WIKIDATA, tmp_path / "store", languages=["en", "de", "zh"])
    store = EntityStore.open(tmp_path / "store")
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker")
    texts = {
        "Brazil, Portugal and Germany met in Lisbon, the United Arab Emirates stayed away.": "Brazil Portugal Germany Lisbon United Arab Emirates",
        "Brasilien, Portugal und Deutschland trafen sich in Lissabon, die VAE kamen nicht.": "Brasilien Portugal Deutschland Lissabon VAE",
        "巴西、葡萄牙和德国在里斯本会面，阿联酋没有参加。": "巴西 葡萄牙 德国 里斯本 阿联酋",
    }
    for text, surfaces in texts.items():
        assert [name for _, name in found(linker, store, text)] == ["Q155", "Q45", "Q183", "Q597", "Q878"], text
        assert " ".join(surface for surface, _ in found(linker, store, text)) == surfaces


def test_explain_shows_what_link_chose(linker: EntityLinker, store: EntityStore) -> None:
    text = "Paris is the capital of France."
    spots = linker.explain(text)
    assert [(spot.start, spot.end, *spot.candidates[0]) for spot in spots if spot.linked] == [(m.start, m.end, m.entity, m.score) for m in linker.link(text)]
    paris = spots[0]
    assert {store.external_id(row) for row, _ in paris.candidates} == {"/m/paris", "/m/paris_tx"}
    assert paris.candidates == tuple(sorted(paris.candidates, key=lambda pair: -pair[1]))


def test_vectors_labels_and_identity_come_with_the_folder(linker: EntityLinker, store: EntityStore) -> None:
    assert linker.store_hash == store.hash
    assert linker.label(store.row("Q60")) == "New York City"
    rows = [store.row("Q60"), 0, store.row("Q60")]
    vectors = linker.vectors(rows)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, store.vectors[rows])
    assert linker.vectors([]).shape == (0, 4)
    with pytest.raises(IndexError):
        linker.vectors([len(store)])


def test_works_without_vectors_and_says_so(tmp_path: Path) -> None:
    import_tsv(write_graph(tmp_path / "graph"), tmp_path / "store")
    store = EntityStore.open(tmp_path / "store")
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker")
    assert found(linker, store, "France and Italy") == [("France", "/m/france"), ("Italy", "/m/italy")]
    with pytest.raises(ValueError, match="no entity vectors"):
        linker.vectors([0])


def test_folder_works_with_only_these_files_and_numpy(linker: EntityLinker, tmp_path: Path) -> None:
    import rwtrain.model.linking_refinedweb as module

    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "__init__.py").touch()
    for name in [name for name in CODE_FILES if name.startswith("linking")]:
        shutil.copy(Path(str(module.__file__)).parent / name, tmp_path / "exported" / name)
    code = (
        "import sys, json\nfor name in ('rwtrain', 'torch', 'numba', 'safetensors'): sys.modules[name] = None\n"
        "from exported.linking_refinedweb import EntityLinker\n"
        "print(json.dumps([(m.start, m.end, m.entity, m.score) for m in EntityLinker.open(sys.argv[1]).link(sys.argv[2])]))"
    )
    text = "Will Smith left Paris for New York City."
    result = subprocess.run([sys.executable, "-c", code, str(linker.folder), text], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [tuple(entry) for entry in json.loads(result.stdout)] == [(m.start, m.end, m.entity, m.score) for m in linker.link(text)]


def test_damaged_folders_are_refused(linker: EntityLinker, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no entity linker here"):
        EntityLinker.open(tmp_path)
    folder = shutil.copytree(linker.folder, tmp_path / "linker")
    table = folder / "linker.safetensors"
    content = table.read_bytes()
    table.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"linker\.safetensors: \d+ bytes, expected"):
        EntityLinker.open(folder)
    table.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        EntityLinker.open(folder)
    table.unlink()
    with pytest.raises(FileNotFoundError, match="the file is missing"):
        EntityLinker.open(folder)
    (folder / "linker.json").write_text('{"schema_version": 99, "files": {}}')
    with pytest.raises(ValueError, match="version 99"):
        EntityLinker.open(folder)


def test_a_store_without_names_and_an_occupied_folder_are_refused(store: EntityStore, tmp_path: Path) -> None:
    rows = [{"id": "a", "wikidata_id": "", "label": "", "description": "", "aliases": []}]
    write_store(tmp_path / "bare", entities=[entity_batch(rows)], relations=[], triples={}, rejects=Rejects(), provenance={})
    with pytest.raises(DataError, match="no entity has a usable name"):
        build_linker(EntityStore.open(tmp_path / "bare"), tmp_path / "linker")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(DataError, match="not an entity linker"):
        build_linker(store, tmp_path / "mine")
