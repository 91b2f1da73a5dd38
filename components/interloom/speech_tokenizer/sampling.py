"""Which utterances are in batch ``index``: a pure function of the index.

Shapes: N utterances, P of one source.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.core.errors import DataError
from interloom.speech_tokenizer.features import Features

_ROWS, _ORDER = 1, 2  # what a random stream is for


class BatchPlan:
    """Which utterances stand in which batch of which epoch.

    Utterances are sorted into buckets of equal padded length. Each epoch permutes the utterances of
    each bucket and the order of the batches; the batches' sizes never change, so that every epoch
    has as many.
    """

    def __init__(
        self, num_codes_N: NDArray[np.int64], *, bucket: int, max_codes: int, seed: int
    ) -> None:
        padded_N = -(-num_codes_N // bucket) * bucket
        self._order_N = np.argsort(padded_N, kind="stable")
        self._seed = seed
        sorted_N = padded_N[self._order_N]
        starts = [0]
        for position, length in enumerate(sorted_N.tolist()):
            if position > starts[-1] and (position + 1 - starts[-1]) * length > max_codes:
                starts.append(position)
        self._edges = [*starts, len(sorted_N)]
        changes = np.flatnonzero(np.diff(sorted_N)) + 1
        self._groups = [0, *changes.tolist(), len(sorted_N)]

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self._edges) - 1

    def rows(self, index: int) -> NDArray[np.int64]:
        """The utterances of batch ``index``, counted over all epochs."""
        epoch, position = divmod(index, self.num_batches)
        batches = stream(self._seed, epoch, _ORDER).permutation(self.num_batches)
        start, stop = self._edges[batches[position]], self._edges[batches[position] + 1]
        return self._shuffled(epoch)[start:stop]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """All utterances, in order of bucket, each bucket permuted."""
        rng = stream(self._seed, epoch, _ROWS)
        order = self._order_N.copy()
        for start, stop in zip(self._groups, self._groups[1:], strict=False):
            rng.shuffle(order[start:stop])
        return order


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a batch is made of.

    Attributes:
        rows: Its utterances.
        pool_P: All utterances of their source, for passages that are spliced.
    """

    rows: NDArray[np.int64]
    pool_P: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Source:
    """A plan over some of the utterances."""

    pool_P: NDArray[np.int64]
    plan: BatchPlan

    def drawn(self, index: int) -> Drawn:
        return Drawn(self.pool_P[self.plan.rows(index)], self.pool_P)


class SourcePlan:
    """Batches of supervised and of pseudo-labelled speech in a fixed ratio (spec 1.3).

    A batch is of one source. Which one, and how many of it came before, are functions of the index:
    after n batches, n times the share, rounded, were pseudo-labelled.
    """

    def __init__(self, features: Features, config: TokenizerConfig, *, seed: int) -> None:
        """Plan the batches.

        Args:
            features: The utterances.
            config: Says how large batches are, and how much of them is pseudo-labelled.
            seed: Of all draws.

        Raises:
            DataError: There is no utterance of a source that is asked for.
        """
        bucket = config.encoder.bucket_tokens
        max_codes = config.batch_frames // config.encoder.frames_per_token

        def source(is_in_N: NDArray[np.bool_]) -> _Source:
            pool_P = np.flatnonzero(is_in_N)
            codes_P = features.num_codes_N[pool_P]
            plan = BatchPlan(codes_P, bucket=bucket, max_codes=max_codes, seed=seed)
            return _Source(pool_P, plan)

        is_pseudo_N = features.is_pseudo_N
        self._share = config.pseudo_share
        self._sources: tuple[_Source, ...] = (source(np.ones_like(is_pseudo_N)),)
        if self._share is None:
            return
        if is_pseudo_N.all() or not is_pseudo_N.any():
            raise DataError(
                f"tokenizer.pseudo_share is {self._share:g}, but {int(is_pseudo_N.sum())} of "
                f"{len(is_pseudo_N)} utterances are pseudo-labelled; ingest both sorts (interloom "
                "ingest speech --asr labels what has no transcript), or set it to none"
            )
        self._sources = (source(~is_pseudo_N), source(is_pseudo_N))

    @property
    def num_batches(self) -> int:
        """Batches of all sources in which each utterance stands once."""
        return sum(source.plan.num_batches for source in self._sources)

    def batch(self, index: int) -> Drawn:
        """What batch ``index`` is made of, counted over all epochs."""
        if self._share is None:
            return self._sources[0].drawn(index)
        pseudo, after = (int(n * self._share + 0.5) for n in (index, index + 1))
        if after > pseudo:
            return self._sources[1].drawn(pseudo)
        return self._sources[0].drawn(index - pseudo)


def stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose at one index."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, purpose]))
