"""In which script a text is written."""

import unicodedata
from collections import Counter


def main_script(text: str) -> str:
    """The script of most letters of a text, such as ``latin`` or ``cyrillic``; "" without letters.

    It is the first word of their Unicode names. Of two with as many letters, the first to occur.
    """
    letters = (one for one in unicodedata.normalize("NFKC", text) if one.isalpha())
    scripts = Counter(unicodedata.name(one, "").partition(" ")[0].lower() for one in letters)
    return max(scripts, key=scripts.__getitem__, default="")
