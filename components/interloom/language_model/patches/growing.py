"""Rows of the patched model that grow token by token, with caches in all three modules.

The local models run for each token, the global one when a patch is complete: when its last token
is read, or, for the short patch at the end of a run of speech, when the token after it is read.

Legend: B rows, S tokens that fit, Q patches that fit, K sub-queries, L local width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interloom.config.language_model import LanguageModelConfig
from interloom.language_model.attention import KeyValueCache
from interloom.language_model.growing import PaddedRows
from interloom.language_model.model import rotary_turn
from interloom.language_model.patches.cutting import Patches
from interloom.language_model.patches.model import (
    PatchedTransformer,
    own_mask,
    patch_mask,
    pooled,
    seen_mask,
    window_mask,
)

_NOWHERE = 2**31  # the patch of a token that is not there yet


class PatchedRows:
    """Rows of the latent speech-text transformer."""

    def __init__(self, model: PatchedTransformer, prompts: PaddedRows, *, new_tokens: int) -> None:
        rows, length = prompts.ids_BT.shape
        self._model = model
        self._prompts = prompts
        self._places_B = prompts.lengths_B  # where the next token goes
        self._capacity = length + new_tokens
        encoder, decoder = model.encoder, model.decoder
        self._encoder_caches = self._caches(rows, encoder.local, len(encoder.blocks))
        self._decoder_caches = self._caches(rows, decoder.local, len(decoder.blocks))
        self._global_caches = self._caches(rows, model.config, len(model.blocks))
        self._token_cache = self._cross_cache(rows, 1)
        self._patch_caches = [
            self._cross_cache(rows, model.patching.sub_queries) for _ in decoder.blocks
        ]
        self._number_BS = torch.full((rows, self._capacity), _NOWHERE)
        self._count_B = torch.zeros(rows, dtype=torch.int64)  # tokens of the last patch
        self._pool_BL = torch.zeros(rows, model.patching.local_size)
        self._is_open_B = torch.zeros(rows, dtype=torch.bool)

    def _caches(self, rows: int, shape: LanguageModelConfig, count: int) -> list[KeyValueCache]:
        size = (rows, shape.num_kv_heads, self._capacity, shape.head_size)
        return [KeyValueCache(size) for _ in range(count)]

    def _cross_cache(self, rows: int, entries: int) -> KeyValueCache:
        local = self._model.encoder.local
        return KeyValueCache((rows, local.num_heads, self._capacity * entries, local.head_size))

    def read(self) -> Tensor:
        """Read the prompts; logits (B, V) after each."""
        model, batch = self._model, self._prompts
        ids, positions, segments = batch.ids_BT, batch.positions_BT, batch.segments_BT
        patches = model.cut(ids, segments)
        self._place(ids, patches)
        window = self._roomy(window_mask(segments, model.patching.token_window))
        turn = rotary_turn(positions, model.encoder.local, torch.float32)
        states = model.encoder.embedding(ids)
        for block, cache in zip(model.encoder.blocks, self._encoder_caches, strict=True):
            states = block(states, turn, window, _at(cache, positions))
        key, value = model.encoder.cross.states(states)
        _at(self._token_cache, positions).extend(key, value)
        pools = pooled(states, patches)
        queries = model.encoder.cross.mixed(
            model.encoder.queries(pools), key, value, own_mask(patches, segments, model.patching)
        )
        self._globalise(model.encoder.widened(queries), patches)
        self._pool_BL = pools[torch.arange(len(ids)), self._last_numbers()]
        shown = seen_mask(patches, segments, model.patching)
        seen = self._roomy(shown, model.patching.sub_queries)
        states = self._decode(states, turn, window, seen, positions)
        return states[torch.arange(len(ids)), batch.lengths_B - 1] @ model.output_weight.T

    def step(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row; logits (B, V) after it."""
        model, places_B1 = self._model, self._places_B[:, None]
        config = model.patching
        turn = rotary_turn(places_B1, model.encoder.local, torch.float32)
        behind_BS = places_B1 - torch.arange(self._capacity)
        window = ((behind_BS >= 0) & (behind_BS < config.token_window))[:, None, None]
        states = model.encoder.embedding(ids_B[:, None])
        for block, cache in zip(model.encoder.blocks, self._encoder_caches, strict=True):
            states = block(states, turn, window, _at(cache, places_B1))
        _at(self._token_cache, places_B1).extend(*model.encoder.cross.states(states))
        self._extend_patches(ids_B >= model.speech_offset, states[:, 0])
        num_seen_B1 = (self._last_numbers() + ~self._is_open_B)[:, None]
        behind_BQ = num_seen_B1 - torch.arange(self._capacity)
        seen_BQ = (behind_BQ > 0) & (behind_BQ <= config.patch_window)
        seen = seen_BQ.repeat_interleave(config.sub_queries, dim=1)[:, None, None]
        states = self._decode(states, turn, window, seen, places_B1)
        return states[:, 0] @ model.output_weight.T

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        for name in ("_places_B", "_number_BS", "_count_B", "_pool_BL", "_is_open_B"):
            setattr(self, name, getattr(self, name)[rows])
        for cache in (
            *self._encoder_caches,
            *self._decoder_caches,
            *self._global_caches,
            *self._patch_caches,
            self._token_cache,
        ):
            cache.keep(rows)

    def _place(self, ids_BT: Tensor, patches: Patches) -> None:
        """Note the patches of the prompts."""
        rows = torch.arange(len(ids_BT))
        is_token = self._prompts.segments_BT == 0
        self._number_BS[:, : ids_BT.shape[1]] = patches.number_BT.where(is_token, _NOWHERE)
        last = patches.number_BT[rows, self._places_B - 1]
        self._count_B = ((self._number_BS == last[:, None]).sum(dim=1)).long()
        self._is_open_B = ~patches.is_closed_BT[rows, self._places_B - 1]

    def _last_numbers(self) -> Tensor:
        """The patch of each row's last token, (B,)."""
        return self._number_BS[torch.arange(len(self._places_B)), self._places_B - 1]

    def _globalise(self, x_BPD: Tensor, patches: Patches) -> None:
        """The global model over the patches of the prompts."""
        turn = rotary_turn(patches.positions_BP, self._model.config, torch.float32)
        places = torch.arange(patches.num_patches).expand(len(x_BPD), -1)
        mask = self._roomy(patch_mask(patches))
        for block, cache in zip(self._model.blocks, self._global_caches, strict=True):
            x_BPD = block(x_BPD, turn, mask, _at(cache, places))
        self._show(x_BPD, places, None)

    def _extend_patches(self, is_speech_B: Tensor, states_BL: Tensor) -> None:
        """Put each row's new token into a patch, and finish what is complete."""
        rows, size = torch.arange(len(is_speech_B)), self._model.patching.size
        last_B = self._last_numbers()
        goes_on_B = is_speech_B & self._is_open_B
        self._finish(rows[self._is_open_B & ~goes_on_B], last_B)
        number_B = last_B + ~goes_on_B
        self._number_BS[rows, self._places_B] = number_B
        self._places_B = self._places_B + 1
        self._count_B = torch.where(goes_on_B, self._count_B + 1, 1)
        grown = torch.maximum(self._pool_BL, states_BL)
        self._pool_BL = torch.where(goes_on_B[:, None], grown, states_BL)
        self._is_open_B = is_speech_B & (self._count_B < size)
        self._finish(rows[~self._is_open_B], number_B)

    def _finish(self, rows_R: Tensor, number_B: Tensor) -> None:
        """The global model over one patch of some rows, from the tokens that it has."""
        if not len(rows_R):
            return
        model, config = self._model, self._model.patching
        number_R1 = number_B[rows_R, None]
        behind_RS = number_R1 - self._number_BS[rows_R]
        mask = ((behind_RS >= 0) & (behind_RS < config.patch_window))[:, None, None]
        queries = model.encoder.queries(self._pool_BL[rows_R, None])
        key, value = self._token_cache.keys[rows_R], self._token_cache.values[rows_R]
        x_R1D = model.encoder.widened(model.encoder.cross.mixed(queries, key, value, mask))
        turn = rotary_turn(number_R1, model.config, torch.float32)
        seen = (torch.arange(self._capacity) <= number_R1)[:, None, None]
        for block, cache in zip(model.blocks, self._global_caches, strict=True):
            x_R1D = block(x_R1D, turn, seen, _at(cache, number_R1, rows_R))
        self._show(x_R1D, number_R1, rows_R)

    def _show(self, x_RPD: Tensor, numbers_RP: Tensor, rows_R: Tensor | None) -> None:
        """Give global outputs to the decoder's cross-attentions."""
        decoder, count = self._model.decoder, self._model.patching.sub_queries
        entries = numbers_RP[:, :, None] * count + torch.arange(count)
        narrow = decoder.narrowed(x_RPD)
        for (cross, _), cache in zip(decoder.layers, self._patch_caches, strict=True):
            _at(cache, entries.flatten(1), rows_R).extend(*cross.states(narrow))

    def _decode(
        self, states: Tensor, turn: tuple[Tensor, Tensor], window: Tensor, seen: Tensor, at: Tensor
    ) -> Tensor:
        """The local decoder; patches are read from its caches."""
        decoder = self._model.decoder
        for (cross, block), patch_cache, cache in zip(
            decoder.layers, self._patch_caches, self._decoder_caches, strict=True
        ):
            states = cross.mixed(states, patch_cache.keys, patch_cache.values, seen)
            states = block(states, turn, window, _at(cache, at))
        out: Tensor = decoder.norm(states)
        return out

    def _roomy(self, mask: Tensor, entries: int = 1) -> Tensor:
        """A mask over what is there as one over all that fits."""
        return functional.pad(mask, (0, self._capacity * entries - mask.shape[-1]))


def _at(cache: KeyValueCache, places: Tensor, rows: Tensor | None = None) -> KeyValueCache:
    """The cache, set to write there."""
    cache.places_BT, cache.rows_B = places, rows
    return cache
