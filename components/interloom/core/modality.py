"""The two kinds of token."""

from enum import StrEnum


class Modality(StrEnum):
    """What a token stands for."""

    TEXT = "text"
    SPEECH = "speech"
