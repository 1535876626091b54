from __future__ import annotations

import pytest

from rwtrain.knowledge.variants import known_demonyms, plurals, short_names, short_names_of, spellings


@pytest.mark.parametrize(
    ("label", "person", "expected"),
    [
        ("Samuel Beckett", True, {"Beckett"}),
        ("Martin Luther King, Jr.", True, {"King"}),
        ("Chicago Bulls", False, {"Bulls"}),
        ("United States Navy", False, {"Navy"}),
        ("Villanova University", False, {"Villanova"}),
        ("University of California, San Diego", False, {"University of California"}),
        ("Oberlin Conservatory of Music", False, {"Oberlin Conservatory"}),
        ("Gannett Company", False, {"Gannett"}),
        ("Los Gatos Pass", False, set()),
        ("crude oil", False, set()),
        ("Paris", False, set()),
    ],
)
def test_what_an_entity_is_called_for_short(label: str, person: bool, expected: set[str]) -> None:
    assert set(short_names(label, person=person)) - {label} == expected


def test_short_names_that_many_share_are_none() -> None:
    smiths = [(row, f"{first} Smith") for row, first in enumerate("ABCDEFGHIJKLM")]
    labels = [*smiths, (20, "Roger Federer"), (21, "Federer")]
    names = {row: {label} for row, label in labels}
    assert short_names_of(labels, {row for row, _ in labels}, names) == [("Federer", 20)]
    assert len(short_names_of(labels[1:], {row for row, _ in labels}, names)) == 13


def test_adjectives_inhabitants_and_abbreviations_of_places() -> None:
    known = known_demonyms()
    assert known["Spain"] == ["Spanish", "Spaniard", "Spaniards"]
    assert known["Iraq"] == ["Iraqi", "Iraqis"]
    assert known["Ireland"] == ["Irish"]
    assert {"Frenchman", "Frenchmen"} <= set(known["France"])
    assert known["California"] == ["Californian", "Californians", "Calif."]
    assert list(spellings("U.S.")) == ["US"]
    assert [next(plurals(noun)) for noun in ("city", "church", "river")] == ["cities", "churches", "rivers"]
