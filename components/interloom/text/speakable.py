"""Text as it is said, in English: numbers and abbreviations in words. What is written stays.

Scripts other than Latin keep their words; only what is written in digits is said in English, as the
voices of the training set may not know another way.
"""

import re
import unicodedata

from interloom.text.numbers import cardinal, digit_by_digit, ordinal, year

_INTEGER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_TITLES = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miz",
    "dr": "doctor",
    "prof": "professor",
    "capt": "captain",
    "gen": "general",
    "rev": "reverend",
    "st": "saint",
}
_SHORT = {
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "et cetera",
    "vs.": "versus",
    "approx.": "approximately",
    "jr.": "junior",
    "sr.": "senior",
    "st.": "street",
    "ave.": "avenue",
}
_COINS = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_PLURALS = {"penny": "pence"}
_TITLE = re.compile(rf"\b(?i:({'|'.join(_TITLES)}))\b\.?(?=\s+[^\W\d_a-z])")
_ABBREVIATION = re.compile(
    rf"(?<![\w.])({'|'.join(re.escape(one) for one in _SHORT)})(?!\w)", re.IGNORECASE
)
_NUMERO = re.compile(r"\bno\.\s*(?=\d)", re.IGNORECASE)
_MONEY = re.compile(
    rf"([$£€])({_INTEGER})(?:\.(\d\d?)(?!\d))?(\s+(?:thousand|million|billion|trillion)\b)?"
)
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])")
_ORDINAL = re.compile(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
_YEAR = re.compile(
    r"\b(in|since|until|during|year|of)(\s+)(\d{4})(?=[.,;:!?)]|\s*$)", re.IGNORECASE
)
_DECIMAL = re.compile(r"(\d)\.(\d+)")
_NUMBER = re.compile(_INTEGER)
_SIGNS = re.compile(r"(?<=\w)%|(?<=\s)&(?=\s)")
_SIGN_NAMES = {"%": " percent", "&": "and"}
_HAS_WORK = re.compile(r"[\d&.$£€%]|\b(?:mr|mrs|ms|dr|st|prof|capt|gen|rev)\b", re.IGNORECASE)
_PROSE_CATEGORIES = frozenset({"Pd", "Ps", "Pe", "Pi", "Pf"})  # dashes, brackets, quotes
_PROSE_MARKS = frozenset(".,;:!?'\"…、。¿¡")


def speakable(text: str) -> str:
    """``text`` in compatibility form, as it is read out, with single spaces."""
    plain = unicodedata.normalize("NFKC", text)
    if _HAS_WORK.search(plain):
        plain = _spell(_expand(plain))
    return " ".join(plain.split())


def _expand(text: str) -> str:
    """Abbreviations in full."""
    text = _TITLE.sub(lambda found: _TITLES[found[1].lower()], text)
    text = _ABBREVIATION.sub(lambda found: _SHORT[found[1].lower()], text)
    return _NUMERO.sub("number ", text)


def _spell(text: str) -> str:
    """Numbers, and signs beside them, in words; what is most particular first."""
    text = _MONEY.sub(_money, text)
    text = _CLOCK.sub(_clock, text)
    text = _ORDINAL.sub(lambda found: ordinal(found[1].replace(",", "")), text)
    text = _YEAR.sub(lambda found: f"{found[1]}{found[2]}{year(found[3])}", text)
    text = _DECIMAL.sub(lambda found: f"{found[1]} point {digit_by_digit(found[2])}", text)
    text = _NUMBER.sub(lambda found: cardinal(found[0].replace(",", "")), text)
    return _SIGNS.sub(lambda found: _SIGN_NAMES[found[0]], text)


def _money(found: re.Match[str]) -> str:
    """``$3.50`` is three dollars fifty cents, ``$3 million`` is three million dollars."""
    sign, whole, part, scale = found.groups()
    coin, small = _COINS[sign]
    number = whole.replace(",", "")
    said = f"{cardinal(number)}{scale or ''} {_counted(coin, number, scale)}"
    if part:
        said += f" {cardinal(str(int(part.ljust(2, '0'))))} {_counted(small, part, None)}"
    return said


def _counted(coin: str, number: str, scale: str | None) -> str:
    """One of it, or several."""
    if number in {"1", "01"} and not scale:
        return coin
    return _PLURALS.get(coin, f"{coin}s")


def _clock(found: re.Match[str]) -> str:
    """``7:05`` is seven oh five, ``7:00`` seven o'clock."""
    hour, minutes = cardinal(str(int(found[1]))), found[2]
    if minutes == "00":
        return f"{hour} o'clock"
    if minutes[0] == "0":
        return f"{hour} oh {cardinal(minutes[1])}"
    return f"{hour} {cardinal(minutes)}"


def symbol_share(text: str) -> float:
    """Share of the visible characters that are neither letters, digits nor prose punctuation."""
    visible = [character for character in text if not character.isspace()]
    strange = [character for character in visible if not _is_prose(character)]
    return len(strange) / len(visible) if visible else 1.0


def _is_prose(character: str) -> bool:
    """Whether prose may hold this character; full-width forms count as their plain ones."""
    plain = unicodedata.normalize("NFKC", character)
    category = unicodedata.category(plain[0])
    return category[0] in "LMN" or category in _PROSE_CATEGORIES or plain[0] in _PROSE_MARKS


def has_letter(text: str) -> bool:
    """Whether there is anything to say."""
    return any(character.isalnum() for character in text)
