"""Where DeepSpeed keeps what AdamW steps on, by ZeRO stage, and how it is saved and restored."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interloom.ports.engine import MOMENTS, EngineState, Piece, SavedState
from interloom.training.state import own_buffers, require_fit


class SkippableAdamW(torch.optim.AdamW):
    """AdamW that takes no step while ``is_skipping``: DeepSpeed does all the rest of its step."""

    is_skipping = False

    def step(self, closure: Any = None) -> Any:
        """Step, or do nothing."""
        return None if self.is_skipping else super().step(closure)


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of one flat parameter in a tensor that AdamW steps on.

    Attributes:
        name: The parameter.
        start: Where the run begins in the flat parameter.
        length: Of the run, without padding.
        master: What AdamW steps on: the parameter, or a flat fp32 tensor of many.
        offset: Where the run begins in the flat master.
    """

    name: str
    start: int
    length: int
    master: Tensor
    offset: int

    def of(self, flat_or_shaped: Tensor) -> Tensor:
        """The run in the master or in one of its moments, as a view."""
        return flat_or_shaped.detach().view(-1)[self.offset : self.offset + self.length]


class DeepSpeedState:
    """Reads and writes the state of one engine."""

    def __init__(self, engine: Any, stage: int, rank: int, world_size: int) -> None:
        """Take DeepSpeed's engine and the ZeRO stage in force."""
        self._engine = engine
        self._stage = stage
        self._rank = rank
        self._world_size = world_size

    @property
    def module(self) -> nn.Module:
        """The module itself, without DeepSpeed's wrapper."""
        module: nn.Module = self._engine.module
        return module

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter, whole."""
        return {
            name: tuple(getattr(parameter, "ds_shape", parameter.shape))
            for name, parameter in self.module.named_parameters()
        }

    def save(self) -> EngineState:
        """This rank's pieces; those that every rank holds are shared out evenly."""
        pieces = list(self._frozen_pieces())
        steps = dict[str, float]()
        for held in self._slices():
            moments = self._moments(held.master)
            if moments:
                steps[held.name] = float(moments["step"])
            saved = self._share(held) if self._stage == 0 else held
            if saved.length:
                pieces.append(Piece(held.name, "value", saved.start, _copy(saved.of(held.master))))
                pieces += [
                    Piece(held.name, kind, saved.start, _copy(saved.of(moments[kind])))
                    for kind in MOMENTS
                    if moments
                ]
        buffers = {name: _copy(value) for name, value in self.module.named_buffers()}
        return EngineState(self.shapes(), self._all_steps(steps), tuple(pieces), buffers)

    def load(self, saved: SavedState) -> None:
        """Continue from what any number of ranks saved at any stage.

        Raises:
            DataError: Names or shapes differ.
        """
        require_fit(self.shapes(), saved.shapes)
        with torch.no_grad():
            self._load_weights(saved)
            slices = list(self._slices())
            self._make_moments(slices, saved.steps)
            for held in slices:
                stop = held.start + held.length
                held.of(held.master).copy_(saved.read(held.name, "value", held.start, stop))
                for kind in MOMENTS:
                    if held.name in saved.steps:
                        part = saved.read(held.name, kind, held.start, stop)
                        held.of(self._moments(held.master)[kind]).copy_(part)
            kept = own_buffers(saved, self._rank, self._world_size)
            for name, buffer in self.module.named_buffers():
                buffer.copy_(kept[name])

    def _slices(self) -> Iterator[Slice]:
        """All that this rank's AdamW steps on."""
        zero = self._engine.optimizer
        for name, parameter in self._parameters():
            if not parameter.requires_grad:
                continue
            if self._stage == 0:
                yield Slice(name, 0, parameter.numel(), parameter, 0)
            elif self._stage == 3:
                group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
                start, length = self._part(parameter)
                yield Slice(name, start, length, zero.fp32_partitioned_groups_flat[group], offset)
            elif (place := parameter._hp_mapping) is not None:  # noqa: SLF001 - only there
                own, flat = place.lp_fragment_address, place.hp_fragment_address
                master = zero.single_partition_of_fp32_groups[place.param_group_index]
                yield Slice(name, own.start, own.numel, master, flat.start)

    def _part(self, parameter: Any) -> tuple[int, int]:
        """Start and length of this rank's part of a parameter that ZeRO 3 split."""
        size = parameter.ds_tensor.ds_numel
        start = min(self._rank * size, parameter.ds_numel)
        return start, min(size, parameter.ds_numel - start)

    def _share(self, held: Slice) -> Slice:
        """The part of a whole that this rank saves."""
        first = held.length * self._rank // self._world_size
        stop = held.length * (self._rank + 1) // self._world_size
        return Slice(held.name, first, stop - first, held.master, first)

    def _frozen_pieces(self) -> Iterator[Piece]:
        """Parameters without gradients; ZeRO 3 splits them too, else the first rank saves them."""
        for name, parameter in self._parameters():
            if parameter.requires_grad:
                continue
            if self._stage == 3:
                start, length = self._part(parameter)
                values: Tensor = parameter.ds_tensor.data[:length]
                yield Piece(name, "value", start, _copy(values))
            elif self._rank == 0:
                yield Piece(name, "value", 0, _copy(parameter.detach().reshape(-1)))

    def _load_weights(self, saved: SavedState) -> None:
        """The model's own weights, in its precision."""
        for name, parameter in self._parameters():
            shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
            if self._stage == 3:
                start, length = self._part(parameter)
                part = saved.read(name, "value", start, start + length)
                parameter.ds_tensor.data[:length].copy_(part)
            if parameter.numel() == math.prod(shape):  # ZeRO 3 keeps small ones whole besides
                whole = saved.read(name, "value", 0, math.prod(shape))
                parameter.data.copy_(whole.view(*shape))

    def _make_moments(self, slices: Sequence[Slice], steps: Mapping[str, float]) -> None:
        """Empty moments for every master of which some parameter has taken a step."""
        for held in slices:
            if held.name in steps and not self._moments(held.master):
                empty: dict[str, Tensor] = {"step": torch.tensor(steps[held.name])}
                empty |= {kind: torch.zeros_like(held.master.detach()) for kind in MOMENTS}
                self._engine.basic_optimizer.state[held.master] = empty

    def _moments(self, master: Tensor) -> Mapping[str, Tensor]:
        """AdamW's state of one master; empty before the first step."""
        held: Mapping[str, Tensor] = self._engine.basic_optimizer.state.get(master, {})
        return held

    def _all_steps(self, own: Mapping[str, float]) -> dict[str, float]:
        """The steps of all parameters: a split rank may hold nothing of some of them."""
        if self._stage == 0 or not own:
            return dict(own)
        latest = max(own.values())
        trained = [name for name, held in self._parameters() if held.requires_grad]
        return dict.fromkeys(trained, latest)

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        """The parameters, with what DeepSpeed hung on them."""
        yield from self.module.named_parameters()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().contiguous().cpu()
