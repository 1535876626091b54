"""What the tags of HTML are: ids by name, and their properties."""

from __future__ import annotations

import numpy as np

from data_prep.html.hashes import hash_of, table_of

# Ids of tags that the code names; all others follow, and 0 is any element that HTML does not know.
(UNKNOWN, HTML, HEAD, BODY, P, LI, UL, OL, MENU, DD, DT, DL, TABLE, TBODY, THEAD, TFOOT, TR, TD, TH, CAPTION, COLGROUP, A, PRE, BR, HR, SVG, MATH) = range(27)
(ANNOTATION, SCRIPT, STYLE, TITLE, TEXTAREA, OPTION, BUTTON, H1, H2, H3, H4, H5, H6, FORM, ARTICLE, MAIN, BLOCKQUOTE, HEADER, FIGURE) = range(27, 46)
(FOREIGN_OBJECT, PLAINTEXT, ANNOTATION_XML, SPAN, DIV, SECTION, RT, RP, FRAMESET, ADDRESS, DETAILS, SUMMARY) = range(46, 58)
NAMED = (
    *("", "html", "head", "body", "p", "li", "ul", "ol", "menu", "dd", "dt", "dl", "table", "tbody", "thead", "tfoot", "tr", "td", "th", "caption"),
    *("colgroup", "a", "pre", "br", "hr", "svg", "math", "annotation", "script", "style", "title", "textarea", "option", "button"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "form", "article", "main", "blockquote", "header", "figure", "foreignobject", "plaintext", "annotation-xml"),
    *("span", "div", "section", "rt", "rp", "frameset", "address", "details", "summary"),
)
OTHERS = (
    *("aside", "center", "dialog", "dir", "fieldset", "figcaption", "footer", "hgroup", "nav", "search", "listing"),
    *("xmp", "iframe", "noembed", "noframes", "noscript", "template", "object", "applet", "marquee", "canvas", "video", "audio", "select", "optgroup"),
    *("area", "base", "basefont", "bgsound", "col", "embed", "frame", "img", "input", "keygen", "link", "meta", "param", "source", "track", "wbr"),
    *("b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u", "sub", "sup", "var", "ruby", "datalist", "legend"),
)
NAMES = (*NAMED, *OTHERS)
IDS = {name: number for number, name in enumerate(NAMES)}

# Properties of tags, as bits.
VOID = np.uint32(1)  # has no content and no end tag
RAW = np.uint32(2)  # its content is text up to its end tag
DROPPED = np.uint32(4)  # never text
ENDS_P = np.uint32(8)  # its begin ends an open paragraph
SPECIAL = np.uint32(16)  # an end tag of an inline element does not reach over it
BARRIER = np.uint32(32)  # nor does that of a block
LINE = np.uint32(64)  # stands on lines of its own
SPACED = np.uint32(128)  # with empty lines around it
NODE = np.uint32(256)  # votes, or is voted for
ASIDE = np.uint32(512)  # by its meaning no part of the main text
LINKS = np.uint32(1024)  # may be a list of links
HEADING = np.uint32(2048)
PREFORMATTED = np.uint32(4096)  # its white space counts
CLEANED_IF_NAMED = np.uint32(8192)  # goes if its class or id speaks of noise

_GROUPS: tuple[tuple[np.uint32, str], ...] = (
    (VOID, "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"),
    (RAW, "script style title textarea iframe noembed noframes"),
    (DROPPED, "head script style title noscript template iframe svg canvas object applet video audio button select textarea datalist noembed noframes rp"),
    (DROPPED, "annotation annotation-xml frameset"),
    (ENDS_P, "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr"),
    (ENDS_P, "main menu nav ol p pre listing search section summary table ul xmp plaintext li dd dt"),
    (SPECIAL, "address applet area article aside base basefont bgsound blockquote body br button caption center col colgroup dd details dir div dl dt embed"),
    (SPECIAL, "fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html iframe img input keygen li link listing"),
    (SPECIAL, "main marquee menu meta nav noembed noframes noscript object ol p param plaintext pre script search section select source style summary"),
    (SPECIAL, "table tbody td template textarea tfoot th thead title tr track ul wbr xmp svg math foreignobject"),
    (BARRIER, "applet caption html table td th marquee object template svg math foreignobject"),
    (LINE, "address article aside body caption center dd details dialog dir div dl dt fieldset figcaption figure footer form header hgroup legend li main"),
    (LINE, "menu nav ol option section summary table tbody tfoot thead tr ul search"),
    (SPACED, "p h1 h2 h3 h4 h5 h6 pre listing xmp plaintext blockquote hr table dl figure"),
    (NODE, "address article aside body blockquote caption center dd details dialog dir div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6"),
    (NODE, "header hgroup li main menu nav ol p pre listing xmp plaintext search section summary table tbody td tfoot th thead tr ul math"),
    (ASIDE, "nav footer aside form figcaption dialog menu"),
    (LINKS, "ul ol div section table p dl"),
    (CLEANED_IF_NAMED, "div section ul ol p table dl span h1 h2 h3 h4 h5 h6 header figure blockquote"),
    (HEADING, "h1 h2 h3 h4 h5 h6"),
    (PREFORMATTED, "pre listing xmp plaintext textarea"),
)


def _properties() -> np.ndarray:
    table = np.zeros(len(NAMES), np.uint32)
    for bit, names in _GROUPS:
        for name in names.split():
            table[IDS[name]] |= bit
    return table


PROPERTIES = _properties()
TAG_KEYS, TAG_VALUES = table_of({hash_of(name): number for name, number in IDS.items() if name}, size=1024)
