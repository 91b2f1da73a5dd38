"""Stage: dialogues in text become dialogues in text and speech codes."""

from collections.abc import Mapping
from typing import Literal

from interloom.config.dialogue import DialogueConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


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
