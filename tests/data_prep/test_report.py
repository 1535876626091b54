from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from data_prep.command import describe
from data_prep.packing_figures import measure_packing
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.report import bars, short
from data_prep.summary import Summary
from tests.data_prep.builders import prose, write_idx, write_warc

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"></blockquote></section>{{ 7 * 7 }}'
NEAR_WORDS, FEW_WORDS = 45, 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A finished run whose documents, captions, ids and broken rows are hostile."""
    folder = tmp_path_factory.mktemp("report")
    rows = [f"{HOSTILE} {prose(number)}" for number in range(12)]
    rows += [rows[3], rows[3], f"{rows[5]} One word more."]
    rows += [" ".join(prose(50).split()[:NEAR_WORDS]), " ".join(prose(51).split()[:FEW_WORDS]) + HOSTILE, " ".join(prose(52).split()[:52])]
    rows += [f"Write to jane.doe@example.com {' '.join(prose(53).split()[:20])}", "unbroken" * 90]
    lines = [json.dumps({"id": f"{number}{HOSTILE}", "text": text}) for number, text in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join([*lines, "broken"]) + "\n")
    images, labels = write_idx(folder, [0, 1] * 6)
    plan = Plan.model_validate(
        {
            "name": "A <b>corpus</b>",
            "sources": [
                {"kind": "warc", "name": "web", "paths": [str(write_warc(folder / "a.warc.gz", 20, first=100))]},
                {"kind": "text", "name": "rows", "paths": [str(folder / "rows.jsonl")], "id_column": "id", "skip": ["language"]},
                {
                    "kind": "idx",
                    "name": "pictures",
                    "files": [{"images": str(images), "labels": str(labels), "split": "train"}],
                    "classes": ["cat", "dog"],
                    "templates": ["a {}"],
                },
            ],
            "repetition": {"enabled": False},
            "quality": {"min_words": 50, "max_mean_word_length": 100.0},
            "privacy": {"enabled": True},
            "splits": {"valid": 0.1},
            "tokenizer": {"vocab_size": 400},
            "report": {"seq_lens": [128, 1024]},
        }
    )
    return folder / "out", Preparation(plan, folder / "out", workers=1, quiet=True).run()


@pytest.fixture(scope="module")
def figures(run: tuple[Path, Summary]) -> dict[str, Any]:
    return json.loads((run[0] / "summary.json").read_text())


def test_samples_stand_side_by_side_and_say_what_is_near_the_limit(figures: dict[str, Any]) -> None:
    (quality,) = [stage for stage in figures["funnel"] if stage["name"] == "quality"]
    assert dict(quality["reasons"])["too few words"] == 4
    few = {(sample["kept"], sample["near"]): sample for sample in quality["samples"] if sample["reason"] == "too few words"}
    assert len(few[False, True]["text"].split()) == NEAR_WORDS  # stays from 42 words on
    assert len(few[True, True]["text"].split()) == 52  # goes below 60 words
    assert "jane.doe" not in json.dumps(figures)


def test_clusters_of_duplicates_have_their_members(figures: dict[str, Any]) -> None:
    assert figures["cluster_sizes"] == [[2, 1], [4, 1]]
    largest, pair = figures["clusters"]
    assert (largest["size"], [member["similarity"] for member in largest["members"]]) == (3, [1.0, 1.0, 1.0])
    assert [member["doc_id"].partition("<")[0] for member in largest["members"]] == ["rows:rows.jsonl:3", "rows:rows.jsonl:12", "rows:rows.jsonl:13"]
    assert 0.8 < pair["members"][1]["similarity"] < 1


def test_funnel_languages_and_tokens_agree_with_the_datasets(figures: dict[str, Any]) -> None:
    text = [counts for name, counts in figures["datasets"].items() if name.startswith("text/")]
    last = figures["funnel"][-1]
    assert last["documents"] == sum(counts["documents"] for counts in text) == sum(count for _, count, _ in figures["languages"])
    assert last["tokens"] == sum(counts["tokens"] for counts in text) == sum(tokens for _, _, tokens in figures["languages"])
    assert figures["funnel"][0]["tokens"] is None
    for before, after in itertools.pairwise(figures["funnel"]):
        assert after["documents_in"] == before["documents"]
        assert after["documents_in"] - after["documents"] == sum(count for _, count in after["reasons"])


def test_page_shows_the_figures_of_the_summary(run: tuple[Path, Summary], figures: dict[str, Any], browser: WebDriver) -> None:
    browser.get((run[0] / "report.html").as_uri())

    def texts(selector: str) -> list[str]:
        return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map(node => node.textContent.trim())", selector)

    def numbers(selector: str) -> list[int]:
        return [int(re.sub(r"\s", "", text)) for text in texts(selector)]

    sections = {
        "totals",
        "funnel",
        "funnel-removed",
        "picture-funnel",
        "languages",
        "lengths",
        "duplicates",
        "packing",
        "speed",
        "datasets",
        "quarantine",
        "plan",
    }
    assert sections <= set(browser.execute_script("return [...document.querySelectorAll('section')].map(node => node.id)"))
    assert texts("h1") == ["A <b>corpus</b>"]
    assert texts("#funnel .stage b:first-child:not(.documents)") == [stage["name"] for stage in figures["funnel"]]
    for name in ("documents", "characters", "tokens"):
        assert numbers(f"#funnel .stage .{name}") == [stage[name] for stage in figures["funnel"] if stage[name] is not None]
    assert numbers("#totals b")[2:] == [figures["tokens"], figures["images"], figures["mentions"]]
    assert numbers("#languages td:nth-child(4)") == [tokens for _, _, tokens in figures["languages"]]
    assert texts("#packing .fill") == [f"{100 * item[way]['fill']:.2f}%" for item in figures["packing"] for way in ("best_fit", "padding", "concatenate")]
    assert numbers("#packing .row-count") == [item[way]["rows"] for item in figures["packing"] for way in ("best_fit", "padding", "concatenate")]
    assert numbers("#datasets td:nth-child(3)") == [counts["tokens"] for counts in figures["datasets"].values()]
    assert len(texts("#lengths svg")) == 2
    assert len(texts("#duplicates .cluster")) == 2
    assert texts("[data-speed] b") == [speed["name"] for speed in figures["speeds"]]
    assert numbers("#quarantine td:nth-child(2)") == [1]


def test_page_is_inert_and_fits_a_telephone(run: tuple[Path, Summary], browser: WebDriver) -> None:
    browser.get((run[0] / "report.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(node => { node.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.execute_script("return window.innerWidth") == 390
    assert browser.execute_script("return window.hacked === undefined && document.querySelectorAll('script, img, iframe, link').length === 0")
    shown = browser.execute_script("return document.body.innerText")
    assert "<script>window.hacked = 1</script>" in shown
    assert "{{ 7 * 7 }}" in shown
    assert browser.get_log("browser") == []
    html = (run[0] / "report.html").read_text()
    assert not re.search(r"""(src|href|action)\s*=\s*["']?[a-z]+:""", re.sub("&[a-z#0-9]+;", "", html))


