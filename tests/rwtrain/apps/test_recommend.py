"""Recommendation: planted sequences are learned, new items are placed by their text, reasons are true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rwtrain.apps.model import AppModel
from rwtrain.apps.recommend.catalogue import Item, read_histories, read_items
from rwtrain.apps.recommend.neighbours import Neighbours
from rwtrain.apps.recommend.recommender import Recommender, save
from rwtrain.apps.recommend.training import FineTuning, fine_tune, hit_rate_at, make_reader, ndcg_at, ranks, score
from rwtrain.errors import ConfigError, DataError
from rwtrain.knowledge.store import EntityStore

ITEMS = [Item(str(number), f"thing number {number} of {'AB'[number % 2]}", number % 20 if number % 3 else -1) for number in range(24)]


@pytest.fixture(scope="module")
def trained(app: AppModel, tmp_path_factory: pytest.TempPathFactory, entity_store: Path) -> tuple[Recommender, list[tuple[float, float]]]:
    """Every history counts upwards by two."""
    draw = np.random.default_rng(0)
    histories = [(np.arange(draw.integers(3, 11)) * 2 + draw.integers(0, 24)) % 24 for _ in range(96)]
    validation = [((np.arange(5) * 2 + start) % 24, int(5 * 2 + start) % 24) for start in range(24)]
    settings = FineTuning(epochs=25, window=8, learning_rate=2e-2, patience=25)
    reader = make_reader(app, ITEMS, knowledge=True, seed=0)
    curve = fine_tune(reader, histories, validation, settings)
    folder = tmp_path_factory.mktemp("recommender") / "model"
    save(reader, app, ITEMS, settings, folder)
    return Recommender.open(AppModel.open(folder), store=EntityStore.open(entity_store)), curve


def test_what_comes_next_is_learned_and_survives_saving(trained: tuple[Recommender, list[tuple[float, float]]]) -> None:
    recommender, curve = trained
    assert max(ndcg for _, ndcg in curve) > 0.85
    found = recommender.recommend(["2", "4", "6"], count=5)
    assert found[0].item.id == "8"
    assert not {"2", "4", "6"} & {each.item.id for each in found}


def test_reasons_are_in_the_history_and_in_the_graph(trained: tuple[Recommender, list[tuple[float, float]]]) -> None:
    recommender, _ = trained
    best = recommender.recommend(["1", "3", "5"], count=1)[0]
    assert {reason.item.id for reason in best.reasons} == {"1", "3", "5"}
    cosines = [reason.cosine for reason in best.reasons]
    assert cosines == sorted(cosines, reverse=True)
    assert recommender._shared(2, 4) == ("entity 3 (next)",)  # the graph is a ring: 2 → 3 → 4


def test_model_it_started_from_is_unchanged(app: AppModel, trained: object) -> None:
    again = AppModel.open(app.folder)
    assert all(torch.equal(first, second) for first, second in zip(app.model.parameters(), again.model.parameters(), strict=True))


def test_unchosen_item_is_placed_by_its_text(app: AppModel) -> None:
    reader = make_reader(app, ITEMS, knowledge=False, seed=0).eval()
    text = reader.text_NC[7]
    expected = torch.nn.functional.normalize(text + reader.key_projection(text), dim=-1)
    assert torch.allclose(reader.item_vectors()[7], expected, atol=1e-6)


def test_unchosen_items_are_no_negatives_and_can_be_asked_for(app: AppModel, tmp_path: Path) -> None:
    histories = [np.array([0, 2, 4, 6])] * 8
    reader = make_reader(app, ITEMS, knowledge=False, seed=0)
    settings = FineTuning(epochs=1, window=8, learning_rate=0.0, knowledge=False)
    fine_tune(reader, histories, [(histories[0][:3], 6)], settings)
    assert reader.chosen_N.nonzero()[:, 0].tolist() == [0, 2, 4, 6]
    rows = torch.tensor([[0, 2, 4, 6]])
    logits = (reader(rows[:, :-1])[0] @ reader.item_vectors()[[0, 2, 4, 6]].T) / 0.07  # evaluation mode: neither dropout nor left out parts
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 2, 3]))
    assert torch.allclose(reader.loss(rows), expected, atol=1e-5)
    save(reader, app, ITEMS, settings, tmp_path / "out", neighbours=Neighbours.count(histories, len(ITEMS)), weight=1.0)
    again = Recommender.open(AppModel.open(tmp_path / "out"))
    found = again.recommend(["0", "2"], count=50, new=True)
    assert {each.item.id for each in found} == {item.id for item in ITEMS} - {"0", "2", "4", "6"}
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_own_parts_are_left_out_in_training_only(app: AppModel) -> None:
    reader = make_reader(app, ITEMS, knowledge=False, seed=0)
    with torch.no_grad():
        reader.key_own.weight.fill_(1.0)
    whole, content = reader.eval().item_vectors(), torch.nn.functional.normalize(reader.text_NC + reader.key_projection(reader.text_NC), dim=-1)
    torch.manual_seed(0)
    drawn = reader.train().item_vectors()
    left_out = [torch.allclose(vector, other, atol=1e-6) for vector, other in zip(drawn, content, strict=True)]
    assert 0 < sum(left_out) < len(ITEMS)
    assert all(torch.allclose(vector, other, atol=1e-6) for vector, other, out in zip(drawn, whole, left_out, strict=True) if not out)


def test_padding_changes_nothing(app: AppModel) -> None:
    reader = make_reader(app, ITEMS, knowledge=True, seed=0).eval()
    short, long = np.array([3, 5]), np.array([1, 2, 3, 4, 5, 6])
    assert score(reader, [short, long], 8)[0] == pytest.approx(score(reader, [short], 8)[0], abs=1e-5)


def test_ranking_figures_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.5, 0.5, 0.5]])
    found = ranks(scores, [(np.array([0]), 2), (np.array([0]), 1)])
    assert found.tolist() == [2.0, 2.0]  # item 0 is history; of three equal ones the middle rank
    assert ndcg_at(np.array([1, 2, 11])) == pytest.approx((1 + 1 / np.log2(3)) / 3)
    assert hit_rate_at(np.array([1, 2, 11])) == pytest.approx(2 / 3)


def test_files_and_their_faults(tmp_path: Path, trained: tuple[Recommender, list[tuple[float, float]]], entity_store: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"id": item.id, "text": item.text, "entity": f"Q{number}"}) + "\n" for number, item in enumerate(ITEMS[:3])))
    read = read_items(items, store=EntityStore.open(entity_store))
    assert [item.entity for item in read] == [0, 1, 2]
    histories = tmp_path / "histories.csv"
    histories.write_text("user,item,time\nu,2,5\nu,0,3\nv,1,1\n")
    users, found = read_histories(histories, read)
    assert (users, [history.tolist() for history in found]) == (["u", "v"], [[0, 2], [1]])
    bad: list[DataError] = []
    histories.write_text("user,item,time\nu,2,5\nu,9,5\nu,1,nan\nu,1\nu,0,3\n")
    assert [history.tolist() for history in read_histories(histories, read, bad=bad.append)[1]] == [[0, 2]]
    assert [error.record for error in bad] == [3, 4, 5]
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\nno JSON\n')
    assert [item.text for item in read_items(twice, bad=bad.append)] == ["a"]
    assert [error.record for error in bad[3:]] == [2, 3]
    histories.write_text("user,item,time\nu,9,5\n")
    with pytest.raises(DataError, match="record 2"):
        read_histories(histories, read)
    items.write_text('{"id": 1}\n')
    with pytest.raises(DataError, match="record 1"):
        read_items(items)
    with pytest.raises(ConfigError, match="unknown"):
        trained[0].recommend(["nothing"])
    with pytest.raises(DataError, match="recommend train"):
        Recommender.open(AppModel(tmp_path, trained[0].app.evaluated))


def test_neighbour_counts_by_hand() -> None:
    found = Neighbours.count([np.array([0, 1, 2]), np.array([0, 1])], 4)
    near = found.near.toarray()
    assert near[0, 1] == pytest.approx(2 / np.sqrt(2 * 2))  # twice at distance 1; both stand in two histories
    assert near[1, 0] == pytest.approx(0.5 * 2 / np.sqrt(2 * 2))  # backwards counts half
    assert near[0, 2] == pytest.approx(0.5 / np.sqrt(2 * 1))  # distance 2
    assert found.popularity == pytest.approx([3 / 9, 3 / 9, 2 / 9, 1 / 9])
    near = near[1] + near[0] / 2  # the history 0, 1: the last counts 1, the one before 1/2
    assert found.score([np.array([0, 1])])[0] == pytest.approx(np.log(0.9 * near / near.sum() + 0.1 * found.popularity), abs=1e-5)
    assert np.isfinite(found.score([np.array([3])])).all()  # no neighbours: popularity
    again = Neighbours.from_arrays(found.arrays())
    assert again.score([np.array([0, 1])]).tolist() == found.score([np.array([0, 1])]).tolist()


def test_neighbours_are_saved_and_change_what_is_recommended(trained: tuple[Recommender, list[tuple[float, float]]], tmp_path: Path) -> None:
    recommender, _ = trained
    neighbours = Neighbours.count([np.array([6, 17])] * 5, len(ITEMS))
    save(recommender.reader, recommender.app, ITEMS, recommender.settings, tmp_path / "out", neighbours=neighbours, weight=1.0)
    again = Recommender.open(AppModel.open(tmp_path / "out"))
    assert again.recommend(["2", "4", "6"], count=1)[0].item.id == "17"  # the network says 8
    history = np.array([2, 4, 6])
    expected = score(recommender.reader, [history], recommender.settings.window)[0, 17] + neighbours.score([history])[0, 17]
    assert again.recommend(["2", "4", "6"], count=1)[0].score == pytest.approx(expected, abs=1e-5)


def test_neighbours_that_point_outside_the_catalogue_are_refused(trained: tuple[Recommender, list[tuple[float, float]]], tmp_path: Path) -> None:
    recommender, neighbours = trained[0], Neighbours.count([np.array([6, 17])] * 5, len(ITEMS))
    neighbours.near.indices[0] = 10**9
    save(recommender.reader, recommender.app, ITEMS, recommender.settings, tmp_path / "far", neighbours=neighbours, weight=1.0)
    with pytest.raises(DataError, match="no readable recommender"):
        Recommender.open(AppModel.open(tmp_path / "far"))
    fewer = Neighbours.count([np.array([1, 2])], len(ITEMS) - 1)
    save(recommender.reader, recommender.app, ITEMS, recommender.settings, tmp_path / "few", neighbours=fewer, weight=1.0)
    with pytest.raises(DataError, match="do not fit together"):
        Recommender.open(AppModel.open(tmp_path / "few"))
