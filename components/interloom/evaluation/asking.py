"""What held-out tasks ask, and the same spoken: once, for all models that are asked it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from interloom.config.evaluation import SpokenTasksConfig
from interloom.core.artifacts import ArtifactRef
from interloom.corpora.tables import read_table, write_table
from interloom.evaluation.choice import ChosenSet, choose, drawn
from interloom.evaluation.cloze_tasks import texts_of
from interloom.evaluation.spoken import Codes, Speaker, speak_texts
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactDraft, ArtifactStore

TABLE = "takes"
TAKES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("voice", pa.string()),  # none for questions: the speaker's choice
        ("text", pa.string()),
        ("codes", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The fixed choice from each table of tasks; there are ``endings`` if the tasks have any."""

    cloze: tuple[ChosenSet, ...]
    endings: ChosenSet | None
    questions: ChosenSet
    chats: ChosenSet

    @property
    def every_cloze(self) -> tuple[ChosenSet, ...]:
        """The pairs of each group, and the four endings."""
        return self.cloze if self.endings is None else (*self.cloze, self.endings)


@dataclass(frozen=True, slots=True, eq=False)
class SpokenTasks:
    """The codes of every text that could be spoken; one that was refused is not there.

    Attributes:
        takes: Of cloze items, by each voice.
        questions: Of questions.
    """

    takes: tuple[Mapping[str, Codes], ...]
    questions: Mapping[str, Codes]


def read_asked(
    store: ArtifactStore, tasks: ArtifactRef, config: SpokenTasksConfig, *, seed: int
) -> Asked:
    """Read and choose. Groups of cloze items are sets of their own."""
    cloze = list(read_table(store, tasks, "cloze"))
    questions = list(read_table(store, tasks, "questions"))
    endings = list(read_table(store, tasks, "endings"))
    limit = config.max_cloze_per_group
    groups = {
        group: [row for row in cloze if row["group"] == group]
        for group in sorted({row["group"] for row in cloze})
    }
    return Asked(
        cloze=tuple(
            choose(f"cloze/{group}", rows, limit, seed=seed) for group, rows in groups.items()
        ),
        endings=choose("endings", endings, limit, seed=seed) if endings else None,
        questions=choose("questions", questions, config.max_questions, seed=seed),
        chats=choose("chats", questions, config.max_chats, seed=seed),
    )


def chosen_voices(voices: Sequence[str], config: SpokenTasksConfig, *, seed: int) -> list[str]:
    """Those of a speaker's voices that speak cloze items."""
    return drawn(voices, config.cloze_voices, name="voices", seed=seed)


def speak_asked(
    asked: Asked, speaker: Speaker, voices: Sequence[str], *, progress: Progress
) -> Iterator[Mapping[str, object]]:
    """Rows of ``TAKES``: cloze items by every voice, then questions; refused texts have none.

    A text's codes depend on text and voice alone, so that equal contexts sound equal in every task.
    """
    told = [text for group in asked.every_cloze for text in texts_of(group.items)]
    questions = [row["question"] for one in (asked.questions, asked.chats) for row in one.items]
    parts = [*((voice, told) for voice in voices), (None, questions)]
    for done, (voice, texts) in enumerate(parts, start=1):
        for text, codes in speak_texts(texts, speaker, voice=voice).items():
            name = f"question/{text}" if voice is None else f"{voice}/{text}"
            yield {"id": name, "split": "heldout", "voice": voice, "text": text, "codes": codes}
        progress.update(done, len(parts), "questions" if voice is None else f"cloze by {voice}")


def write_takes(draft: ArtifactDraft, rows: Iterator[Mapping[str, object]]) -> int:
    """Write the rows; returns how many."""
    return write_table(draft, TABLE, TAKES, rows)


def load_takes(store: ArtifactStore, ref: ArtifactRef) -> SpokenTasks:
    """What was spoken, by voice."""
    said: dict[str | None, dict[str, Codes]] = {
        voice: {} for voice in (*store.manifest(ref).facts["voices"], None)
    }
    for row in read_table(store, ref, TABLE, split="heldout"):
        said[row["voice"]][row["text"]] = np.array(row["codes"], np.int32)
    questions = said.pop(None)
    return SpokenTasks(tuple(said.values()), questions)
