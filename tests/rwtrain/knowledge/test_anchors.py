from __future__ import annotations

import bz2
import shutil
from collections import Counter
from html import escape
from pathlib import Path

import numpy as np
import pytest

from rwtrain.cli import main
from rwtrain.errors import DataError
from rwtrain.knowledge import anchors
from rwtrain.knowledge.anchors import count_anchors, links
from rwtrain.knowledge.numbering import follow_redirects
from rwtrain.knowledge.store import EntityStore
from tests.rwtrain.knowledge.test_import_wikidata import RECORDS, dump, import_wikidata, item, texts

HEAD = (
    "<mediawiki>\n<siteinfo><dbname>enwiki</dbname><namespaces>"
    '<namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">File</namespace></namespaces></siteinfo>\n'
)


def page(title: str, text: str = "", *, redirect: str = "", space: int = 0) -> str:
    target = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    return f"  <page>\n<title>{escape(title)}</title><ns>{space}</ns><id>1</id>{target}<revision><id>2</id><text>{escape(text)}</text></revision>\n  </page>\n"


PAGES = [
    page("Paris", "'''Paris''' is in [[France]], [[france|the ''French'' Republic]] and [[File:Paris.jpg|thumb|in [[France]]]]."),
    page("City of light", redirect="Ville Lumière"),
    page("Ville Lumière", redirect="Paris"),
    page("Circle A", redirect="Circle B"),
    page("Circle B", redirect="Circle A"),
    page(
        "France",
        "[[City_of_light|Paris]] &amp; [[Paris#History|Paris]]; [[Circle A]]; [[Nowhere]]; <!-- [[Paris]] --> [[France]]s, [[:Paris]], [[|]], [[Paris|]]",
    ),
    page("Talk:France", "[[Paris]]", space=1),
    page("Homonym", "[[Homonym|Paris]]"),
]
EXPECTED = {("France", "Q142"): 2, ("the French Republic", "Q142"): 1, ("Frances", "Q142"): 1, ("Paris", "Q90"): 4, ("Paris", "Q70"): 1}


def write_dump(path: Path, pages: list[str], end: str = "</mediawiki>\n") -> Path:
    content = (HEAD + "".join(pages) + end).encode()
    path.write_bytes(bz2.compress(content) if path.suffix == ".bz2" else content)
    return path


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    records = [*RECORDS, item("Q70", texts(en="Homonym"), sitelinks={"enwiki": {"title": "Homonym"}})]
    import_wikidata(dump(tmp_path / "dump.json", records), tmp_path / "store", languages=("en", "de"))
    return EntityStore.open(tmp_path / "store")


def found(store: EntityStore) -> dict[tuple[str, str], int]:
    table = EntityStore.open(store.folder, verify=True).anchors
    assert table is not None
    return {(row["surface"], store.external_id(row["entity"])): row["count"] for row in table.to_pylist()}


@pytest.mark.parametrize(("name", "unit_bytes"), [("a.xml", 1 << 20), ("a.xml.bz2", 1 << 20), ("a.xml", 300)])
def test_links_lead_to_entities_through_redirects(store: EntityStore, tmp_path: Path, name: str, unit_bytes: int) -> None:
    details = count_anchors(store, [write_dump(tmp_path / name, PAGES)], workers=1, unit_bytes=unit_bytes)
    assert found(store) == EXPECTED
    assert {key: details[key] for key in ("articles", "links", "linked", "redirects", "cyclic_redirects", "surfaces", "pairs", "rejects")} == {
        "articles": 3,
        "links": 11,
        "linked": 9,
        "redirects": 4,
        "cyclic_redirects": 2,
        "surfaces": 4,
        "pairs": 5,
        "rejects": {},
    }


