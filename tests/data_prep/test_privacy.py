from __future__ import annotations

import pytest

from data_prep.plan import PrivacyNode
from data_prep.privacy import Privacy, is_card, is_iban

# Numbers that were made to be shown: test cards of payment providers, the registry's sample IBANs, numbers reserved for fiction.
PLANTED = {
    "<EMAIL>": ["jane.doe@example.com", "a+b_c@mail.example.co.uk", "x@münchen.de", "o'neil@example.org", "jane [at] example [dot] com", "jane(at)example.com"],
    "<IP>": ["8.8.8.8", "151.101.1.69", "2a00:1450:4001:81b::200e", "2606:4700::6810:85e5"],
    "<IBAN>": [
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "CH93 0076 2011 6238 5295 7",
    ],
    "<CARD>": ["4111 1111 1111 1111", "5500-0055-5555-5559", "378282246310005", "6011111111111117", "4222222222222"],
    "<PHONE>": [
        "+49 30 901820",
        "+1 212 555 0187",
        "(212) 555-0187",
        "212-555-0187",
        "+44 20 7946 0018",
        "020 7946 0018",
        "+33 1 99 00 12 34",
        "030/901820",
        "0049 30 901820",
        "+1-202-555-0143",
    ],
}
HARMLESS = [
    "the years 1914-1918 and 2001-09-11",
    "hosts 10.0.0.1 and 127.0.0.1 and 192.168.1.20 and 999.1.1.1",
    "ISBN 978-3-16-148410-0",
    "pi is 3.14159265358979",
    "1234 5678 9012 3456 is no card",
    "10,000,000 people and 1 000 000 trees",
    "at 12:30:45 on 2020-01-02 03:04:05",
    "DE89 3704 0044 0532 0130 01 has wrong check digits",
    "commit 1a2b3c4d5e6f and std::vector<int>",
    "the rank @home, user@ and @name",
    "pages 123-456 of 1,234-5,678",
    "2001:db8::1 stands in documentation",
    "0.123.456 and 299792458 m/s",
]


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in PLANTED.items() for value in values])
def test_planted_personal_data_is_replaced(word: str, value: str) -> None:
    for before, after in (("Write to ", " today."), ("(", ")"), ("", ""), ("contact: ", ", please"), ("was ", ".")):
        assert Privacy(PrivacyNode()).scrub(f"{before}{value}{after}") == f"{before}{word}{after}"


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert Privacy(PrivacyNode()).scrub(text) == text


def test_kinds_can_be_left_alone_and_words_chosen() -> None:
    stage = Privacy(PrivacyNode(email="hidden", ip=None))
    assert stage.scrub("a@example.com from 8.8.8.8") == "hidden from 8.8.8.8"


def test_check_digits() -> None:
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
    assert not is_iban("XX89370400440532013000")
    assert is_card("4111111111111111")
    assert not is_card("4111111111111112")
