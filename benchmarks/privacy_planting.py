"""Personal data made by seed, written from the public formats and not from the rules under test, and put into real texts."""

from __future__ import annotations

import ipaddress
import string
from collections.abc import Callable

import numpy as np

NAMES = ["jane", "li.wei", "o.meier", "sofia", "ivan_petrov", "maria-jose", "k", "dr.smith", "anna1990", "t.nguyen+news"]
HOSTS = ["gmail.com", "example.org", "mail.example.co.uk", "uni-bremen.de", "yandex.ru", "163.com", "orange.fr", "x.io", "city.gov.au", "web-shop.example.net"]
# d: any digit, n: 2 to 9, p: 1 to 9; everything else stands for itself. Formats of national numbering plans and of their usual spelling.
PHONES = [
    "(nd1) ndd-dddd", "nd1-ndd-dddd", "nd1.ndd.dddd", "+1 nd1 ndd dddd", "+1-nd1-ndd-dddd", "+1 (nd1) ndd-dddd", "1-800-ndd-dddd", "nd1 ndd dddd",  # NANP
    "020 pddd dddd", "07pdd dddddd", "+44 20 pddd dddd", "+44 (0)20 pddd dddd", "+44 7pdd dddddd", "01ndd pddddd",  # United Kingdom
    "030/pddddd", "030 pddddddd", "+49 30 pddddd", "0171 pdddddd", "(030) pddddd", "+49 171 pdddddd", "0049 30 pddddd",  # Germany
    "06 dd dd dd dd", "+33 6 dd dd dd dd", "01.dd.dd.dd.dd", "01-dd-dd-dd-dd", "+33 1 dd dd dd dd",  # France
    "+34 6dd ddd ddd", "+39 06 pddd dddd", "+351 9dd ddd ddd", "044 ndd dd dd", "+41 44 ndd dd dd", "020-ndddddd", "+31 20 ndd dddd",  # Europe
    "+86 21 pddd dddd", "021-pddddddd", "+86 13d dddd dddd", "03-pddd-dddd", "090-pddd-dddd", "+81 3-pddd-dddd", "02-pdd-dddd",  # East Asia
    "+91 9dddd ddddd", "(11) 9dddd-dddd", "+55 11 9dddd-dddd", "+7 495 ddd-dd-dd", "8 (495) ddd-dd-dd", "04dd ddd ddd", "(02) 9ddd dddd", "+61 2 9ddd dddd",
]  # fmt: skip
# Country, then its account structure: d digit, c capital or digit, A capital (ISO 13616).
IBANS = {
    "DE": "d" * 18,
    "GB": "AAAA" + "d" * 14,
    "FR": "d" * 10 + "c" * 11 + "dd",
    "ES": "d" * 20,
    "NL": "AAAA" + "d" * 10,
    "NO": "d" * 11,
    "CH": "ddddd" + "c" * 12,
}
IBANS |= {"IT": "A" + "d" * 10 + "c" * 12, "PL": "d" * 24, "MT": "AAAAddddd" + "c" * 18, "SE": "d" * 20, "SA": "dd" + "c" * 18, "BR": "d" * 23 + "Ac"}
CARDS = [
    ("4", 16),
    ("4", 13),
    ("51", 16),
    ("55", 16),
    ("2221", 16),
    ("2700", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("65", 16),
    ("36", 14),
    ("3528", 16),
    ("62", 16),
]
SPACED = {13: (4, 3, 3, 3), 14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4)}


def _filled(generator: np.random.Generator, pattern: str) -> str:
    choices = {"d": string.digits, "p": "123456789", "n": "23456789", "A": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    return "".join(str(generator.choice(list(choices[character]))) if character in choices else character for character in pattern)


def email(generator: np.random.Generator) -> str:
    return f"{generator.choice(NAMES)}@{generator.choice(HOSTS)}"


def ip(generator: np.random.Generator) -> str:
    """A global unicast address, IPv4 or IPv6 in one of its spellings."""
    if generator.random() < 0.7:
        while True:
            address = ipaddress.IPv4Address(int(generator.integers(1 << 24, 224 << 24)))
            if address.is_global:
                return str(address)
    value = (0x2A00 << 112) | int.from_bytes(generator.bytes(5), "big") << 72 | int.from_bytes(generator.bytes(int(generator.integers(2, 9))), "big") | 1
    address6 = ipaddress.IPv6Address(value)
    return str(generator.choice([address6.compressed, address6.exploded, address6.compressed.upper()]))


def phone(generator: np.random.Generator) -> str:
    return _filled(generator, str(generator.choice(PHONES)))


def iban(generator: np.random.Generator) -> str:
    """An account with right check digits (98 minus the remainder by 97), compact or in groups of four."""
    country = str(generator.choice(list(IBANS)))
    account = _filled(generator, IBANS[country])
    number = int("".join(str(int(character, 36)) for character in f"{account}{country}00"))
    text = f"{country}{98 - number % 97:02d}{account}"
    return text if generator.random() < 0.5 else " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def card(generator: np.random.Generator) -> str:
    """A card number with the right last digit (Luhn), compact or in its usual groups."""
    prefix, length = CARDS[int(generator.integers(len(CARDS)))]
    digits = prefix + _filled(generator, "d" * (length - len(prefix) - 1))
    total = sum(sum(divmod(int(digit) * (2 if place % 2 == 0 else 1), 10)) for place, digit in enumerate(reversed(digits)))
    digits += str(-total % 10)
    separator = str(generator.choice(["", " ", "-"]))
    parts, position = [], 0
    for size in SPACED[length]:
        parts.append(digits[position : position + size])
        position += size
    return separator.join(parts)


MAKERS: dict[str, Callable[[np.random.Generator], str]] = {"email": email, "ip": ip, "phone": phone, "iban": iban, "card": card}


def plant(text: str, kind: str, generator: np.random.Generator) -> tuple[str, int, str] | None:
    """(Text with one value put between two words, its first character, the value); None for a text without a blank between letters."""
    blanks = [place for place in range(1, len(text) - 1) if text[place] == " " and text[place - 1].isalpha() and text[place + 1].isalpha()]
    if not blanks:
        return None
    place = blanks[int(generator.integers(len(blanks)))] + 1
    value = MAKERS[kind](generator)
    after = str(generator.choice([" ", ", ", ". ", ") "]))
    before = "(" if after == ") " and not value.startswith("(") else ""
    return f"{text[:place]}{before}{value}{after}{text[place:]}", place + len(before), value
