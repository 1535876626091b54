from __future__ import annotations

import bz2
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import linking
from data_prep.links import Link, realign
from data_prep.pipeline import Preparation
from data_prep.plan import LinkNode, Plan
from data_prep.records import Record, Redirect, read_records, write_records
from data_prep.redirects import follow, open_pages, write_redirects
from data_prep.wikitext import wikitext_to_text
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.errors import RWTrainError
from rwtrain.knowledge.anchors import links as links_of_wikitext
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.store import EntityStore, hash_ids, normal_title
from tests.data_prep.test_wikipedia import SAMPLE


def shown(text: str, links: list[Link]) -> list[tuple[str, str]]:
    return [(text[link.start : link.end], link.page) for link in links]


def test_links_of_wikitext_are_where_their_text_is() -> None:
    wikitext = """{{Infobox | [[nothing]] }}'''Ada'''  (  ) was a [[mathematics|mathematician]] and ''[[writer]]s''.
[[File:Ada.jpg|thumb|A [[portrait]]]]
== Life&nbsp;of [[Ada Lovelace|Ada]] ==
*   [[London#Docks|born]] in [[:London]], [[#Works|below]] [[fr:Chat]]
== References ==
* [[gone]]"""
    text, links = wikitext_to_text(wikitext)
    assert text == "Ada was a mathematician and writers.\n\nLife of Ada\n\n- born in London, below"
    expected = [("mathematician", "mathematics"), ("writers", "writer"), ("Ada", "Ada Lovelace"), ("born", "London"), ("London", "London")]
    assert shown(text, links) == expected


@pytest.mark.parametrize(
    ("new", "left"),
    [
        ("The cat sat.\nParis is a city\nParis\n", ["cat", "Paris", "Paris"]),
        ("Paris is a city\nParis", ["Paris", "Paris"]),  # a line gone
        ("The cat sat.\nParis", ["cat", "Paris"]),  # the line between gone: the last one stays itself
        ("A cat sat.\nParis is a city", ["cat", "Paris"]),  # a word changed beside it
        ("The <X> cat sat.\n<EMAIL> Paris is a city\nParis", ["cat", "Paris", "Paris"]),
        ("The dog sat.", []),
        ("", []),
    ],
)
def test_links_follow_changes_of_the_text(new: str, left: list[str]) -> None:
    old = "The cat sat.\nParis is a city\nParis"
    links = [Link(4, 7, "w:Cat"), Link(13, 18, "w:Paris"), Link(29, 34, "w:Paris (band)")]
    found = realign(old, new, links)
    assert [text for text, _ in shown(new, found)] == left
    if len(left) == 3:
        assert [link.page for link in found] == [link.page for link in links]


@given(st.lists(st.tuples(st.lists(st.sampled_from(["alpha", "beta", "gamma"]), min_size=1, max_size=4), st.booleans()), max_size=12))
def test_links_of_lines_that_stay_are_found_and_none_is_made_up(lines: list[tuple[list[str], bool]]) -> None:
    # Every line has its number, so that it differs from all others; one of its words is a link.
    texts = [f"{number}: {' '.join(words)} end of {number}" for number, (words, _) in enumerate(lines)]
    links, position = [], 0
    for number, text in enumerate(texts):
        start = position + text.index(" ") + 1
        links.append(Link(start, start + len(lines[number][0][0]), f"page {number}"))
        position += len(text) + 1
    kept = [number for number, (_, stays) in enumerate(lines) if stays]
    new = "\n".join(texts[number] for number in kept)
    found = realign("\n".join(texts), new, links)
    assert shown(new, found) == [(lines[number][0][0], f"page {number}") for number in kept]


def test_realignment_takes_linear_time() -> None:
    old = "".join(f"{number} x" for number in range(50_000))
    links = [Link(place, place + 1, "w:X") for place in range(len(old)) if old[place] == "x"]
    begin = time.process_time()
    realign(old, "y" * len(old), links)
    assert time.process_time() - begin < 2


def test_links_survive_parquet(tmp_path: Path) -> None:
    records = [Record("a", "s", "text", links=[Link(0, 4, "enwiki:Text")]), Record("b", "s", "none")]
    write_records(tmp_path / "x.parquet", [records])
    assert list(read_records(tmp_path / "x.parquet")) == [records]


