"""The form in which texts are compared. The form moves error rates by points: it has a version."""

import re
import unicodedata

from interloom.text.speakable import speakable

NORMALISER = "interloom-words-2"
"""Raise it whenever any text's normal form changes; every report names it."""

_APOSTROPHES = re.compile("['`\u2019\u02bc]")
_NOT_WORDS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Lower case words with single spaces between them.

    Numbers and abbreviations are spelled out, accents stay, apostrophes vanish within a word
    (``don't`` is ``dont``), and everything else that is neither letter nor digit separates words.
    """
    said = unicodedata.normalize("NFKC", speakable(text).casefold())
    return _NOT_WORDS.sub(" ", _APOSTROPHES.sub("", said)).strip()
