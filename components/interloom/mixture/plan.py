"""How many tokens of each source, and in which order its documents are drawn."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from interloom.config.mixture import (
    Budget,
    Epochs,
    MixtureConfig,
    PhaseConfig,
    Rest,
    Share,
    SourceConfig,
)
from interloom.core.errors import ConfigError

_SLACK = 1e-9
_WHOLE = PhaseConfig(share=1)


Budgets = Mapping[str, int]


def plan_tokens(config: MixtureConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """Tokens asked of each source over all phases; see ``plan_phases``."""
    phases = plan_phases(config, sizes)
    return {name: sum(phase[name] for phase in phases) for name in config.sources()}


def plan_phases(config: MixtureConfig, sizes: Mapping[str, int]) -> tuple[dict[str, int], ...]:
    """Tokens asked of each source in each phase.

    Args:
        config: The mixture.
        sizes: Tokens of one pass over each source that the mixture names.

    Returns:
        Tokens by source, in the mixture's order, for each phase; they all sum to
        ``config.total_tokens``.

    Raises:
        ConfigError: Shares or epochs exceed the total, nothing takes the rest, or a source would be
            read more often than it allows.
    """
    bounds = np.cumsum([0.0, *(phase.share for phase in config.phases or (_WHOLE,))])
    bounds[-1] = 1.0
    ends = np.round(bounds * config.total_tokens).astype(np.int64).tolist()
    planned = tuple(
        _plan_phase(config, sizes, number, last - first)
        for number, (first, last) in enumerate(itertools.pairwise(ends))
    )
    for name, source in config.sources().items():
        _require_enough(name, source, sum(phase[name] for phase in planned), sizes[name])
    return planned


def _plan_phase(
    config: MixtureConfig, sizes: Mapping[str, int], number: int, total: int
) -> dict[str, int]:
    """Tokens of each source in one phase of ``total`` tokens."""
    where = f"phase {number}: " if config.phases else ""
    phase = config.phases[number] if config.phases else _WHOLE
    budgets: dict[str, Budget] = {}
    for name, source in config.sources().items():
        own = phase.budget(name)
        budgets[name] = _spread(source.budget, total / config.total_tokens) if own is None else own
    rests = [name for name, budget in budgets.items() if isinstance(budget, Rest)]
    asked = {name: _fixed(budget, sizes[name], total) for name, budget in budgets.items()}
    left = total - sum(asked.values())
    if left < 0:
        raise ConfigError(
            f"{where}the mixture asks for more than {_name(config)} = {total}: "
            f"{_described(asked, budgets)}; that is {-left} too many: raise total_tokens, or lower "
            "shares and epochs"
        )
    if len(rests) != 1 and (left > 0 or rests):
        raise ConfigError(
            f"{where}{left} of {total} tokens are left over, and {len(rests)} sources "
            f"({', '.join(rests) or 'none'}) have the budget 'rest'; give it to exactly one"
        )
    for name in rests:
        asked[name] = left
    return asked


def _name(config: MixtureConfig) -> str:
    return "its tokens" if config.phases else "total_tokens"


def _described(asked: Mapping[str, int], budgets: Mapping[str, Budget]) -> str:
    """What is asked of each source, and by which rule."""
    parts = []
    for name, tokens in asked.items():
        match budgets[name]:
            case Share(share=share):
                parts.append(f"{name} {tokens} (share {share:g})")
            case Epochs(epochs=epochs):
                parts.append(f"{name} {tokens} ({epochs:g} epochs)")
            case Rest():
                continue
            case _:
                assert_never(budgets[name])
    return ", ".join(parts)


def _spread(budget: Budget, part: float) -> Budget:
    """A source's own budget in a phase that is so large a part of all."""
    return Epochs(epochs=budget.epochs * part) if isinstance(budget, Epochs) else budget


def _fixed(budget: Budget, size: int, total: int) -> int:
    """Tokens of a source whose budget does not hang on the others; 0 for the rest."""
    match budget:
        case Share(share=share):
            return round(share * total)
        case Epochs(epochs=epochs):
            return round(epochs * size)
        case Rest():
            return 0
        case _:
            assert_never(budget)


