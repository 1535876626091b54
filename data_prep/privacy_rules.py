"""What is an e-mail address, a public IP address, a bank account, a payment card or a telephone number, and what only looks like one."""

from __future__ import annotations

import ipaddress
import re

DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.)+([^\W\d_]{2,24})(?![\w-])")
# Letters, digits and the signs that addresses have in practice; RFC 5322 allows more, but in texts those are code.
LOCAL_BACKWARDS = re.compile(r"[\w.!#%&'+-]{1,64}")
# Text without spaces before an address is not a part of it.
UNSPACED = re.compile("^.*[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef](?=[^\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef])", re.DOTALL)
USER_OF_URL = re.compile(r"://[^/\s]*$")
SECURE_COPY = re.compile(r":[\w.~-]*/")
MESSAGE_ID = re.compile(r"\d{8,}[.-]")
# What follows a dot in names of files and units that hold an @, as in getty@tty1.service or icon@2x.png.
FILE_SUFFIXES = frozenset(
    {"service", "socket", "target", "timer", "mount", "path", "slice", "device", "png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "pdf", "html", "htm"}
    | {"php", "asp", "aspx", "jsp", "js", "css", "json", "xml", "yaml", "yml", "toml", "txt", "csv", "log", "md", "rst", "conf", "cfg", "ini", "sh", "bat"}
    | {"py", "pyc", "rb", "java", "class", "jar", "cpp", "hpp", "header", "dll", "exe", "tar", "zip"}
)
EMAIL_SPELLED = re.compile(r"[\w.+-]{1,64}\s?[\[(]\s?at\s?[\])]\s?[\w-]{1,63}(?:\s?(?:\.|[\[(]\s?dot\s?[\])])\s?[a-z]{2,24})+", re.IGNORECASE)
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
# A product, a section or an epoch directly before: base-4.10.0.0, git/1.8.3.1, v1.2.3.4, Section<no-break space>6.3.2.2, ==3.1.1.3, 1:2.10.2.3.
VERSION_BEFORE = re.compile(r"(?:[A-Za-z)][-_/]|(?<![A-Za-z])[vr]|\u00a0|[§第][ ]?|[=~]=[ ]?|@|(?<![\w.])\d:)$", re.IGNORECASE)
# Words that announce a version or section, if all of its numbers are small.
VERSION_WORD_BEFORE = re.compile(
    r"\b(?:versions?|ver|release[ds]?|rev(?:ision)?|since|section|sect|chapter|chap|appendix|figure|fig|table|clause|paragraph"
    r"|linux|kernel|build|update|firmware|as of)[.:]?[ ]?$",
    re.IGNORECASE,
)
VERSION_AFTER = re.compile(r"[-~+]\w|[^\W\d_]|[ ]?[절장節章节]|\.ip6\.", re.IGNORECASE)
# A section's title in quotation marks, as in 6.1.2.3, “Proposed Updates”.
TITLE_AFTER = re.compile(r",?[ \u00a0](?:[–—-][ \u00a0])?[“”„«‚「『]")
HEADING_AFTER = re.compile(r"\.(?![\w])|[ \t\u00a0]+[^\W\d_]")
CARD = re.compile(
    r"(?<![\w.,-])(?<!\d{4}[ -]\d{4}[ -])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}|\d{4}([ -])\d{3}\3\d{3}\3\d{3}"
    r"|\d{4}([ -])\d{4}\4\d{4}\4\d{4}\4\d{1,3})(?![\w]|[.,-]\d|[ -]\d{4})"
)
PHONE = re.compile(
    r"""(?<![\w.,:/+-])(?:
      \+\d{1,3}[ .\u00a0/-]?(?:\(0?\d{1,4}\)[ .\u00a0-]?)?\d(?:[ .\u00a0/-]?\d){5,12}    # +49 30 901820
    | 00[1-9]\d{0,2}[ .\u00a0-]\(?0?\d{1,4}\)?(?:[ .\u00a0/-]?\d){5,10}                 # 0049 30 901820
    | \(\d{3}\)[ \u00a0-]?\d{3}[ .\u00a0-]\d{4}                                        # (212) 555-0187
    | \(\d{2}\)[ \u00a0]?\d{4,5}-\d{4}                                                 # (11) 91234-5678
    | \(0\d{1,5}\)[ \u00a0/-]?\d{3,8}(?:[ .\u00a0-]?\d{2,5}){0,2}                      # (030) 901820
    | 8[ \u00a0-]\(?\d{3}\)?[ \u00a0-]\d{3}-\d\d-\d\d                                 # 8 (495) 123-45-67
    | (?:1[.-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}                                      # 212-555-0187
    | (?:1\ )?[2-9]\d{2}\ [2-9]\d{2}[ -]\d{4}                                         # 212 555 0187
    | 0[1-9]\d{0,3}[ ]?[/-][ ]?\d{3}(?:[ -]?\d){2,6}                                      # 030/901820
    | 0[1-9](?:([ .-])\d\d)(?:\2\d\d){3}                                               # 06 12 34 56 78
    | 0[1-9]\d{1,3}(?:[ .]\d{2,4}){2,4}                                                   # 020 7946 0018
    | 0[1-9]\d{0,3}[ ]\d{5,8}                                                          # 07911 123456
    | 0[1-9][ ]\d{4}[ ]\d{4}                                                           # 02 9876 5432
    )(?![\w]|[.,-]\d)""",
    re.VERBOSE,
)
# After a word that announces one, a number may have any usual form.
PHONE_WORD = re.compile(
    r"(?:\b(?:tele?(?:ph?on[eo]?)?|phone|fax|telefax|mobile?|cell|handy|m[oó]vil|portable|whatsapp|hotline|contact)(?:\s(?:no|number|nr))?"
    r"|电话|手机|传真|电話|電話|携帯|전화|тел(?:ефон)?)[.:： )]{0,3}$",
    re.IGNORECASE,
)
ANNOUNCED_PHONE = re.compile(r"\+?\(?\d(?:[ .()/\u00a0-]{0,2}\d){6,14}(?![\w]|[.,]\d)")
DATE = re.compile(r"(19|20)\d\d[ .-](0?[1-9]|1[0-2])[ .-]\d\d?.*")
BOOK_NUMBER_BEFORE = re.compile(r"\b(?:ISBN|ISSN|ISMN|EAN|doi|arXiv)(?:-1[03])?[:\s]*$", re.IGNORECASE)
# Two numbers, or one with hexadecimal letters, beside a number make it part of a row.
ROW_BEFORE = re.compile(r"(?:\d[ ][\d.,]+|\b(?:0x)?(?=[a-f]*\d)\d*[a-f][\da-fx]*)[ ]$", re.IGNORECASE)
ROW_AFTER = re.compile(r"[ ](?:[\d.,]+[ ]\d|(?=[a-f]*\d)\d*[a-f][\da-f]*\b)", re.IGNORECASE)
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 7, 15
MOST_SECTIONS = 64
# Length of an IBAN by country (ISO 13616 registry), for the countries that have one.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28,
    "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18,
    "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# First digits and lengths of payment cards (ISO/IEC 7812; the schemes' published ranges).
CARD_SCHEMES = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65|62|81"), (16, 17, 18, 19)),
    (re.compile(r"3(?:0[0-59]|[689])"), (14, 16)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"220[0-4]"), (16,)),
    (re.compile(r"50[1-9]|5[6-8]|6304|67|60[1-9]"), (13, 14, 15, 16, 17, 18, 19)),
)


