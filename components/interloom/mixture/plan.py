"""How many tokens of each source, and in which order its documents are drawn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from interloom.config.mixture import Epochs, MixtureConfig, Rest, Share, SourceConfig
from interloom.core.errors import ConfigError

_SLACK = 1e-9


def plan_tokens(config: MixtureConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """Tokens asked of each source.

    Args:
        config: The mixture.
        sizes: Tokens of one pass over each source that the mixture names.

    Returns:
        Tokens by source, in the mixture's order; they sum to ``config.total_tokens``.

    Raises:
        ConfigError: Shares or epochs exceed the total, nothing takes the rest, or a source would be
            read more often than it allows.
    """
    sources = config.sources()
    rests = [name for name, source in sources.items() if isinstance(source.budget, Rest)]
    asked = {
        name: _fixed(source, sizes[name], config.total_tokens) for name, source in sources.items()
    }
    left = config.total_tokens - sum(asked.values())
    if left < 0:
        parts = ", ".join(f"{name} {tokens}" for name, tokens in asked.items() if tokens)
        raise ConfigError(
            f"the mixture asks for more than total_tokens = {config.total_tokens}: {parts}; "
            "raise total_tokens, or lower shares and epochs"
        )
    if len(rests) != 1 and (left > 0 or rests):
        raise ConfigError(
            f"{left} of {config.total_tokens} tokens are left over, and {len(rests)} sources "
            f"({', '.join(rests) or 'none'}) have the budget 'rest'; give it to exactly one"
        )
    for name in rests:
        asked[name] = left
    for name, source in sources.items():
        _require_enough(name, source, asked[name], sizes[name])
    return asked


def _fixed(source: SourceConfig, size: int, total: int) -> int:
    """Tokens of a source whose budget does not hang on the others; 0 for the rest."""
    match source.budget:
        case Share(share=share):
            return round(share * total)
        case Epochs(epochs=epochs):
            return round(epochs * size)
        case Rest():
            return 0
        case _:
            assert_never(source.budget)


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
    """

    sources_N: NDArray[np.int16]
    documents_N: NDArray[np.int64]


def draw_documents(
    asked: Mapping[str, int], lengths: Mapping[str, NDArray[np.int64]], seed: int
) -> Draws:
    """Draw whole documents, always from the source that lags most behind its part.

    Each epoch of a source is a permutation of its documents that hangs on ``(seed, name, epoch)``
    alone. A source ends where one more document would take it further from what was asked.
    """
    names = [name for name, tokens in asked.items() if tokens > 0]
    index_of = {name: index for index, name in enumerate(asked)}
    total = sum(asked.values())
    queues = {name: _documents(name, len(lengths[name]), seed) for name in names}
    heads = {name: next(queues[name]) for name in names}
    drawn = dict.fromkeys(names, 0)
    sources: list[int] = []
    documents: list[int] = []
    num_drawn = 0
    while open_names := [n for n in names if _goes_on(drawn[n], lengths[n][heads[n]], asked[n])]:
        name = max(open_names, key=lambda n: asked[n] * num_drawn / total - drawn[n])
        length = int(lengths[name][heads[name]])
        sources.append(index_of[name])
        documents.append(heads[name])
        drawn[name] += length
        num_drawn += length
        heads[name] = next(queues[name])
    return Draws(np.array(sources, np.int16), np.array(documents, np.int64))


def all_documents(num_documents: Mapping[str, int]) -> Draws:
    """Every document once, source after source."""
    counts = list(num_documents.values())
    sources = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    documents = [np.arange(count, dtype=np.int64) for count in counts]
    return Draws(sources, np.concatenate(documents) if documents else np.zeros(0, np.int64))


def _goes_on(drawn: int, length: int, asked: int) -> bool:
    return 2 * drawn + int(length) <= 2 * asked


def _documents(name: str, num_documents: int, seed: int) -> Iterator[int]:
    """Documents of a source, epoch after epoch, without end."""
    epoch = 0
    while True:
        words = np.random.SeedSequence([seed, epoch, *name.encode()])
        rng = np.random.Generator(np.random.Philox(words))
        yield from rng.permutation(num_documents).tolist()
        epoch += 1