def _require_enough(name: str, source: SourceConfig, asked: int, size: int) -> None:
    if asked > source.max_epochs * size * (1 + _SLACK):
        epochs = f"{asked / size:.2f} epochs" if size else "it is empty"
        raise ConfigError(
            f"source {name!r} has {size} tokens and the mixture asks for {asked} ({epochs}), but "
            f"max_epochs = {source.max_epochs:g} are allowed; add data, lower total_tokens or the "
            "share, or raise max_epochs"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Documents in the order in which they were drawn.

    Attributes:
        sources_N: Index into the names of the plan.
        documents_N: Index of the document within its source.
        phase_ends: Where each phase ends; the last is N.
    """

    sources_N: NDArray[np.int16]
    documents_N: NDArray[np.int64]
    phase_ends: tuple[int, ...]


def draw_documents(
    phases: Sequence[Budgets], lengths: Mapping[str, NDArray[np.int64]], seed: int
) -> Draws:
    """Draw whole documents so that every source keeps to its part at every moment.

    A source's documents come in epochs, each a permutation that hangs on ``(seed, name, epoch)``
    alone, and go on from phase to phase. In each phase a document stands where its middle falls in
    what is asked of its source, from 0 to 1: so the source that lags most behind is always next, in
    one sort. A source ends where one more document would take it further from what was asked.

    Args:
        phases: Tokens asked of each source, for each phase.
        lengths: Tokens of the documents of each source.
        seed: Of the permutations.
    """
    names = list(phases[0])
    streams = {
        name: _Stream.of(name, lengths[name], sum(phase[name] for phase in phases), seed)
        for name in names
    }
    sources: list[NDArray[np.int16]] = []
    documents: list[NDArray[np.int64]] = []
    starts, asked = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for phase in phases:
        places: list[NDArray[np.float64]] = []
        for index, name in enumerate(names):
            stream, begin = streams[name], starts[name]
            end = stream.stop(asked[name] + phase[name])
            middles = (stream.bounds_N[begin:end] + stream.bounds_N[begin + 1 : end + 1]) / 2
            places.append((middles - stream.bounds_N[begin]) / max(1, phase[name]))
            sources.append(np.full(end - begin, index, np.int16))
            documents.append(stream.documents_N[begin:end])
            starts[name], asked[name] = end, asked[name] + phase[name]
        order = np.argsort(np.concatenate(places), kind="stable")
        held = slice(-len(names), None)
        sources[held] = [np.concatenate(sources[held])[order]]
        documents[held] = [np.concatenate(documents[held])[order]]
    ends = np.cumsum([len(part) for part in sources]).tolist()
    return Draws(np.concatenate(sources), np.concatenate(documents), tuple(ends))


def all_documents(num_documents: Mapping[str, int]) -> Draws:
    """Every document once, source after source."""
    counts = list(num_documents.values())
    sources = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    documents = [np.arange(count, dtype=np.int64) for count in counts]
    drawn = np.concatenate(documents) if documents else np.zeros(0, np.int64)
    return Draws(sources, drawn, (len(drawn),))


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """A source's documents, epoch after epoch, and the tokens before each and after the last."""

    documents_N: NDArray[np.int64]
    bounds_N: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, lengths: NDArray[np.int64], asked: int, seed: int) -> "_Stream":
        size = int(lengths.sum())
        epochs = -(-asked // size) + 1 if size and asked else 0
        order = [_permutation(name, len(lengths), seed, epoch) for epoch in range(epochs)]
        documents = np.concatenate(order) if order else np.zeros(0, np.int64)
        return cls(documents, np.concatenate([[0], np.cumsum(lengths[documents])]))

    def stop(self, asked: int) -> int:
        """How many documents come nearest to ``asked`` tokens; one more would be further off."""
        doubled = self.bounds_N[:-1] + self.bounds_N[1:]
        return int(np.searchsorted(doubled, 2 * asked, side="right"))


def _permutation(name: str, num_documents: int, seed: int, epoch: int) -> NDArray[np.int64]:
    words = np.random.SeedSequence([seed, epoch, *name.encode()])
    return np.random.Generator(np.random.Philox(words)).permutation(num_documents)