def email_span(text: str, at: int) -> tuple[int, int] | None:
    """The e-mail address around the @ at `at`: not a message id, not the user of a URL, not a file name with an @."""
    domain = DOMAIN.match(text, at + 1, at + 260)
    if domain is None or domain[1].lower() in FILE_SUFFIXES:
        return None
    before = text[max(0, at - 65) : at]
    local = LOCAL_BACKWARDS.match(before[::-1])
    if local is None:
        return None
    name = UNSPACED.sub("", local[0][::-1]).lstrip(".!#%&'+-")
    start = at - len(name)
    if not name or name.endswith((".", "'")) or (len(local[0]) == 64 and len(before) == 65) or MESSAGE_ID.match(name):
        return None
    if text[start - 1 : start] in ("$", "}") or USER_OF_URL.search(text, max(0, start - 80), start) or SECURE_COPY.match(text, domain.end()):
        return None
    return start, domain.end()


def is_iban(text: str) -> bool:
    """Whether an IBAN has its country's length and the right check digits (ISO 7064, modulo 97)."""
    text = text.replace(" ", "")
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def iban_span(text: str, start: int) -> tuple[int, int] | None:
    """The bank account that begins at `start`; words after it that look like a part of it are left out."""
    length = IBAN_LENGTHS.get(text[start : start + 2])
    if length is None:
        return None
    compact, stop = "", start
    while stop < len(text) and len(compact) < length and (text[stop] == " " or (text[stop].isascii() and text[stop].isalnum())):
        compact += text[stop].strip()
        stop += 1
    if len(compact) < length or (stop < len(text) and text[stop].isalnum()) or "  " in text[start:stop]:
        return None
    return (start, stop) if compact.isupper() and is_iban(compact) else None


def is_card(text: str) -> bool:
    """Whether a number has a scheme's first digits and length and the right check digit (Luhn, ISO/IEC 7812)."""
    digits = re.sub(r"\D", "", text)
    if len(set(digits)) == 1 or not any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in CARD_SCHEMES):
        return False
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def is_public_ipv4(text: str, start: int, stop: int) -> bool:
    """Whether the dotted numbers are an address of the public internet, not of a private network or documentation, a version or a section."""
    octets = text[start:stop]
    try:
        if not ipaddress.IPv4Address(octets).is_global:
            return False
    except ValueError:
        return False
    if int(octets.partition(".")[0]) >= 224:
        return False  # multicast and reserved
    small = max(map(int, octets.split("."))) < MOST_SECTIONS
    if VERSION_BEFORE.search(text, max(0, start - 4), start) or (small and VERSION_WORD_BEFORE.search(text, max(0, start - 16), start)):
        return False
    after = text[stop : stop + 6]
    if VERSION_AFTER.match(after) and not IPV4.match(text, stop + 1):
        return False
    if small and TITLE_AFTER.match(text, stop):
        return False
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return not (small and not line.strip() and HEADING_AFTER.match(after))


def is_public_ipv6(text: str) -> bool:
    """Whether this is the global unicast address of a host, not of a network (RFC 4291) and not reserved."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return address.is_global and address in GLOBAL_UNICAST and int(address) & ((1 << 64) - 1) != 0


def is_phone(text: str, start: int, stop: int) -> bool:
    """Whether a number has as many digits as telephone numbers have (ITU-T E.164), and is no date and no book number."""
    found = text[start:stop]
    digits = sum(map(str.isdigit, found))
    if not MIN_PHONE_DIGITS <= digits <= MAX_PHONE_DIGITS or DATE.fullmatch(found):
        return False
    if BOOK_NUMBER_BEFORE.search(text, max(0, start - 16), start):
        return False
    # Groups of digits between blanks are a number of their own only outside rows of numbers.
    in_row = ROW_BEFORE.search(text, max(0, start - 24), start) or ROW_AFTER.match(text, stop)
    return not (in_row and re.fullmatch(r"[\d ]+", found))
