"""Where the codes of spans come from: a text-to-token model, or recordings with word times."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interloom.core.files import written_whole
from interloom.interleaving.weaving import Plan
from interloom.text.words import find_words
from interloom.text_to_token.spans import Codes, SpanRequest, SpanResult

Judge = Callable[[Sequence[Codes]], list[str]]

_SPANS_PER_PART = 4096
_PART = pa.schema(
    [
        ("codes", pa.list_(pa.int32())),
        ("reason", pa.string()),
        ("attempts", pa.int32()),
        ("refusals", pa.list_(pa.string())),
        ("drawn_tokens", pa.int32()),
    ]
)


class Speaker(Protocol):
    """What speaks spans: a text-to-token model."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        ...


class SpanSource(Protocol):
    """Gives spans their codes."""

    def refusal(self, document: dict[str, Any]) -> str | None:
        """Why nothing of a document can be spoken, before it is planned; None if some may be."""
        ...

    def speak(self, plans: Sequence[Plan], parts: Path) -> list[list[SpanResult]]:
        """One result a span of each plan.

        Args:
            plans: Documents with their spans.
            parts: Beginning of the names of files that survive a kill.
        """
        ...


class Synthesised:
    """Spans spoken by a model; what is finished of a shard is kept, so a kill loses little."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def refusal(self, document: dict[str, Any]) -> str | None:  # noqa: ARG002
        """Any text may have something to say."""
        return None

    def speak(self, plans: Sequence[Plan], parts: Path) -> list[list[SpanResult]]:
        """Spans of all documents side by side."""
        requests = [plan.requests() for plan in plans]
        flat = list(chain.from_iterable(requests))
        results = iter(list(self._parts(flat, parts)))
        return [[next(results) for _ in some] for some in requests]

    def _parts(self, requests: Sequence[SpanRequest], parts: Path) -> Iterator[SpanResult]:
        """Results part by part, from an earlier run's files where there are some."""
        for number, first in enumerate(range(0, len(requests), _SPANS_PER_PART)):
            asked = requests[first : first + _SPANS_PER_PART]
            path = parts.with_name(f"{parts.name}.spans-{number:03d}")
            if not path.is_file():
                _keep(self._speaker.synthesise(asked), path)
            yield from _kept(asked, path)


def _keep(results: Sequence[SpanResult], path: Path) -> None:
    """Write results so that they are there whole or not at all."""
    columns = {
        "codes": [one.codes for one in results],
        "reason": [one.reason for one in results],
        "attempts": [one.attempts for one in results],
        "refusals": [one.refusals for one in results],
        "drawn_tokens": [one.drawn_tokens for one in results],
    }
    with written_whole(path) as partial:
        pq.write_table(pa.table(columns, schema=_PART), partial)


def _kept(requests: Sequence[SpanRequest], path: Path) -> Iterator[SpanResult]:
    """Read results back."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    others = (table[name].to_pylist() for name in _PART.names[1:])
    for request, codes, reason, attempts, refusals, drawn in zip(
        requests, table["codes"], *others, strict=True
    ):
        yield SpanResult(
            request.span_id,
            codes.values.to_numpy(),
            reason,
            attempts,
            refusals=tuple(refusals),
            drawn_tokens=drawn,
        )


class Recorded:
    """Spans cut out of recordings at the times of their words (P2).

    A silence between a word that is spoken and one that stays text is halved between them.
    """

    def __init__(self, max_word_frames: int) -> None:
        self._max_word_frames = max_word_frames

    def refusal(self, document: dict[str, Any]) -> str | None:
        """Why an utterance cannot be cut: its words have no times, other words, or wild times.

        Neighbours share a code where one ends and the next begins within it.
        """
        words = document["words"]
        if not words:
            return "no word times"
        if len(words) != len(find_words(document["text"])):
            return "word times do not fit the text"
        starts, stops = ([word[edge] for word in words] for edge in ("start", "stop"))
        is_wild = sorted(starts) != starts or sorted(stops) != stops
        is_wild = is_wild or stops[-1] > len(document["codes"])
        longest = max(word["stop"] - word["start"] for word in words)
        return "not aligned" if is_wild or longest > self._max_word_frames else None

    def speak(self, plans: Sequence[Plan], parts: Path) -> list[list[SpanResult]]:  # noqa: ARG002
        """Codes of each span's words."""
        return [list(self._cut(plan)) for plan in plans]

    def _cut(self, plan: Plan) -> Iterator[SpanResult]:
        words, codes = plan.document["words"], plan.document["codes"]
        for name, start, stop in zip(plan.span_ids, plan.words.start, plan.words.stop, strict=True):
            first = _edge(words, int(start)) if start else 0
            last = _edge(words, int(stop)) if stop < len(words) else len(codes)
            part = np.array(codes[first:last], np.int32)
            yield SpanResult(name, part, reason="" if len(part) else "no frame", attempts=1)


def _edge(words: Sequence[dict[str, int]], at: int) -> int:
    """The middle of the silence before a word, in frames."""
    return (words[at - 1]["stop"] + words[at]["start"]) // 2


def sample(results: Sequence[SpanResult], count: int) -> list[int]:
    """Places of spoken spans that are read back, chosen by their ids."""
    spoken = [at for at, one in enumerate(results) if one.accepted]
    spoken.sort(key=lambda at: hashlib.sha256(results[at].span_id.encode()).digest())
    return sorted(spoken[:count])