def test_closing_lines_name_the_report(run: tuple[Path, Summary]) -> None:
    assert "40 documents read" in describe(run[1], run[0], 1.0)


def test_packing_figures_are_those_of_a_hand_count() -> None:
    found = measure_packing("text/train", np.array([6, 4, 5, 5, 17]), 10)  # 17 is cut into 10 and 7
    assert (found.best_fit.rows, found.best_fit.fill, found.best_fit.cut) == (4, 37 / 40, 1)
    assert (found.padding.rows, found.padding.fill, found.padding.cut) == (6, 37 / 60, 1)
    assert (found.concatenate.rows, found.concatenate.fill, found.concatenate.cut) == (4, 37 / 40, 1)
    assert measure_packing("x", np.array([7, 7, 7]), 10).concatenate.cut == 2
    assert measure_packing("x", np.zeros(0, np.int64), 10).best_fit.rows == 0
    lengths = np.random.default_rng(0).lognormal(6, 1.2, 20_000).astype(int) + 3
    assert measure_packing("x", lengths, 2048).best_fit.fill > 0.99


def test_bars_leave_no_gap_and_labels_are_short() -> None:
    drawn = bars([(15, 4), (127, 8), (255, 2)])
    assert [(bar.label, bar.count) for bar in drawn] == [("≤15", 4), ("≤31", 0), ("≤63", 0), ("≤127", 8), ("≤255", 2)]
    assert [bar.height / drawn[3].height for bar in drawn] == pytest.approx([0.5, 0, 0, 1, 0.25], abs=0.01)
    assert [bar.label for bar in bars([(2, 1), (8, 1)])] == ["≤2", "≤4", "≤8"]
    shorts = {7: "7", 511: "511", 1023: "1k", 2047: "2k", 65535: "64k", 1000: "1k", 1500: "1.5k", 123_456: "123k"}
    assert {value: short(value) for value in shorts} == shorts
