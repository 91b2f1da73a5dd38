"""Numbers in English words, by Unicode's rules for spelling them out (``unicode_rbnf``)."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unicode_rbnf import RbnfEngine

_READ_OUT_FROM = 10**12
_YEARS = range(1100, 2100)


def cardinal(digits: str) -> str:
    """A run of digits in words; digit by digit if it is long or begins with zero."""
    number = int(digits)
    if number >= _READ_OUT_FROM or (digits[0] == "0" and len(digits) > 1):
        return digit_by_digit(digits)
    return _spelled(number, "spellout-cardinal")


def ordinal(digits: str) -> str:
    """A place in a row in words; a long one without its ending."""
    number = int(digits)
    return _spelled(number, "spellout-ordinal") if number < _READ_OUT_FROM else cardinal(digits)


def year(digits: str) -> str:
    """A year in words, where four digits can be one; otherwise a number."""
    number = int(digits)
    if number not in _YEARS or len(digits) != 4:
        return cardinal(digits)
    if number % 100 in range(1, 10) and number // 100 != 20:
        return f"{_spelled(number // 100, 'spellout-cardinal')} oh {digit_by_digit(digits[3])}"
    return _spelled(number, "spellout-numbering-year")


def digit_by_digit(digits: str) -> str:
    """Each digit as a word."""
    return " ".join(_spelled(int(digit), "spellout-cardinal") for digit in digits)


def _spelled(number: int, rules: str) -> str:
    """By one set of rules; hyphens become spaces, as words are counted."""
    found: str = _engine().format_number(number, ruleset_names=[rules]).text
    return found.replace("-", " ").replace("\u2212", " ")


@cache
def _engine() -> "RbnfEngine":
    """The rules of English, read once."""
    from unicode_rbnf import RbnfEngine

    return RbnfEngine.for_language("en")
