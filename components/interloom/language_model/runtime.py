"""A trained language model at work: scores and continues sequences of joint ids.

Legend: B rows, T tokens, V vocabulary.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from interloom.config.language_model import LanguageModelConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.language_model.attention import KeyValueCache
from interloom.language_model.model import Transformer, packed_mask
from interloom.language_model.sampling import Sampling, choose
from interloom.ports.store import ArtifactStore
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

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
    config = LanguageModelConfig.model_validate(body["model"])
    with torch.device("meta"):
        model = Transformer(config, layout.size)
    weights = load_file(store.local_path(manifest.shard(WEIGHTS)))
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"the weights of {ref} do not fit its config: {error}") from error
    return LanguageModel(model, layout)


class LanguageModel:
    """Scores and continues rows of joint ids, on the CPU in fp32."""

    def __init__(self, model: Transformer, layout: VocabularyLayout) -> None:
        self.model = model.eval()
        self.layout = layout
        self.max_length = model.config.max_length

    def log_likelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """For each row of T ids, T - 1 log-probabilities: those of its ids 1 to T - 1.

        Raises:
            ConfigError: A row is longer than the model.
        """
        self._require_room(rows, 0)
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
        for held in _by_length(rows):
            batch = _Padded.of([rows[index] for index in held], self.layout)
            with torch.inference_mode():
                _, losses_N = self.model(batch.ids, batch.positions, batch.segments, batch.targets)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """Rows of different lengths, padded on the right; padding is a segment of its own."""

    ids: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Ids], layout: VocabularyLayout) -> "_Padded":
        lengths = np.array([len(row) for row in rows])
        places = np.arange(lengths.max())
        ids = np.full((len(rows), len(places)), layout.marker(Marker.PAD), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        is_padding = places[None, :] >= lengths[:, None]
        return cls(
            torch.from_numpy(ids),
            torch.from_numpy(np.broadcast_to(places, ids.shape).copy()),
            torch.from_numpy(is_padding.astype(np.int64)),
            torch.from_numpy(~is_padding & (places > 0)),
        )


class _Generation:
    """Prompts that grow side by side; rows that are done leave the batch."""

    def __init__(
        self,
        model: Transformer,
        layout: VocabularyLayout,
        prompts: Sequence[Ids],
        numbers: Sequence[int],
    ) -> None:
        self._model = model
        self._prompts = _Padded.of(prompts, layout)
        self._lengths = torch.tensor([len(prompt) for prompt in prompts])
        self._numbers = list(numbers)
        self._made: list[list[int]] = [[] for _ in prompts]

    @torch.inference_mode()
    def run(self, sampling: Sampling, allowed: Allowed | None) -> list[Ids]:
        """Generate until all rows have stopped."""
        caches = self._caches(sampling.max_new_tokens)
        logits_BV = self._read_prompts(caches)
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
                for cache in caches:
                    cache.keep(going)
            logits_BV = self._step(live, caches)
        return [np.array(ids, np.int32) for ids in self._made]

    def _caches(self, new_tokens: int) -> list[KeyValueCache]:
        config = self._model.config
        rows, length = self._prompts.ids.shape
        shape = (rows, config.num_kv_heads, length + new_tokens, config.head_size)
        return [KeyValueCache(shape) for _ in range(config.num_layers)]

    def _read_prompts(self, caches: list[KeyValueCache]) -> Tensor:
        """Logits (B, V) after each prompt."""
        batch = self._prompts
        rows, length = batch.ids.shape
        for cache in caches:
            cache.places_BT = batch.positions
        mask = packed_mask(batch.segments)
        beyond = torch.zeros(rows, 1, length, caches[0].capacity - length, dtype=torch.bool)
        hidden = self._model.hidden(
            batch.ids, batch.positions, torch.cat([mask, beyond], dim=-1), caches
        )
        last = hidden[torch.arange(rows), self._lengths - 1]
        return last @ self._model.output_weight.T

    def _step(self, live: list[int], caches: list[KeyValueCache]) -> Tensor:
        """Logits (B, V) after one more token in each live row."""
        ids_B1 = torch.tensor([[self._made[row][-1]] for row in live])
        places_B1 = torch.tensor(
            [[int(self._lengths[row]) + len(self._made[row]) - 1] for row in live]
        )
        for cache in caches:
            cache.places_BT = places_B1
        seen = torch.arange(caches[0].capacity) <= places_B1
        hidden = self._model.hidden(ids_B1, places_B1, seen[:, None, None], caches)
        return hidden[:, 0] @ self._model.output_weight.T

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
