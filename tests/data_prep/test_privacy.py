from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.privacy_planting import MAKERS, plant
from data_prep.plan import PrivacyNode
from data_prep.privacy import Privacy, find
from data_prep.privacy_rules import is_card, is_iban
from tests.data_prep.builders import PROSE

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
    "6.2.5.1. Vcs-Browser\n6.2.5.2 The next section",
    "since base-4.10.0.0, v1.2.3.4, version 3.3.16.0, novas==3.1.1.3 and git/1.8.3.1",
    "see Kısım 6.1.2.3, “Proposed” and 6.3.9.2 – „Používání“",
    "see Section\u00a06.1.2.3 and §4.3.2.1",
    "ff02::1 ip6-allnodes, fe80::1, 02:34:56:ff:fe:ab:cd:ef, 1:2:3::4 and 2001:67c:2564:a119::",
    "getty@tty1.service, icon@2x.png and po/en@quot.header",
    "https://lists.example.org/r/20171114110500.GA21175@host.example.org/",
    "postgresql://joe:secret@db.example.com/x and git@example.com:group/repo.git",
    "13 21 34 55 89 144 233 377 610 987 1597 2584 4181",
    "-rw-r--r-- 1 root root 3526 2021-07-25 20:43 .bashrc",
    "0x6020 0000 0011 00 and <8b> 83 3c 01 00 00 89 44 24 14",
    "2 4808 25573984 220121792172 1171 62083 3037380 9666800914 0 9998",
    "at 20170827133700 UTC",
]


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in PLANTED.items() for value in values])
def test_planted_personal_data_is_replaced(word: str, value: str) -> None:
    for before, after in (("Write to ", " today."), ("(", ")"), ("", ""), ("contact: ", ", please"), ("was ", ".")):
        assert Privacy(PrivacyNode()).scrub(f"{before}{value}{after}") == f"{before}{word}{after}"


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert Privacy(PrivacyNode()).scrub(text) == text


@pytest.mark.parametrize("kind", MAKERS)
def test_values_made_by_seed_are_found_as_a_whole(kind: str) -> None:
    generator = np.random.default_rng(7)
    for number in range(120):
        planted = plant(f"Ärger in Łódź und 東京 sagt {PROSE}", kind, generator)
        assert planted is not None
        text, place, value = planted
        assert (place, place + len(value), kind) in find(text), (number, value)


def test_announced_numbers_may_have_any_form() -> None:
    scrub = Privacy(PrivacyNode()).scrub
    assert scrub("监督电话：13611778776 传真：021-54098577") == "监督电话：<PHONE> 传真：<PHONE>"
    assert scrub("Phone: 5551234567, order 5551234567") == "Phone: <PHONE>, order 5551234567"
    assert scrub("邮箱xyz@example.cn。") == "邮箱<EMAIL>。"


@given(st.text(st.sampled_from("0123456789 .:-+()/@[]atATdeDE\u00a0é東\n"), max_size=120))
def test_any_text_is_scrubbed_once_and_for_all(text: str) -> None:
    scrub = Privacy(PrivacyNode()).scrub
    spans = find(text)
    assert all(0 <= start < stop <= len(text) for start, stop, _ in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert scrub(text).count("<") == len(spans)


def test_kinds_can_be_left_alone_and_words_chosen() -> None:
    stage = Privacy(PrivacyNode(email="hidden", ip=None))
    assert stage.scrub("a@example.com from 8.8.8.8") == "hidden from 8.8.8.8"


def test_check_digits() -> None:
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
    assert not is_iban("XX89370400440532013000")
    assert is_card("4111111111111111")
    assert not is_card("4111111111111112")
