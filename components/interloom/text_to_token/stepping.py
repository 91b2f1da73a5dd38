"""The model's arithmetic for decoding: prompts in one go, then one position a slot and step.

What a slot gets depends on what stands in it, and on nothing beside it:

- every product has a fixed shape: always all slots, prompts in rectangles of ``PREFILL_ROWS`` rows,
  and attention in chunks of ``CHUNK`` positions;
- the chunks of a slot are added up in order, and one that it has not reached adds exactly zero, so
  that it does not matter how far the longest slot has come.

Channels of queries and keys are reordered once, so that the two that rotary embedding turns
together stand side by side: turning is then one complex product. Their scalar product is the same.

Shapes: S = slots, R = rows of a prefill, L = its positions, D = width, H = query heads, N = key and
value heads, G = H / N, E = width of a head, C = positions of a chunk, K = codes, X = columns of
queries, keys and values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from interloom.text_to_token.model import Block, ModelShape, TextToTokenModel

CHUNK = 64
PREFILL_ROWS = 8


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
    query_key_value: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
    attention_out: Tensor
    gate_norm: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, block: Block, shape: ModelShape) -> "_Layer":
        """Shares all weights with the block but those of queries, keys and values."""
        order = _pairs(shape).to(block.query_key_value.weight.device)
        bias = block.query_key_value.bias if shape.has_qkv_bias else None
        qk_norm = None
        if shape.has_qk_norm:
            counts = (shape.num_heads, shape.num_kv_heads)
            norms = (block.query_norm.weight, block.key_norm.weight)
            rows = [norm.expand(count, -1) for norm, count in zip(norms, counts, strict=True)]
            qk_norm = torch.cat(rows).flatten()[order[: sum(shape.qkv_sizes[:2])]]
        return cls(
            attention_norm=block.attention_norm.weight,
            query_key_value=block.query_key_value.weight[order],
            qkv_bias=None if bias is None else bias[order],
            qk_norm=None if qk_norm is None else qk_norm.view(-1, shape.head_width),
            attention_out=block.attention_out.weight,
            gate_norm=block.gate_norm.weight,
            gate_up=block.gate_up.weight,
            down=block.down.weight,
        )


def _pairs(shape: ModelShape) -> Tensor:
    """For each of X columns, where it comes from: halves become pairs in queries and keys."""
    half = shape.head_width // 2
    head = torch.arange(shape.head_width).view(2, half).t().flatten()
    num_turned = shape.num_heads + shape.num_kv_heads
    turned = (torch.arange(num_turned)[:, None] * shape.head_width + head).flatten()
    return torch.cat([turned, torch.arange(len(turned), sum(shape.qkv_sizes))])


class Stepper:
    """All slots of one model; ``num_chunks`` chunks hold the longest prompt with its codes."""

    def __init__(self, model: TextToTokenModel, *, num_slots: int, num_chunks: int) -> None:
        self.shape = shape = model.shape
        self.num_codes = shape.num_codes
        self.device = model.device
        self._embedding, self._head = model.embedding.weight, model.head.weight
        self._norm = model.norm.weight
        self._inverse_wavelengths = model.inverse_wavelengths
        with torch.no_grad():
            self._layers = [_Layer.of(block, shape) for block in model.layers]
        size = (num_chunks, num_slots, shape.num_kv_heads, CHUNK, shape.head_width)
        self._cache = torch.zeros(
            (shape.num_layers, 2, *size), device=self.device, dtype=self._embedding.dtype
        )
        part = num_chunks * num_slots * shape.num_kv_heads  # chunks of keys, then those of values
        slots = torch.arange(num_slots, device=self.device)[:, None]
        heads = torch.arange(shape.num_kv_heads, device=self.device)
        first = slots * shape.num_kv_heads + heads
        self._first_SX = torch.cat([first, first + part], dim=1)
        self._chunk_size = num_slots * shape.num_kv_heads
        self._places_C = torch.arange(num_chunks * CHUNK, device=self.device)

    @torch.no_grad()
    def prefill(self, ids_RL: Tensor, places_RL: Tensor, last_R: Tensor) -> Prefilled:
        """Read prompts side by side; ``last_R`` says where each ends, padding follows."""
        rows, length = ids_RL.shape
        turn = self._turn(places_RL.flatten())
        x_XD = functional.embedding(ids_RL.flatten(), self._embedding)
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
        ends = torch.arange(rows, device=self.device) * length + last_R
        return Prefilled(self._logits(x_XD[ends]), torch.stack(kept))

    def place(self, prefilled: Prefilled, row: int, *, slot: int, length: int) -> None:
        """Put one prompt of a prefill into a slot, from position 0 on."""
        for chunk, start in enumerate(range(0, length, CHUNK)):
            stop = min(length, start + CHUNK)
            self._cache[:, :, chunk, slot, :, : stop - start] = prefilled.cache[
                :, :, row, :, start:stop
            ]

    @torch.no_grad()
    def step(self, ids_S: Tensor, places_S: Tensor, at_S: Tensor, *, num_chunks: int) -> Tensor:
        """Logits after one more id in every slot, (S, K + 1).

        Args:
            ids_S: What is read.
            places_S: Its rotary positions.
            at_S: Its place in the cache.
            num_chunks: As many as the longest slot has reached; more change nothing.
        """
        turn = self._turn(places_S)
        first = self._first_SX + (at_S // CHUNK * self._chunk_size)[:, None]
        written = (first * CHUNK + (at_S % CHUNK)[:, None]).flatten()
        bias = self._bias(at_S, num_chunks)
        x_SD = functional.embedding(ids_S, self._embedding)
        for index, layer in enumerate(self._layers):
            qkv = self._query_key_value(layer, x_SD, turn)
            size = self.shape.qkv_sizes[0]
            new = qkv[:, size:].reshape(-1, self.shape.head_width)
            self._cache[index].view(-1, self.shape.head_width).index_copy_(0, written, new)
            seen = self._attend(index, qkv[:, :size], bias)
            x_SD = self._rest(layer, x_SD, seen)
        return self._logits(x_SD)

    def _turn(self, places_X: Tensor) -> Tensor:
        """Rotary positions as complex numbers, (positions, 1, E / 2)."""
        angle = places_X[:, None, None] * self._inverse_wavelengths
        return torch.polar(torch.ones_like(angle), angle)

    def _bias(self, at_S: Tensor, num_chunks: int) -> Tensor:
        """0 for what a slot has read and minus infinity beyond, (chunks * S * N, 1, C)."""
        seen = self._places_C[: num_chunks * CHUNK] <= at_S[:, None]
        bias = torch.zeros_like(seen, dtype=self._cache.dtype).masked_fill_(~seen, -torch.inf)
        chunks = bias.view(len(at_S), num_chunks, CHUNK).transpose(0, 1)
        return chunks.repeat_interleave(self.shape.num_kv_heads, dim=1).reshape(-1, 1, CHUNK)

    def _query_key_value(self, layer: _Layer, x_XD: Tensor, turn: Tensor) -> Tensor:
        """Queries, keys and values, the first two turned to their places."""
        shape = self.shape
        normal = functional.rms_norm(x_XD, (shape.width,), layer.attention_norm, shape.norm_epsilon)
        qkv = functional.linear(normal, layer.query_key_value, layer.qkv_bias)
        both = torch.unflatten(qkv[:, : sum(shape.qkv_sizes[:2])], 1, (-1, shape.head_width))
        if layer.qk_norm is not None:
            plain = functional.rms_norm(both, (shape.head_width,), eps=shape.norm_epsilon)
            torch.mul(plain, layer.qk_norm, out=both)
        torch.view_as_complex(torch.unflatten(both, 2, (-1, 2))).mul_(turn)
        return qkv

    def _attend(self, index: int, query: Tensor, bias: Tensor) -> Tensor:
        """What every slot sees, (S, H * E)."""
        width, groups = self.shape.head_width, self.shape.num_heads // self.shape.num_kv_heads
        num = bias.shape[0] // self._chunk_size
        keys, values = (one[:num].view(-1, CHUNK, width) for one in self._cache[index])
        asked = (
            query.reshape(1, -1, groups, width).expand(num, -1, -1, -1).reshape(-1, groups, width)
        )
        scores = torch.baddbmm(bias, asked, keys.transpose(1, 2), alpha=width**-0.5)
        scores = scores.view(num, -1, groups, CHUNK)
        scores.sub_(scores.amax(-1).amax(0)[..., None]).exp_()
        total = scores.sum(-1)
        mixed = torch.bmm(scores.view(-1, groups, CHUNK), values).view(num, -1, groups, width)
        seen, weight = mixed[0], total[0]
        for chunk in range(1, num):
            seen += mixed[chunk]
            weight += total[chunk]
        return seen.div_(weight[..., None]).view(query.shape)

    def _rest(self, layer: _Layer, x_XD: Tensor, seen: Tensor) -> Tensor:
        """The block after its attention."""
        shape = self.shape
        x_XD = torch.addmm(x_XD, seen, layer.attention_out.t())
        normal = functional.rms_norm(x_XD, (shape.width,), layer.gate_norm, shape.norm_epsilon)
        both = functional.linear(normal, layer.gate_up)
        gate, up = both[:, : shape.ffn_size], both[:, shape.ffn_size :]
        return torch.addmm(x_XD, functional.silu(gate).mul_(up), layer.down.t())

    def _logits(self, x_XD: Tensor) -> Tensor:
        """Outputs of the last layer."""
        shape = self.shape
        normal = functional.rms_norm(x_XD, (shape.width,), self._norm, shape.norm_epsilon)
        return functional.linear(normal, self._head)
