"""Continuous batching: a fixed number of slots, each refilled as soon as its span has ended.

A span's codes depend on the span alone (``stepping`` says why). Prompts of about one length are
read together, those with the most codes to come first, so that the slots run empty together.

Shapes: S = slots, R = rows of a prefill, L = its positions.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.text_to_token.choosing import choose
from interloom.text_to_token.jobs import Decoded, Job
from interloom.text_to_token.looping import LoopWatch
from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.replaying import Recorder
from interloom.text_to_token.stepping import PREFILL_ROWS, Prefilled, Stepper

_PROMPT_STEP = 8  # prompts are padded to a multiple of it


class TorchEngine:
    """Slots over a model, on its device."""

    def __init__(
        self,
        model: TextToTokenModel,
        *,
        num_slots: int,
        speech_offset: int,
        recorder: Recorder | None = None,
    ) -> None:
        """``recorder``, if there is one, records the steps, on whatever device."""
        self._model, self._recorder = model.eval(), recorder
        self._num_slots = num_slots
        self._speech_offset = speech_offset
        self._stepper: Stepper | None = None
        self._num_positions = 0

    def decode(self, jobs: Sequence[Job]) -> list[Decoded]:
        """The codes of each job, in the order of ``jobs``."""
        if not jobs:
            return []
        stepper = self._room_for(max(len(job.prompt) + job.limit for job in jobs))
        slots = _Slots(stepper, jobs, self._num_slots, self._speech_offset)
        results: dict[int, Decoded] = {}
        while slots.fill(results):
            slots.step(results)
        return [results[at] for at in range(len(jobs))]

    def _room_for(self, num_positions: int) -> Stepper:
        """A stepper that can hold so many positions; how many it can changes no result."""
        if self._stepper is None or num_positions > self._num_positions:
            self._stepper = None  # frees the smaller cache first
            self._stepper = Stepper(
                self._model,
                num_slots=self._num_slots,
                num_positions=num_positions,
                recorder=self._recorder,
            )
            self._num_positions = num_positions
        return self._stepper


@dataclass(frozen=True, slots=True)
class _Ready:
    """A job whose prompt was read, with its first output."""

    number: int
    prefilled: Prefilled
    row: int
    first: int


class _Slots:
    """The state of all slots."""

    def __init__(
        self, stepper: Stepper, jobs: Sequence[Job], num_slots: int, speech_offset: int
    ) -> None:
        self._stepper, self._jobs, self._offset = stepper, jobs, speech_offset
        self._ready = self._prefilled()
        self._end = stepper.num_codes
        longest = max(job.limit for job in jobs)
        self._codes = np.zeros((num_slots, longest), np.int32)
        self._draws = np.zeros((num_slots, longest + 1))
        self._temperatures, self._top_ps = np.zeros(num_slots), np.ones(num_slots)
        self._rows = np.arange(num_slots)
        self._job = np.full(num_slots, -1)  # -1: free
        self._made = np.ones(num_slots, np.int64)  # codes so far; the last one is read next
        self._limit = np.full(num_slots, longest)
        self._prompt = np.zeros(num_slots, np.int64)  # its length
        self._first_place = np.zeros(num_slots, np.float32)
        cycles = [job.loop.period for job in jobs if job.loop is not None]
        self._loops = LoopWatch(num_slots=num_slots, longest_cycle=max(cycles, default=0))

    def fill(self, results: dict[int, Decoded]) -> bool:
        """Give jobs to free slots; whether any slot has one. Jobs that end at once are settled."""
        for slot in np.flatnonzero(self._job < 0).tolist():
            while (ready := next(self._ready, None)) is not None:
                if ready.first == self._end:
                    results[ready.number] = Decoded(np.zeros(0, np.int32), ended=True)
                else:
                    self._seat(slot, ready)
                    break
        return bool((self._job >= 0).any())

    def step(self, results: dict[int, Decoded]) -> None:
        """Read the newest code of every slot; jobs that end by it, or loop, are settled."""
        made = self._made
        at = self._prompt + made - 1
        ids = self._codes[self._rows, made - 1].astype(np.int64) + self._offset
        places = self._first_place + (made - 1)
        logits = self._stepper.step(ids, places.astype(np.float32), at).cpu()
        draws = self._draws[self._rows, made]
        chosen = choose(logits, draws, self._temperatures, self._top_ps)
        busy = self._job >= 0
        ended = chosen == self._end
        loops = self._loops.see(self._codes, made)
        over = busy & (ended | loops | (made >= self._limit))
        for slot in np.flatnonzero(over).tolist():
            codes = self._codes[slot, : made[slot]].copy()
            results[int(self._job[slot])] = Decoded(codes, bool(ended[slot] and not loops[slot]))
            self._stepper.release(slot)
        self._free(over)
        goes_on = np.flatnonzero(busy & ~over)
        self._codes[goes_on, made[goes_on]] = chosen[goes_on]
        self._made[goes_on] += 1

    def _seat(self, slot: int, ready: _Ready) -> None:
        """Let a job begin in a slot."""
        job = self._jobs[ready.number]
        length = len(job.prompt)
        self._stepper.place(ready.prefilled, ready.row, slot=slot, length=length)
        self._job[slot], self._made[slot], self._limit[slot] = ready.number, 1, job.limit
        self._codes[slot, 0] = ready.first
        self._prompt[slot], self._first_place[slot] = length, job.prompt.first_place
        self._draws[slot, : job.limit + 1] = job.draws
        self._temperatures[slot] = job.sampling.temperature
        self._top_ps[slot] = job.sampling.top_p
        self._loops.begin(slot, job.loop)

    def _free(self, over_S: NDArray[np.bool_]) -> None:
        """Nobody sits there any more; what the slots compute from now on is thrown away."""
        self._job[over_S] = -1
        self._made[over_S], self._prompt[over_S] = 1, 0
        self._codes[over_S, 0] = 0
        self._temperatures[over_S] = 0.0

    def _prefilled(self) -> Iterator[_Ready]:
        """All jobs, the longest prompts first, read when they are asked for."""
        for length, numbers in _rectangles(self._jobs):
            yield from self._prefill(length, numbers)

    def _prefill(self, length: int, numbers: Sequence[int]) -> Iterator[_Ready]:
        """Read up to ``PREFILL_ROWS`` prompts of up to ``length`` positions."""
        jobs = [self._jobs[number] for number in numbers]
        ids = np.zeros((PREFILL_ROWS, length), np.int64)
        places = np.zeros((PREFILL_ROWS, length), np.float32)
        last, draws = np.zeros(PREFILL_ROWS, np.int64), np.zeros(PREFILL_ROWS)
        temperatures, top_ps = np.zeros(PREFILL_ROWS), np.ones(PREFILL_ROWS)
        for row, job in enumerate(jobs):
            ids[row, : len(job.prompt)] = job.prompt.ids
            places[row, : len(job.prompt)] = job.prompt.places
            last[row], draws[row] = len(job.prompt) - 1, job.draws[0]
            temperatures[row], top_ps[row] = job.sampling.temperature, job.sampling.top_p
        prefilled = self._stepper.prefill(ids, places, last)
        first = choose(prefilled.logits.cpu(), draws, temperatures, top_ps)
        for row, number in enumerate(numbers):
            yield _Ready(number, prefilled, row, int(first[row]))


def _rectangles(jobs: Sequence[Job]) -> Iterator[tuple[int, list[int]]]:
    """Which prompts are read together, and the length that they are padded to."""
    by_length: dict[int, deque[int]] = {}
    for number in sorted(range(len(jobs)), key=lambda number: (-jobs[number].limit, number)):
        length = -(-len(jobs[number].prompt) // _PROMPT_STEP) * _PROMPT_STEP
        by_length.setdefault(length, deque()).append(number)
    for length in sorted(by_length, reverse=True):
        waiting = by_length[length]
        while waiting:
            yield length, [waiting.popleft() for _ in range(min(PREFILL_ROWS, len(waiting)))]
