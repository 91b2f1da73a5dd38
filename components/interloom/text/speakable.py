"""Text as it is said: plain spaces, digits spelled out. What is written stays as it is."""

import re
import unicodedata

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+")
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_READ_OUT_FROM = 10**12
_PROSE_CATEGORIES = frozenset({"Pd", "Ps", "Pe", "Pi", "Pf"})  # dashes, brackets, quotes
_PROSE_MARKS = frozenset(".,;:!?'\"…、。¿¡")


def speakable(text: str) -> str:
    """``text`` in compatibility form, with numbers as English words and single spaces."""
    plain = unicodedata.normalize("NFKC", text)
    return " ".join(_NUMBER.sub(_spell, plain).split())


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


def _spell(match: re.Match[str]) -> str:
    """One run of digits in words; digit by digit if it is long or begins with zero."""
    digits = match.group().replace(",", "")
    number = int(digits)
    if number >= _READ_OUT_FROM or (digits[0] == "0" and len(digits) > 1):
        return " ".join(_ONES[int(digit)] for digit in digits)
    return _cardinal(number)


def _cardinal(number: int) -> str:
    """A number under a thousand billion in words."""
    if number < 20:
        return _ONES[number]
    for scale, name in _SCALES:
        if number >= scale:
            head, rest = divmod(number, scale)
            return f"{_cardinal(head)} {name}" + (f" {_cardinal(rest)}" if rest else "")
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")
