"""The model's arithmetic for decoding: prompts in one go, then one position a slot and step.

What a slot gets depends on what stands in it, and on nothing beside it:

- every product has a fixed shape: always all slots, prompts in rectangles of ``PREFILL_ROWS`` rows,
  and attention in pages of ``PAGE`` positions;
- the pages of a slot are added up in order, from the first on, whatever their numbers; where a slot
  has fewer than another, exact zeros are added.

Channels of queries and keys are reordered once, so that the two that rotary embedding turns
together stand side by side: turning is then one complex product. Their scalar product is the same.

Shapes: S = slots, R = rows of a prefill, L = its positions, D = width, H = query heads, N = key and
value heads, G = H / N, E = width of a head, P = pages in use, K = codes, X = positions or slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from interloom.text_to_token.model import Block, ModelShape, TextToTokenModel
from interloom.text_to_token.pages import PAGE, Pages
from interloom.text_to_token.products import Weight
from interloom.text_to_token.replaying import CudaRecorder, Recorder, Replays

PREFILL_ROWS = 8

Ints = NDArray[np.int64]
Places = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts that were read.

    Attributes:
        logits: Of the first code, (R, K + 1).
        cache: Keys and values, (layers, 2, R, N, L, E).
    """

    logits: Tensor
    cache: Tensor


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of a block, channels of queries and keys reordered."""

    attention_norm: Tensor
    query_key_value: Weight
    qk_norm: Tensor | None
    attention_out: Weight
    gate_norm: Tensor
    gate: Weight
    up: Weight
    down: Weight

    @classmethod
    def of(cls, block: Block, shape: ModelShape, num_rows: int) -> "_Layer":
        """Those of a block, for products of ``num_rows`` rows."""
        order = _pairs(shape).to(block.query_key_value.weight.device)
        bias = block.query_key_value.bias if shape.has_qkv_bias else None
        qk_norm = None
        if shape.has_qk_norm:
            counts = (shape.num_heads, shape.num_kv_heads)
            norms = (block.query_norm.weight, block.key_norm.weight)
            rows = [norm.expand(count, -1) for norm, count in zip(norms, counts, strict=True)]
            qk_norm = torch.cat(rows).flatten()[order[: sum(shape.qkv_sizes[:2])]]
        weight = partial(Weight, num_rows=num_rows)
        gate, up = torch.split(block.gate_up.weight, shape.ffn_size)
        return cls(
            attention_norm=block.attention_norm.weight,
            query_key_value=weight(
                block.query_key_value.weight[order], bias_O=None if bias is None else bias[order]
            ),
            qk_norm=None if qk_norm is None else qk_norm.view(-1, shape.head_width),
            attention_out=weight(block.attention_out.weight),
            gate_norm=block.gate_norm.weight,
            gate=weight(gate),
            up=weight(up),
            down=weight(block.down.weight),
        )


def _pairs(shape: ModelShape) -> Tensor:
    """For each of X columns, where it comes from: halves become pairs in queries and keys."""
    half = shape.head_width // 2
    head = torch.arange(shape.head_width).view(2, half).t().flatten()
    num_turned = shape.num_heads + shape.num_kv_heads
    turned = (torch.arange(num_turned)[:, None] * shape.head_width + head).flatten()
    return torch.cat([turned, torch.arange(len(turned), sum(shape.qkv_sizes))])


class _Given(NamedTuple):
    """All that a step reads, besides weights and cache. F = further pages of the longest slot.

    Attributes:
        ids_S: What is read.
        places_S: Its rotary positions.
        written: Rows of the cache that are written, keys and values of each slot, (S * 2 * N,).
        owner_P: Slot of each page.
        bias_P1C: 0 for what a slot has read and minus infinity beyond, (P * N, 1, PAGE).
        further_F2S: For each page after the first, that of every slot: for the largest score, where
            a slot that has none has its first; and for the sum, where it has P.
    """

    ids_S: Tensor
    places_S: Tensor
    written: Tensor
    owner_P: Tensor
    bias_P1C: Tensor
    further_F2S: Tensor


class Stepper:
    """All slots of one model, each with room for ``num_positions``."""

    def __init__(
        self,
        model: TextToTokenModel,
        *,
        num_slots: int,
        num_positions: int,
        recorder: Recorder | None = None,
    ) -> None:
        """On a GPU, steps are played from CUDA graphs if no other ``recorder`` is given."""
        self.shape = shape = model.shape
        self.device = model.device
        self._embedding = model.embedding.weight
        self._norm = model.norm.weight
        self._inverse_wavelengths = model.inverse_wavelengths
        with torch.no_grad():
            self._head = Weight(model.head.weight, num_rows=num_slots)
            self._layers = [_Layer.of(block, shape, num_slots) for block in model.layers]
        self._pages = Pages(num_slots=num_slots, num_positions=num_positions)
        self._num_pages = len(self._pages.owner)
        self._slots = np.arange(num_slots)
        size = (self._num_pages, shape.num_kv_heads, PAGE, shape.head_width)
        self._cache = torch.zeros(
            (shape.num_layers, 2, *size), device=self.device, dtype=self._embedding.dtype
        )
        if recorder is None and self.device.type == "cuda":
            recorder = CudaRecorder()
        self._replays = recorder and Replays(self._compute, recorder, self.device)

    @property
    def num_codes(self) -> int:
        """K, which is also the output that ends a span."""
        return self.shape.num_codes

    @torch.no_grad()
    def prefill(self, ids_RL: Ints, places_RL: Places, last_R: Ints) -> Prefilled:
        """Read prompts side by side; ``last_R`` says where each ends, padding follows."""
        rows, length = ids_RL.shape
        turn = self._turn(self._on_device(places_RL.ravel()))
        x_XD = functional.embedding(self._on_device(ids_RL.ravel()), self._embedding)
        kept = []
        for layer in self._layers:
            qkv = self._query_key_value(layer, x_XD, turn).view(rows, length, -1)
            parts = torch.split(qkv, list(self.shape.qkv_sizes), dim=-1)
            query, key, value = (
                torch.unflatten(part, -1, (-1, self.shape.head_width)).transpose(1, 2)
                for part in parts
            )
            seen = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=key.shape[1] != query.shape[1]
            )
            x_XD = self._rest(layer, x_XD, seen.transpose(1, 2).reshape(len(x_XD), -1))
            kept.append(torch.stack([key, value]))
        ends = self._on_device(np.arange(rows) * length + last_R)
        return Prefilled(self._logits(x_XD[ends]), torch.stack(kept))

    def place(self, prefilled: Prefilled, row: int, *, slot: int, length: int) -> None:
        """Put one prompt of a prefill into a slot, from position 0 on."""
        self._pages.reach(slot, length - 1)
        for rank, start in enumerate(range(0, length, PAGE)):
            stop = min(length, start + PAGE)
            page = int(self._pages.table[rank, slot])
            self._cache[:, :, page, :, : stop - start] = prefilled.cache[:, :, row, :, start:stop]

    def release(self, slot: int) -> None:
        """Nobody sits in a slot any more; it computes position 0 and is not listened to."""
        self._pages.release(slot)

    @torch.no_grad()
    def step(self, ids_S: Ints, places_S: Places, at_S: Ints) -> Tensor:
        """Logits after one more id in every slot, (S, K + 1).

        Args:
            ids_S: What is read.
            places_S: Its rotary positions.
            at_S: Its place in the cache, one after that of the step before.
        """
        given = self._given(ids_S, places_S, at_S)
        if self._replays is not None:
            return self._replays(given)
        return self._compute([one.to(self.device) for one in given])

    def _compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """A step from a ``_Given``: only tensors, so that it can be recorded."""
        given = _Given(*inputs)
        turn = self._turn(given.places_S)
        further = [one.unbind() for one in given.further_F2S.unbind()]
        x_SD = functional.embedding(given.ids_S, self._embedding)
        size = self.shape.qkv_sizes[0]
        for index, layer in enumerate(self._layers):
            qkv = self._query_key_value(layer, x_SD, turn)
            new = qkv[:, size:].reshape(-1, self.shape.head_width)
            self._cache[index].view(-1, self.shape.head_width).index_copy_(0, given.written, new)
            x_SD = self._rest(layer, x_SD, self._attend(index, qkv[:, :size], given, further))
        return self._logits(x_SD)

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        """The same numbers as a tensor."""
        return torch.from_numpy(array).to(self.device)

    def _turn(self, places_X: Tensor) -> Tensor:
        """Rotary positions as complex numbers, (X, 1, E / 2)."""
        angle = places_X[:, None, None] * self._inverse_wavelengths
        return torch.polar(torch.ones_like(angle), angle)

    def _given(self, ids_S: Ints, places_S: Places, at_S: Ints) -> _Given:
        """Pages for what is written now, and what each slot sees."""
        pages, heads = self._pages, self.shape.num_kv_heads
        rank = at_S // PAGE
        for slot in np.flatnonzero(pages.table[rank, self._slots] < 0).tolist():
            pages.reach(slot, int(at_S[slot]))
        used, further = pages.num_used, int(rank.max())
        if self._replays is not None:  # few shapes; pages that nobody has change no sum
            used = _doubled(len(at_S), used, self._num_pages)
            further = _doubled(1, further, len(pages.table) - 1) if further else 0
        owner = pages.owner[:used]
        beyond = pages.start[:used, None] + np.arange(PAGE) > at_S[owner, None]
        bias = np.where(beyond, np.float32(-np.inf), np.float32(0)).repeat(heads, axis=0)
        first = pages.table[rank, self._slots][:, None, None] * heads
        part = np.array([0, self._num_pages * heads])[:, None]
        rows = (first + part + np.arange(heads)).reshape(len(at_S), -1) * PAGE
        table = pages.table[1 : further + 1]
        reached = np.stack([np.where(table < 0, none, table) for none in (self._slots, used)], 1)
        arrays = (
            ids_S,
            places_S,
            (rows + (at_S % PAGE)[:, None]).ravel(),
            owner,
            bias[:, None],
            reached,
        )
        given = _Given(*map(torch.from_numpy, arrays))
        return given._replace(bias_P1C=given.bias_P1C.to(self._cache.dtype))

    def _query_key_value(self, layer: _Layer, x_XD: Tensor, turn: Tensor) -> Tensor:
        """Queries, keys and values, the first two turned to their places."""
        shape = self.shape
        normal = functional.rms_norm(x_XD, (shape.width,), layer.attention_norm, shape.norm_epsilon)
        qkv = layer.query_key_value.times(normal)
        both = torch.unflatten(qkv[:, : sum(shape.qkv_sizes[:2])], 1, (-1, shape.head_width))
        if layer.qk_norm is not None:
            plain = functional.rms_norm(both, (shape.head_width,), eps=shape.norm_epsilon)
            torch.mul(plain, layer.qk_norm, out=both)
        torch.view_as_complex(torch.unflatten(both, 2, (-1, 2))).mul_(turn)
        return qkv

    def _attend(
        self, index: int, query: Tensor, given: _Given, further: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """What every slot sees, (S, H * E)."""
        shape, used = self.shape, len(given.owner_P)
        width, groups = shape.head_width, shape.num_heads // shape.num_kv_heads
        keys, values = (one[:used].view(-1, PAGE, width) for one in self._cache[index])
        asked = query.index_select(0, given.owner_P).view(-1, groups, width)
        scores = torch.baddbmm(given.bias_P1C, asked, keys.transpose(1, 2), alpha=width**-0.5)
        tops = scores.amax(-1).view(used, -1)
        top = tops[: len(query)].clone()
        for page, _ in further:
            torch.maximum(top, tops.index_select(0, page), out=top)
        shares = scores.sub_(top.index_select(0, given.owner_P).view(-1, groups, 1)).exp_()
        mixed = shares.new_empty(used + 1, shape.num_heads * width)  # the last row is of no page
        weights = shares.new_empty(used + 1, shape.num_heads)
        torch.bmm(shares, values, out=mixed[:used].view(-1, groups, width))
        torch.sum(shares, -1, out=weights[:used].view(-1, groups))
        mixed[used], weights[used] = 0, 0
        seen, weight = mixed[: len(query)], weights[: len(query)]
        for _, page in further:
            seen.add_(mixed.index_select(0, page))
            weight.add_(weights.index_select(0, page))
        return seen.view(len(query), -1, width).div_(weight[:, :, None]).view(query.shape)

    def _rest(self, layer: _Layer, x_XD: Tensor, seen: Tensor) -> Tensor:
        """The block after its attention."""
        shape = self.shape
        x_XD = layer.attention_out.times_with(seen, x_XD, "add")
        normal = functional.rms_norm(x_XD, (shape.width,), layer.gate_norm, shape.norm_epsilon)
        gated = layer.up.times_with(normal, layer.gate.times(normal, "swish"), "mul")
        return layer.down.times_with(gated, x_XD, "add")

    def _logits(self, x_XD: Tensor) -> Tensor:
        """Outputs of the last layer."""
        shape = self.shape
        normal = functional.rms_norm(x_XD, (shape.width,), self._norm, shape.norm_epsilon)
        return self._head.times(normal)


def _doubled(first: int, least: int, most: int) -> int:
    """``first``, doubled until it is at least ``least``; at most ``most``."""
    while first < least:
        first *= 2
    return min(first, most)
