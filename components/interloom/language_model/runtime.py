"""A trained language model at work: scores and continues sequences of joint ids.

Legend: B rows, T tokens, V vocabulary.
"""

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.language_model.building import AnyTransformer, build_model, growing_rows, patches_of
from interloom.language_model.growing import PaddedRows
from interloom.language_model.sampling import Sampling, choose
from interloom.ports.store import ArtifactStore
from interloom.vocabulary.layout import Ids, VocabularyLayout

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_ROWS = 32  # of a batch, and at most so many tokens with padding
_TOKENS = 16_384

Allowed = Callable[[Ids], NDArray[np.bool_]]
"""From what a row has generated so far to a mask (V,) of what may follow."""


def load_language_model(store: ArtifactStore, ref: ArtifactRef) -> "LanguageModel":
    """The model of a LANGUAGE_MODEL or CHAT_MODEL artifact.

    Raises:
        DataError: The weights do not fit their config.
    """
    manifest = store.manifest(ref)
    body = json.loads(store.local_path(manifest.shard(CONFIG)).read_text())
    layout = VocabularyLayout.from_dict(body["layout"])
    shape = LanguageModelConfig.model_validate(body["model"])
    patches = PatchConfig.model_validate(body["patches"]).settled
    with torch.device("meta"):
        model = build_model(shape, patches, layout)
    weights = load_file(store.local_path(manifest.shard(WEIGHTS)))
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"the weights of {ref} do not fit its config: {error}") from error
    return LanguageModel(model, layout)


class LanguageModel:
    """Scores and continues rows of joint ids, on the CPU in fp32."""

    def __init__(self, model: AnyTransformer, layout: VocabularyLayout) -> None:
        self.model = model.eval()
        self.layout = layout
        self.max_length = model.config.max_length
        self.patches = patches_of(model)

    def log_likelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """For each row of T ids, T - 1 log-probabilities: those of its ids 1 to T - 1.

        Raises:
            ConfigError: A row is longer than the model.
        """
        self._require_room(rows, 0)
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
        for held in _by_length(rows):
            batch = PaddedRows.of([rows[index] for index in held], self.layout)
            with torch.inference_mode():
                _, losses_N = self.model(
                    batch.ids_BT, batch.positions_BT, batch.segments_BT, batch.targets_BT
                )
            ends = np.cumsum([max(0, len(rows[index]) - 1) for index in held])
            for index, part in zip(held, np.split(-losses_N.numpy(), ends[:-1]), strict=True):
                scores[index] = part
        return scores

    def generate(
        self, prompts: Sequence[Ids], sampling: Sampling, *, allowed: Allowed | None = None
    ) -> list[Ids]:
        """Continue each prompt; a stop id, if reached, is the last of the continuation.

        Args:
            prompts: At least one id each.
            sampling: How tokens are chosen.
            allowed: Called for each row and step; at least one token must be allowed.

        Raises:
            ConfigError: A prompt is empty, or too long for the model.
        """
        self._require_room(prompts, sampling.max_new_tokens)
        continuations: list[Ids] = [np.zeros(0, np.int32)] * len(prompts)
        for held in _by_length(prompts):
            rows = [prompts[index] for index in held]
            made = _Generation(self.model, self.layout, rows, held).run(sampling, allowed)
            for index, one in zip(held, made, strict=True):
                continuations[index] = one
        return continuations

    def _require_room(self, rows: Sequence[Ids], new_tokens: int) -> None:
        for index, row in enumerate(rows):
            if not 1 <= len(row) <= self.max_length - new_tokens:
                raise ConfigError(
                    f"row {index} has {len(row)} tokens; with {new_tokens} new ones the model "
                    f"takes 1 to {self.max_length - new_tokens}"
                )


def _by_length(rows: Sequence[Ids]) -> Iterator[list[int]]:
    """Indices of rows of similar length, so many at a time that a batch stays small."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    held: list[int] = []
    for index in order:
        if held and (len(held) == _ROWS or (len(held) + 1) * len(rows[index]) > _TOKENS):
            yield held
            held = []
        held.append(index)
    if held:
        yield held


class _Generation:
    """Prompts that grow side by side; rows that are done leave the batch."""

    def __init__(
        self,
        model: AnyTransformer,
        layout: VocabularyLayout,
        prompts: Sequence[Ids],
        numbers: Sequence[int],
    ) -> None:
        self._model = model
        self._prompts = PaddedRows.of(prompts, layout)
        self._numbers = list(numbers)
        self._made: list[list[int]] = [[] for _ in prompts]

    @torch.inference_mode()
    def run(self, sampling: Sampling, allowed: Allowed | None) -> list[Ids]:
        """Generate until all rows have stopped."""
        rows = growing_rows(self._model, self._prompts, new_tokens=sampling.max_new_tokens)
        logits_BV = rows.read()
        live = list(range(len(self._made)))
        for step in range(sampling.max_new_tokens):
            for place, row in enumerate(live):
                self._append(row, logits_BV[place].numpy(), sampling, allowed)
            going = [
                p for p, row in enumerate(live) if self._made[row][-1] not in sampling.stop_ids
            ]
            if not going or step + 1 == sampling.max_new_tokens:
                break
            if len(going) < len(live):
                live = [live[place] for place in going]
                rows.keep(going)
            logits_BV = rows.step(torch.tensor([self._made[row][-1] for row in live]))
        return [np.array(ids, np.int32) for ids in self._made]

    def _append(
        self,
        row: int,
        logits_V: NDArray[np.float32],
        sampling: Sampling,
        allowed: Allowed | None,
    ) -> None:
        made = self._made[row]
        if allowed is not None:
            mask_V = allowed(np.array(made, np.int32))
            logits_V = np.where(mask_V, logits_V, -np.inf).astype(np.float32)
        made.append(choose(logits_V, sampling, self._numbers[row], len(made)))
