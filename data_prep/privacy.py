"""Personal data in text: addresses and numbers are replaced by fixed words. What looks like a number of this kind is checked first."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from data_prep.plan import PrivacyNode
from data_prep.records import Record

EMAIL = re.compile(r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w-])")
EMAIL_SPELLED = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}\s?[\[(]\s?at\s?[\])]\s?[\w-]{1,63}(?:\s?(?:\.|[\[(]\s?dot\s?[\])])\s?[a-z]{2,24})+", re.IGNORECASE)
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){0,6}(?:::)?(?![\w:])|(?<![\w:])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*::(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?(?![\w:])"
)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d]|[.,-]\d)")
PHONE = re.compile(
    r"""(?<![\w.,:/+-])(?:
      \+\d{1,3}[ .\u00a0-]?(?:\(0?\d{1,4}\)[ .\u00a0-]?)?\d(?:[ .\u00a0/-]?\d){5,12}       # +49 30 901820
    | (?<!\d\ )00[1-9]\d{0,2}[ .\u00a0-]\(?0?\d{1,4}\)?(?:[ .\u00a0/-]?\d){5,10}                    # 0049 30 901820
    | \(\d{3}\)[ \u00a0]?\d{3}[ .\u00a0-]\d{4}                                         # (212) 555-0187
    | (?:1[ .-])?[2-9]\d{2}[ .-][2-9]\d{2}[ .-]\d{4}                                     # 212-555-0187
    | 0\d{1,4}[ ]?[/-][ ]?\d{3}(?:[ -]?\d){2,6}                                          # 030/901820
    | (?<!\d\ )0\d{2,4}(?:[ .]\d{2,4}){2,4}                                                       # 020 7946 0018
    )(?![\w]|[.,-]\d)""",
    re.VERBOSE,
)
NUMBER = re.compile(r"\d[\d ()./:\u00a0-]{5,}|[\dA-Fa-f]{1,4}(?::[\dA-Fa-f]{1,4}){3,}")
SPELLED_AT = re.compile(r"[\[(]\s?at\s?[\])]", re.IGNORECASE)
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 7, 15
# Length of an IBAN by country (ISO 13616 registry), for the countries that have one.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28,
    "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18,
    "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip


class Privacy:
    """Replace personal data; no document is removed."""

    name = "privacy"

    def __init__(self, config: PrivacyNode) -> None:
        self.config = config

    def __call__(self, records: list[Record]) -> list[Record]:
        return [record if (text := self.scrub(record.text)) == record.text else record.with_text(text) for record in records]

    def scrub(self, text: str) -> str:
        """The text with e-mail addresses, public IP addresses, IBANs, card numbers and telephone numbers replaced."""
        config = self.config
        if config.email:
            if "@" in text:
                text = EMAIL.sub(config.email, text)
            if SPELLED_AT.search(text):
                text = EMAIL_SPELLED.sub(config.email, text)
        if config.ip and "::" in text:
            text = _replace(IPV6, text, config.ip, is_public_address)
        # The patterns for numbers are slow; they see the lines only that hold enough digits.
        lines = {text.rfind("\n", 0, match.start()) + 1 for match in NUMBER.finditer(text) if _may_matter(match[0])}
        parts, position = [], 0
        for start in sorted(lines):
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            parts += [text[position:start], self._scrub_line(text[start:end])]
            position = end
        return "".join([*parts, text[position:]]) if parts else text

    def _scrub_line(self, line: str) -> str:
        config = self.config
        if config.iban:
            line = _replace(IBAN, line, config.iban, is_iban)
        if config.card:
            line = _replace(CARD, line, config.card, is_card)
        if config.ip:
            line = _replace(IPV4, line, config.ip, is_public_address)
            if line.count(":") >= 2:
                line = _replace(IPV6, line, config.ip, is_public_address)
        return _replace(PHONE, line, config.phone, is_phone) if config.phone else line


def _may_matter(run: str) -> bool:
    return sum(map(str.isdigit, run)) >= MIN_PHONE_DIGITS or run.count(".") >= 3 or run.count(":") >= 2


def _replace(pattern: re.Pattern[str], text: str, word: str, is_real: Callable[[str], bool]) -> str:
    return pattern.sub(lambda match: word if is_real(match[0]) else match[0], text)


def is_iban(text: str) -> bool:
    """Whether an IBAN has its country's length and the right check digits (ISO 7064, modulo 97)."""
    text = text.replace(" ", "")
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Whether a number has the length, first digit and check digit of a payment card (Luhn, ISO/IEC 7812)."""
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def is_public_address(text: str) -> bool:
    """Whether an IP address is one of the public internet, not of a private network or documentation."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_phone(text: str) -> bool:
    """Whether a number has as many digits as telephone numbers have (ITU-T E.164), and is no date."""
    digits = sum(map(str.isdigit, text))
    return MIN_PHONE_DIGITS <= digits <= MAX_PHONE_DIGITS and not re.fullmatch(r"(19|20)\d\d[ .-](0?[1-9]|1[0-2])[ .-]\d\d?.*", text)
