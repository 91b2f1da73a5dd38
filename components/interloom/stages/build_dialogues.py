"""Stage: dialogues in text become dialogues in text and speech codes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from interloom.config.dialogue import DialogueConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.dialogue.speaking import Spoken
    from interloom.text_to_token.runtime import TextToToken


class BuildDialoguesRequest(StageRequest):
    """All that the spoken dialogues depend on."""

    dialogues: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    config: DialogueConfig = DialogueConfig()
    seed: int = 0
    version: Literal[1] = 1


class BuildDialoguesResult(StageResult):
    """The spoken dialogues, and how many were dropped for which reason."""

    spoken_dialogues: ArtifactRef
    num_dialogues: int
    dropped: Mapping[str, int]


def build_dialogues(
    request: BuildDialoguesRequest, *, store: ArtifactStore, work: Workspace
) -> BuildDialoguesResult:
    """Speak both sides of every dialogue.

    A dialogue with a turn that synthesis refuses is dropped; the reason is stored beside the rest.

    Raises:
        DataError: No dialogue was left to learn from, or the model speaks another tokenizer's
            codes.
    """
    from interloom.dialogue.speaking import Speakers, speak_dialogues
    from interloom.text.bpe import load_text_tokenizer

    config = request.config
    user, assistant = _voices(request, store)
    text = load_text_tokenizer(store, request.text_tokenizer)
    speakers = Speakers(user, assistant, lambda said: len(text.encode(said)))
    spoken = speak_dialogues(_rows(request, store), speakers, config)
    dropped: Counter[str] = Counter()
    with store.draft(ArtifactKind.SPOKEN_DIALOGUES) as draft:
        counted = _write(draft, _counting(spoken, dropped, work))
        if not counted:
            raise DataError(
                f"none of the dialogues of {request.dialogues} could be spoken: {dict(dropped)}; "
                "train text_to_token longer, or loosen dialogues.assistant.max_error_rate"
            )
        ref = draft.commit(
            parents=tuple(request.inputs().values()),
            licences=store.manifest(request.dialogues).licences,
            facts={
                "text_to_token": request.text_to_token.id,
                "tokenizer": request.tokenizer.id,
                "seed": request.seed,
                "dropped": dict(sorted(dropped.items())),
            },
        )
    return BuildDialoguesResult(
        spoken_dialogues=ref,
        num_dialogues=counted,
        dropped=dict(sorted(dropped.items())),
        metrics=(
            Metric("dialogues/spoken", float(counted)),
            Metric("dialogues/dropped", float(dropped.total())),
            *(user.ledger + assistant.ledger).metrics("synthesis"),
        ),
    )


def _rows(request: BuildDialoguesRequest, store: ArtifactStore) -> Iterator[dict[str, object]]:
    """The dialogues of both splits, each up to the limit."""
    from itertools import islice

    from interloom.corpora.tables import read_table

    for split in ("train", "heldout"):
        rows = read_table(store, request.dialogues, "dialogues", split=split)
        yield from islice(rows, request.config.max_dialogues)


def _voices(
    request: BuildDialoguesRequest, store: ArtifactStore
) -> tuple["TextToToken", "TextToToken"]:
    """The text-to-token model as users, in all its voices, and as assistant, in one."""
    from functools import partial

    from interloom.speech_tokenizer.runtime import load_speech_tokenizer
    from interloom.text_to_token.runtime import load_text_to_token, need_tokenizer

    load = partial(
        load_text_to_token,
        store,
        request.text_to_token,
        seed=request.seed,
        judge=load_speech_tokenizer(store, request.tokenizer).read,
    )
    config = request.config
    user = load(config=config.user)
    need_tokenizer(user, request.text_to_token, request.tokenizer)
    voice = config.assistant.voice or user.prompter.voices[0]
    return user, load(config=config.assistant.model_copy(update={"voice": voice}))


def _counting(
    spoken: "Iterable[Spoken]", dropped: Counter[str], work: Workspace
) -> "Iterator[Spoken]":
    """Count the reasons on the way."""
    for done, one in enumerate(spoken, start=1):
        if one.dropped:
            dropped[one.dropped] += 1
        work.progress.update(done, None, f"{dropped.total()} dropped")
        yield one


def _write(draft: ArtifactDraft, spoken: "Iterable[Spoken]") -> int:
    """Write both tables; returns how many dialogues were kept."""
    from interloom.corpora.tables import write_table
    from interloom.dialogue.tables import DROPPED, DROPPED_TABLE, SPOKEN_DIALOGUES, SPOKEN_TABLE

    dropped: list[dict[str, str]] = []

    def kept() -> Iterator[dict[str, object]]:
        for one in spoken:
            if one.dropped:
                row = one.row
                dropped.append({"id": row["id"], "split": row["split"], "reason": one.dropped})
            else:
                yield one.row

    count = write_table(draft, SPOKEN_TABLE, SPOKEN_DIALOGUES, kept())
    write_table(draft, DROPPED_TABLE, DROPPED, dropped)
    return count