@pytest.fixture(scope="module")
def freebase(tmp_path_factory: pytest.TempPathFactory) -> EntityStore:
    """The example's graph as an entity store."""
    folder = tmp_path_factory.mktemp("kg") / "store"
    import_tsv(SAMPLE.parent / "fb15k237", folder, workers=1)
    return EntityStore.open(folder)


def test_redirects_lead_to_entities(freebase: EntityStore, tmp_path: Path) -> None:
    paris = freebase.by_title("enwiki", "Paris")
    chain = [Redirect("City_of_light", "Lutetia"), Redirect("lutetia", "Paris#History"), Redirect("A", "B"), Redirect("B", "A")]
    write_redirects(tmp_path / "one", chain[:1], "en")
    write_redirects(tmp_path / "two", chain[1:], "en")
    assert follow([str(tmp_path / f"{name}.redirects.npy") for name in ("one", "two")], tmp_path / "all") == {"redirects": 4, "cyclic": 2}
    pages = open_pages(str(freebase.folder), str(tmp_path / "all.npy"), ("enwiki",))
    names = ["City of light", "Lutetia", "Paris", "A", "Nowhere"]
    assert pages.find(hash_ids([f"enwiki:{name}" for name in names])).tolist() == [paris, paris, paris, -1, -1]


def test_links_of_the_sample_dump_become_mentions(freebase: EntityStore, tmp_path: Path) -> None:
    """Checked against another reading of the same dump: its links by regular expression, its redirects by name."""
    wanted = links_by_article(freebase)
    source = {"kind": "wikipedia", "name": "w", "paths": [str(SAMPLE)], "skip": ["unicode", "language", "repetition", "quality", "dedup"]}
    settings = {"tokenizer": {"vocab_size": 700, "train_characters": 300_000}, "splits": {"valid": 0}, "lines": {"enabled": True, "max_removed_words": 1}}
    plan = Plan.model_validate({"sources": [source], "link": {"entities": str(freebase.folder)}, **settings})
    summary = Preparation(plan, tmp_path / "out", workers=1, quiet=True).run()
    dataset, tokenizer = ShardDataset(tmp_path / "out/shards/text/train"), Tokenizer(tmp_path / "out/tokenizer")
    assert dataset.manifest["entity_store_hash"] == freebase.hash
    total = 0
    for index in range(len(dataset)):
        shard, row = dataset.locate(index)
        surfaces = wanted[shard.doc_id(row)]
        for start, end, entity in zip(*dataset.mentions(index), strict=True):
            text = tokenizer.decode(dataset.tokens(index, int(start), int(end)))
            assert any(meant == entity and surface in text for surface, meant in surfaces), (text, freebase.label(int(entity)))
            total += 1
    # Links of templates, tables, captions and end matter are not prose.
    assert total == dataset.manifest["mentions"] >= 0.98 * summary.links_with_entity
    assert 0.6 * sum(map(len, wanted.values())) < total < sum(map(len, wanted.values()))


def links_by_article(store: EntityStore) -> dict[str, list[tuple[str, int]]]:
    """Document id -> (text, entity) of all its links to entities."""
    root = ElementTree.fromstring(bz2.decompress(SAMPLE.read_bytes()))
    name = root.tag.removesuffix("mediawiki")
    pages = [page for page in root.iter(f"{name}page") if page.findtext(f"{name}ns") == "0"]
    titles = {page: normal_title(page.findtext(f"{name}title") or "") for page in pages}
    redirects = {titles[page]: normal_title(found.get("title") or "") for page in pages if (found := page.find(f"{name}redirect")) is not None}
    wanted = {}
    for page in pages:
        found = []
        for surface, target in links_of_wikitext(page.findtext(f"{name}revision/{name}text") or "", frozenset()):
            try:
                found.append((surface, store.by_title("enwiki", redirects.get(target, target))))
            except KeyError:
                continue
        wanted[f"w:{page.findtext(f'{name}id')}"] = found
    return wanted


def test_entities_of_another_store_than_the_linkers_are_refused(freebase: EntityStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "open_linker", lambda folder: SimpleNamespace(store_hash="another"))
    monkeypatch.setattr(linking, "linker_hash", lambda folder: "hash")
    with pytest.raises(RWTrainError, match="is not the entity store that the linker"):
        linking.link_inputs(LinkNode(store="linker", entities=str(freebase.folder)))
