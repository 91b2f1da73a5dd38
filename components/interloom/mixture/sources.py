"""The sources of P1 as examples in joint ids (spec sections 5.1 and 8.5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from interloom.core.errors import DataError
from interloom.mixture.examples import Example, Ids
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Marker, VocabularyLayout

_BATCH = 512

Rows = Iterable[Mapping[str, Any]]


def text_examples(
    rows: Rows, layout: VocabularyLayout, text_tokenizer: TextTokenizer
) -> Iterator[Example]:
    """``text <|endoftext|>``; the loss is on all of it."""
    for row, ids in _encoded(rows, text_tokenizer):
        yield Example.after(row["id"], _join(ids, layout, Marker.DOCUMENT_END), 1, row["licence"])


def speech_examples(rows: Rows, layout: VocabularyLayout) -> Iterator[Example]:
    """``<|begin_of_audio|> codes <|end_of_audio|>``; the loss is on all of it."""
    for row in rows:
        yield Example.after(row["id"], _audio(row, layout), 1, row["licence"])


def transcribe_examples(
    rows: Rows, layout: VocabularyLayout, text_tokenizer: TextTokenizer
) -> Iterator[Example]:
    """``<|transcribe|> audio text <|endoftext|>``; the loss is on the text and what ends it."""
    for row, ids in _encoded(rows, text_tokenizer):
        yield transcription(row["id"], _audio(row, layout), ids, layout, licence=row["licence"])


def transcription(
    name: str, audio: Ids, text_ids: Sequence[int], layout: VocabularyLayout, *, licence: str
) -> Example:
    """Wrapped speech that is to be written down; the loss is on the text and what ends it."""
    prompt = _join(Marker.ASR, layout, audio)
    whole = np.concatenate([prompt, _join(list(text_ids), layout, Marker.DOCUMENT_END)])
    return Example.after(name, whole, len(prompt), licence)


def speak_examples(
    rows: Rows, layout: VocabularyLayout, text_tokenizer: TextTokenizer
) -> Iterator[Example]:
    """``<|speak|> text audio``; the loss is on the audio with both its markers."""
    for row, ids in _encoded(rows, text_tokenizer):
        prompt = _join(Marker.TTS, layout, ids)
        whole = np.concatenate([prompt, _audio(row, layout)])
        yield Example.after(row["id"], whole, len(prompt), row["licence"])


def interleaved_examples(rows: Rows, layout: VocabularyLayout) -> Iterator[Example]:
    """``row <|endoftext|>`` of rows that already are joint ids; the loss is on all of it.

    Raises:
        DataError: An id is outside the layout.
    """
    for row in rows:
        ids = np.asarray(row["ids"], np.int32)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < layout.size:
            raise DataError(
                f"interleaved row {row['id']!r} has ids in [{ids.min()}, {ids.max()}], the layout "
                f"holds [0, {layout.size}); make it again with this text tokenizer and codebook"
            )
        yield Example.after(row["id"], _join(ids, layout, Marker.DOCUMENT_END), 1, row["licence"])


def _encoded(
    rows: Rows, text_tokenizer: TextTokenizer
) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Each row with the ids of its text, encoded in batches."""
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        yield from zip(
            batch, text_tokenizer.encode_batch([row["text"] for row in batch]), strict=True
        )


def _audio(row: Mapping[str, Any], layout: VocabularyLayout) -> Ids:
    try:
        return layout.wrap_audio(np.asarray(row["codes"], np.int32))
    except DataError as error:
        raise DataError(f"utterance {row['id']!r}: {error}") from error


def _join(
    first: Marker | list[int] | Ids, layout: VocabularyLayout, second: Marker | list[int] | Ids
) -> Ids:
    """Two parts, each a marker or ids, as one array."""
    parts = [
        [layout.marker(part)] if isinstance(part, Marker) else part for part in (first, second)
    ]
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
