"""Names that English makes from other names: abbreviations with dots, plurals, adjectives of places, and names cut short."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

DOTTED, UNDOTTED = re.compile(r"^(?:[A-Z]\.){2,5}$"), re.compile(r"^[A-Z]{2,4}$")
ARTICLE = re.compile(r"^[Tt]he\s+(?=\S+\s+\S)|^the\s+")
GENERATION = re.compile(r",? (?:Jr\.?|Sr\.?|I{2,3}|IV)$")
BEHIND = re.compile(r"(?<=\S\s)(\S+) (?:of|for|in|de) .*")
HEADS = re.compile(
    r",? (?:University|College|Company|Corporation|Incorporated|Inc\.?|Corp\.?|Ltd\.?|Limited|Group|Holdings|Foundation|Party|County|Beach"
    r"|International Airport|people)$"
)
NATION = re.compile(r"^(?:United States|U\.S\.|British) (?=[A-Z])")
MOST_SHARED = 12  # of entities with the same short name; beyond, it says next to nothing ("Smith")
SHORTEST = 4


def spellings(name: str) -> Iterator[str]:
    """An abbreviation with dots where it is written without, and the other way round."""
    if DOTTED.match(name):
        yield name.replace(".", "")
    elif UNDOTTED.match(name):
        yield "".join(f"{letter}." for letter in name)


def plurals(noun: str) -> Iterator[str]:
    """The regular English plural of a common noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        yield noun + "es"
    elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
        yield noun[:-1] + "ies"
    else:
        yield noun + "s"


def known_demonyms() -> dict[str, list[str]]:
    """Place -> its adjectives and inhabitants ("Spain": Spanish, Spaniard, Spaniards), and abbreviations; from demonyms.md."""
    lines = (resources.files("rwtrain.knowledge") / "demonyms.md").read_text(encoding="utf-8").split("\n\n", 1)[1].splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        place, _, words = line.partition(": ")
        for word in words.split(", "):
            found.setdefault(place, []).append(word)
            if word.endswith("man"):
                found[place].append(word[:-3] + "men")
            elif not word.endswith((".", "ese", "ish", "sh", "ch", "ss", "Britain")):
                found[place].append(word + "s")
    return found


def short_names(label: str, *, person: bool) -> Iterator[str]:
    """What an entity may be called for short: a person by the last name, others without what stands behind ("of …", "University", "County"), without
    "United States" before, or by the plural at the end ("Chicago Bulls").
    """
    if " " not in label or not label[0].isupper():
        return
    if person:
        yield GENERATION.sub("", label).rsplit(" ", 1)[-1]
        return
    yield label.split(",")[0]
    yield BEHIND.sub(r"\1", label)
    yield HEADS.sub("", label)
    yield NATION.sub("", label)
    last = label.rsplit(" ", 1)[-1]
    if last[:1].isupper() and last.endswith("s") and not last.endswith(("ss", "us", "is")):
        yield last


def short_names_of(labels: Iterable[tuple[int, str]], people: set[int], names: Mapping[int, set[str]]) -> list[tuple[str, int]]:
    """(short name, entity) of all entities, without the names they have anyway and those that more than a dozen share.

    Args:
        labels: entity and its label, without brackets.
        people: entities that are persons.
        names: the names that each entity has.
    """
    pairs = [
        (name, row)
        for row, label in labels
        for name in dict.fromkeys(short_names(label, person=row in people))
        if len(name) >= SHORTEST and name[0].isupper() and name not in names[row]
    ]
    shared = Counter(name for name, _ in pairs)
    return [(name, row) for name, row in pairs if shared[name] <= MOST_SHARED]
