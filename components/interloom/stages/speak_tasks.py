"""Stage: what the held-out tasks ask, spoken once for all models that are asked it."""

from typing import Literal

from interloom.config.evaluation import SpokenTasksConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class SpeakTasksRequest(StageRequest):
    """All that the spoken tasks depend on."""

    tasks: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    config: SpokenTasksConfig = SpokenTasksConfig()
    seed: int = 0
    version: Literal[1] = 1


class SpeakTasksResult(StageResult):
    """The codes of contexts, endings and questions."""

    spoken_tasks: ArtifactRef


def speak_tasks(
    request: SpeakTasksRequest, *, store: ArtifactStore, work: Workspace
) -> SpeakTasksResult:
    """Speak cloze items in several voices, questions in one, and read everything back.

    Raises:
        DataError: The model speaks another tokenizer's codes.
    """
    from interloom.evaluation.asking import chosen_voices, read_asked, speak_asked, write_takes
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer
    from interloom.text_to_token.runtime import load_text_to_token, need_tokenizer

    config, seed = request.config, request.seed
    speaker = load_text_to_token(
        store,
        request.text_to_token,
        config=config.task_speech,
        seed=seed,
        judge=load_speech_tokenizer(store, request.tokenizer).read,
    )
    need_tokenizer(speaker, request.text_to_token, request.tokenizer)
    asked = read_asked(store, request.tasks, config, seed=seed)
    voices = chosen_voices(speaker.voices, config, seed=seed)
    with store.draft(ArtifactKind.SPOKEN_TASKS) as draft:
        spoken = speak_asked(asked, speaker, voices, progress=work.progress)
        counted = write_takes(draft, spoken)
        ref = draft.commit(
            parents=tuple(request.inputs().values()),
            licences=store.manifest(request.tasks).licences,
            facts={
                "text_to_token": request.text_to_token.id,
                "tokenizer": request.tokenizer.id,
                "tasks": request.tasks.id,
                "asked": config.model_dump(mode="json"),
                "voices": voices,
                "seed": seed,
            },
        )
    return SpeakTasksResult(
        spoken_tasks=ref,
        metrics=(
            Metric("tasks/spoken", float(counted)),
            *speaker.ledger.metrics("synthesis"),
        ),
    )
