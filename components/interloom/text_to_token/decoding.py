"""Continuous batching: a fixed number of slots, each refilled as soon as its span has ended.

A span's codes depend on the span alone. Every step computes all slots, used or not, so that the
shapes of the arithmetic never change with the neighbours; and the capacity of the cache, over which
attention sums, is a function of the span: spans of one capacity share slots.

Shapes: S = slots, C = capacity in positions, K = codes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.text_to_token.model import Cache, TextToTokenModel
from interloom.text_to_token.prompt import Prompt

_CAPACITY_STEP = 64  # positions; few capacities, so that slots stay full


@dataclass(frozen=True, slots=True)
class Job:
    """One span to decode.

    Attributes:
        prompt: What the model reads first.
        limit: Most codes to draw.
        draws: A uniform number for each code and the end, shape (limit + 1,).
    """

    prompt: Prompt
    limit: int
    draws: NDArray[np.float64]

    @property
    def capacity(self) -> int:
        """Positions its cache holds."""
        needed = len(self.prompt) + self.limit
        return -(-needed // _CAPACITY_STEP) * _CAPACITY_STEP


@dataclass(frozen=True, slots=True)
class Decoded:
    """The codes of one job, and whether the model ended them itself."""

    codes: NDArray[np.int32]
    ended: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 takes the best; otherwise one of the nucleus ``top_p``."""

    temperature: float
    top_p: float


def decode(
    model: TextToTokenModel,
    jobs: Sequence[Job],
    *,
    num_slots: int,
    speech_offset: int,
    sampling: Sampling,
) -> list[Decoded]:
    """The codes of each job, in the order of ``jobs``."""
    results: dict[int, Decoded] = {}
    for capacity in sorted({job.capacity for job in jobs}):
        waiting = [at for at, job in enumerate(jobs) if job.capacity == capacity]
        waiting.sort(key=lambda at: -jobs[at].limit)  # long ones first: slots run empty together
        slots = _Slots(model, num_slots, capacity, speech_offset)
        queue = iter(waiting)
        slots.fill(jobs, queue)
        while slots.busy:
            results.update(slots.step(sampling))
            slots.fill(jobs, queue)
    return [results[at] for at in range(len(jobs))]


class _Slots:
    """The state of all slots of one capacity."""

    def __init__(
        self, model: TextToTokenModel, num_slots: int, capacity: int, speech_offset: int
    ) -> None:
        self._model = model
        self._offset = speech_offset
        self._cache = Cache(
            model.shape, num_slots=num_slots, capacity=capacity, device=model.device
        )
        self._tape = np.zeros((num_slots, capacity), np.int64)
        self._places = np.zeros((num_slots, capacity), np.float32)
        self._draws = np.zeros((num_slots, capacity + 1))
        self._rows = np.arange(num_slots)
        self._at = np.zeros(num_slots, np.int64)  # position that is read next
        self._prompt = np.zeros(num_slots, np.int64)  # length of the prompt
        self._limit = np.zeros(num_slots, np.int64)
        self._job = np.full(num_slots, -1)  # -1: free

    @property
    def busy(self) -> bool:
        """Whether any slot has a job."""
        return bool((self._job >= 0).any())

    def fill(self, jobs: Sequence[Job], queue: Iterator[int]) -> None:
        """Give waiting jobs to free slots."""
        for slot in np.flatnonzero(self._job < 0):
            number = next(queue, None)
            if number is None:
                return
            job = jobs[number]
            length = len(job.prompt)
            self._job[slot], self._at[slot] = number, 0
            self._prompt[slot], self._limit[slot] = length, job.limit
            self._tape[slot, :length] = job.prompt.ids
            self._places[slot, :length] = job.prompt.places
            self._draws[slot, : len(job.draws)] = job.draws

    def step(self, sampling: Sampling) -> list[tuple[int, Decoded]]:
        """Read one position in every slot; returns the jobs that ended by it."""
        at = self._at.copy()
        ids, places = self._tape[self._rows, at], self._places[self._rows, at]
        read = (torch.from_numpy(array).to(self._model.device) for array in (ids, places, at))
        logits = self._model.step(*read, cache=self._cache).cpu()
        drawn = at + 1 - self._prompt  # codes that stand before the one just chosen
        chosen = choose(logits, self._draws[self._rows, drawn.clip(0)], sampling)
        speaks = (drawn >= 0) & (self._job >= 0)
        ended = speaks & (chosen == logits.shape[1] - 1)
        over = ended | (speaks & (drawn >= self._limit))
        goes_on = np.flatnonzero(speaks & ~over)
        self._tape[goes_on, at[goes_on] + 1] = chosen[goes_on] + self._offset
        self._places[goes_on, at[goes_on] + 1] = drawn[goes_on]
        self._at += (self._job >= 0) & ~over
        finished = [
            (int(self._job[slot]), self._finish(slot, int(drawn[slot]), ended=bool(ended[slot])))
            for slot in np.flatnonzero(over).tolist()
        ]
        self._job[over], self._at[over] = -1, 0
        return finished

    def _finish(self, slot: int, num_codes: int, *, ended: bool) -> Decoded:
        """The codes on a slot's tape."""
        start = int(self._prompt[slot])
        codes = self._tape[slot, start : start + num_codes] - self._offset
        return Decoded(codes.astype(np.int32), ended)


def choose(
    logits_SK: Tensor, draws_S: NDArray[np.float64], sampling: Sampling
) -> NDArray[np.int64]:
    """One output a slot; each row depends on its own logits and number only."""
    if sampling.temperature == 0:
        return logits_SK.argmax(-1).numpy()
    scaled = logits_SK.double() / sampling.temperature
    probabilities, order = torch.sort(scaled.softmax(-1), dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1).numpy()
    kept = 1 + (reached < sampling.top_p).sum(-1).clip(max=reached.shape[1] - 1)
    mass = np.take_along_axis(reached, kept[:, None] - 1, axis=-1)[:, 0]
    rank = np.minimum((reached < (draws_S * mass)[:, None]).sum(-1), kept - 1)
    return np.take_along_axis(order.numpy(), rank[:, None], axis=-1)[:, 0]
