"""Where the corpora of a run come from, and the limits of what may be read in."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from interloom.config.base import Frozen
from interloom.core.artifacts import UNRECORDED

Tag = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Script = Literal[
    "any",
    "arabic",
    "armenian",
    "bengali",
    "cjk",
    "cyrillic",
    "devanagari",
    "ethiopic",
    "georgian",
    "greek",
    "gujarati",
    "gurmukhi",
    "hangul",
    "hebrew",
    "kannada",
    "khmer",
    "lao",
    "latin",
    "malayalam",
    "myanmar",
    "sinhala",
    "tamil",
    "telugu",
    "thai",
    "tibetan",
]


class StarterWorld(Frozen):
    """Build the small closed world: its text, speech, dialogues and tasks.

    The counts of documents give about 400 thousand text tokens and those of utterances one hour.
    Each of ``num_people`` has ``num_relations`` facts, a third of them in each medium. With
    ``has_endings`` the tasks ask for one of four endings, too, of those stories whose rule has as
    many. With ``has_unseen_voices`` half of the held-out utterances are by four speakers of whom
    training hears nothing. With ``has_phrases`` some utterances put a describing word before a
    noun, always two that are nobody's answer: whoever heard ``white goat`` and ``red bear`` can
    read, and say, ``white bear``.
    """

    kind: Literal["starter"] = "starter"
    speech_seconds: PositiveInt = 3600
    num_stories: PositiveInt = 6600
    num_written_documents: PositiveInt = 2200
    num_woven_documents: PositiveInt = 2200
    num_dialogues: PositiveInt = 900
    num_story_cloze: PositiveInt = 200
    has_endings: bool = False
    has_unseen_voices: bool = False
    has_phrases: bool = False
    num_people: Annotated[int, Field(ge=6, le=24)] = 24
    num_relations: Annotated[int, Field(ge=1, le=4)] = 4


class CatalogCorpora(Frozen):
    """Use corpora that ``interloom ingest`` put into the catalog, by name.

    Attributes:
        speech: Recordings.
        text: Documents.
        dialogues: None derives them from the documents.
        heldout_speakers: Hold out all utterances of these, and no others, so that what is measured
            is how unseen voices are understood. None given holds a share of all utterances out.
        max_cloze: Tasks that are derived at most.
        max_questions: Likewise.
        max_dialogues: Likewise.
    """

    kind: Literal["catalog"] = "catalog"
    speech: str
    text: str
    dialogues: str | None = None
    heldout_speakers: tuple[str, ...] = ()
    max_cloze: PositiveInt = 500
    max_questions: PositiveInt = 500
    max_dialogues: PositiveInt = 2000


TextTokenizerRef = Annotated[str, StringConstraints(pattern=r"^text_tokenizer:[0-9a-f]{64}$")]


class IngestConfig(Frozen):
    """What a run learns from.

    Attributes:
        source: The starter world, or corpora of the catalog.
        text_vocab_size: Entries of the byte-level BPE that is trained on all text.
        text_tokenizer: Take this tokenizer, ``text_tokenizer:ID`` as ``interloom ingest base``
            gives it, rather than train one; ``text_vocab_size`` is the number of its ids.
        heldout_share: Part of utterances, documents and dialogues that no stage trains on.
        only_licences: SPDX tags; a corpus with a row under another one is refused, and so are
            weights that the recipe starts from. None given allows all.
        only_consents: A corpus is refused if somebody who is heard in it agreed to something else;
            ``unrecorded`` stands for recordings of which no consent was named. None given allows
            all.
    """

    source: Annotated[StarterWorld | CatalogCorpora, Field(discriminator="kind")] = StarterWorld()
    text_vocab_size: Annotated[int, Field(ge=257)] = 640
    text_tokenizer: TextTokenizerRef | None = None
    heldout_share: Share = 0.08
    only_licences: tuple[str, ...] = ()
    only_consents: tuple[str, ...] = ()


class SpeechLimits(Frozen):
    """Which recordings are refused.

    Attributes:
        min_seconds: Shorter ones are refused.
        max_seconds: Longer ones are refused.
        max_words_per_second: Transcripts that cannot have been read in that time are refused.
        silence_peak: Recordings that never exceed this amplitude count as silent.
        max_clipped: Recordings of which a larger share of samples is at full scale are refused.
    """

    min_seconds: PositiveFloat = 0.1
    max_seconds: PositiveFloat = 30.0
    max_words_per_second: PositiveFloat = 12.0
    silence_peak: PositiveFloat = 1e-4
    max_clipped: Annotated[float, Field(ge=0, le=1)] = 0.01


class TextLimits(Frozen):
    """How text is cut into documents, and which are refused.

    Attributes:
        min_characters: Shorter documents are refused.
        document_characters: Plain text is cut between paragraphs, or lines, into documents of about
            this size; a book has no others.
        max_characters: Longer rows of JSONL and Parquet, and longer single lines, are refused.
        max_row_bytes: Longer lines of JSONL are refused without being read.
    """

    min_characters: PositiveInt = 1
    document_characters: PositiveInt = 2_000
    max_characters: PositiveInt = 20_000
    max_row_bytes: PositiveInt = 8_000_000


class TakeIn(Frozen):
    """How a corpus of one's own is taken in.

    Attributes:
        name: Of the data set; the ``source`` of each row.
        licence: SPDX tag for rows that name none.
        consent: What the speakers of recordings that name none agreed to, in the installation's
            words, such as ``research``.
        speech: Limits of recordings.
        text: Limits of documents.
        script: In which most letters of a transcript are; recordings with another are refused.
        labelled_by: The recogniser that transcribes recordings without a transcript: ``moonshine``,
            or the folder of a Whisper.
        blocked: What was taken down, as ``source:NAME``, ``speaker:ID`` or ``licence:SPDX``; such
            rows are refused.
    """

    name: str
    licence: Tag = "LicenseRef-unknown"
    consent: Tag = UNRECORDED
    script: Script = "latin"
    labelled_by: str | None = None
    speech: SpeechLimits = SpeechLimits()
    text: TextLimits = TextLimits()
    blocked: tuple[str, ...] = ()