def test_file_is_sorted_and_merged_over_dumps(store: EntityStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.anchors is None
    monkeypatch.setattr(anchors, "MERGED_ROWS", 3)
    dumps = [write_dump(tmp_path / f"{number}.xml", PAGES) for number in range(2)]
    count_anchors(store, dumps, workers=1, unit_bytes=300)
    assert found(store) == {key: 2 * count for key, count in EXPECTED.items()}
    table = EntityStore.open(store.folder).anchors
    assert table is not None
    assert [str(field.type) for field in table.schema] == ["string", "int64", "int64"]
    rows = [(row["surface"].encode(), -row["count"]) for row in table.to_pylist()]
    assert rows == sorted(rows)


def test_links_of_a_wikitext() -> None:
    text = "[[a b#c]] [[A_b|x <small>y</small>]]s [[:Category:Z]] [[Image:x.png|t]] [[wp:About]] <nowiki>[[no]]</nowiki> [[b|{{t}}]] [[Ärzte|Arzt]]praxen中"
    assert list(links(text, frozenset({"category", "image", "wp"}))) == [("a b#c", "A b"), ("x ys", "A b"), ("Arztpraxen", "Ärzte")]


def test_redirects_are_followed_and_circles_cut() -> None:
    draw = np.random.default_rng(3)
    for size in (0, 1, 5, 60):
        names = draw.permutation(1000)[:size].astype(np.uint64)
        goals = np.where(draw.random(size) < 0.7, draw.choice(names, size) if size else 0, 5000).astype(np.uint64)
        source, final, cyclic = follow_redirects(names, goals)
        step = dict(zip(names.tolist(), goals.tolist(), strict=True))
        assert source.tolist() == sorted(step)
        for name, end, cut in zip(source.tolist(), final.tolist(), cyclic.tolist(), strict=True):
            here, seen = name, set()
            while here in step and here not in seen:
                seen.add(here)
                here = step[here]
            assert cut == (here in step)
            assert cut or end == here


def test_stores_without_titles_match_labels_of_one_entity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"Q90": "Paris", "Q142": "France", "Q1": "Homonym", "Q2": "Homonym"}
    import_wikidata(dump(tmp_path / "dump.json", [item(name, texts(en=label)) for name, label in labels.items()]), tmp_path / "store")
    store = EntityStore.open(tmp_path / "store")
    assert count_anchors(store, [write_dump(tmp_path / "a.xml", PAGES)], workers=1)["match"] == "labels"
    assert found(store) == {key: count for key, count in EXPECTED.items() if key[1] != "Q70"}
    assert "no page titles" in caplog.text


def test_broken_pages_are_counted_and_broken_dumps_refused(store: EntityStore, tmp_path: Path) -> None:
    bad = page("Bad", "[[Paris]]").replace("</text>", "</txt>")
    details = count_anchors(store, [write_dump(tmp_path / "a.xml", [*PAGES, bad, "  <page><title>Cut"], end="")], workers=1)
    assert details["rejects"] == {"page without an end": 1, "page is not XML (ParseError)": 1}
    assert found(store) == EXPECTED
    assert "Bad" in (store.folder / "anchors.rejects.jsonl").read_text()
    before = (store.folder / "anchors.arrow").read_bytes()
    path = write_dump(tmp_path / "b.xml.bz2", PAGES * 50)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"b\.xml\.bz2, record \d+: cannot be read"):
        count_anchors(store, [path])
    (tmp_path / "c.xml").write_text("<html></html>")
    with pytest.raises(DataError, match="not a MediaWiki XML dump"):
        count_anchors(store, [tmp_path / "c.xml"])
    with pytest.raises(DataError, match=r"d\.xml.*cannot be read"):
        count_anchors(store, [tmp_path / "d.xml"])
    assert (store.folder / "anchors.arrow").read_bytes() == before
    EntityStore.open(store.folder, verify=True)


def test_command_counts(store: EntityStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kg", "anchors", str(store.folder), str(write_dump(tmp_path / "a.xml.bz2", PAGES)), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "9 of 11 links of 3 articles lead to entities: 4 texts, 5 pairs" in out
    assert "2 redirects in circles" in out


def test_counts_do_not_depend_on_workers(store: EntityStore, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    titles = ["Paris", "France", "Homonym", "City of light"]
    pages = [page(f"P{n}", " ".join(f"[[{titles[draw.integers(4)]}|name {draw.integers(40)}]]" for _ in range(30))) for n in range(200)] + PAGES
    copy = EntityStore.open(shutil.copytree(store.folder, tmp_path / "copy"))
    source = write_dump(tmp_path / "a.xml.bz2", pages)
    count_anchors(store, [source], workers=1, unit_bytes=20_000)
    count_anchors(copy, [source], workers=2, unit_bytes=50_000)
    assert (copy.folder / "anchors.arrow").read_bytes() == (store.folder / "anchors.arrow").read_bytes()
    assert Counter(found(store).values()).total() > 80
