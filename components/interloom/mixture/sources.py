"""The sources of P1 as examples in joint ids (spec sections 5.1 and 8.5)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from interloom.core.errors import DataError
from interloom.mixture.alignment import Aligner, Begins
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


def speech_examples(
    rows: Rows, layout: VocabularyLayout, aligner: Aligner | None = None
) -> Iterator[Example]:
    """``<|begin_of_audio|> codes <|end_of_audio|>``; the loss is on all of it.

    Here as below, an aligner, which wants ``text`` and ``words`` of the rows, says what begins with
    each token.
    """
    for row in rows:
        audio = _audio(row, layout)
        begins = _begins(row, 1, len(audio), aligner)
        yield Example.after(row["id"], audio, 1, row["licence"], begins)


def transcribe_examples(
    rows: Rows,
    layout: VocabularyLayout,
    text_tokenizer: TextTokenizer,
    aligner: Aligner | None = None,
) -> Iterator[Example]:
    """``<|transcribe|> audio text <|endoftext|>``; the loss is on the text and what ends it."""
    for row, ids in _encoded(rows, text_tokenizer):
        audio, licence = _audio(row, layout), row["licence"]
        made = transcription(row["id"], audio, ids, layout, licence=licence)
        yield replace(made, begins_T=_begins(row, 2, len(made.ids_T), aligner))


def transcription(
    name: str, audio: Ids, text_ids: Sequence[int], layout: VocabularyLayout, *, licence: str
) -> Example:
    """Wrapped speech that is to be written down; the loss is on the text and what ends it."""
    prompt = _join(Marker.ASR, layout, audio)
    whole = np.concatenate([prompt, _join(list(text_ids), layout, Marker.DOCUMENT_END)])
    return Example.after(name, whole, len(prompt), licence)


def speak_examples(
    rows: Rows,
    layout: VocabularyLayout,
    text_tokenizer: TextTokenizer,
    aligner: Aligner | None = None,
) -> Iterator[Example]:
    """``<|speak|> text audio``; the loss is on the audio with both its markers."""
    for row, ids in _encoded(rows, text_tokenizer):
        prompt = _join(Marker.TTS, layout, ids)
        whole = np.concatenate([prompt, _audio(row, layout)])
        begins = _begins(row, len(prompt) + 1, len(whole), aligner)
        yield Example.after(row["id"], whole, len(prompt), row["licence"], begins)


def interleaved_examples(
    rows: Rows, layout: VocabularyLayout, aligner: Aligner | None = None
) -> Iterator[Example]:
    """``row <|endoftext|>`` of rows that already are joint ids; the loss is on all of it.

    Args:
        rows: Of table ``INTERLEAVED``; with ``text`` and ``spans`` if they are to be aligned.
        layout: That of their ids; of the plain one, if it has units.
        aligner: Says what begins in the codes of a span.

    Raises:
        DataError: An id is outside the layout.
    """
    for row in rows:
        ids = np.asarray(row["ids"], np.int32)
        size = layout.plain.size
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise DataError(
                f"interleaved row {row['id']!r} has ids in [{ids.min()}, {ids.max()}], the layout "
                f"holds [0, {size}); make it again with this text tokenizer and codebook"
            )
        whole = _join(layout.from_plain(ids), layout, Marker.DOCUMENT_END)
        begins = None if aligner is None else _span_begins(row, ids, layout, aligner)
        yield Example.after(row["id"], whole, 1, row["licence"], begins)


def _span_begins(
    row: Mapping[str, Any], ids: Ids, layout: VocabularyLayout, aligner: Aligner
) -> Begins:
    """What begins in the spoken spans of an interleaved row and in the marker after it."""
    begins, data = np.zeros(len(ids) + 1, np.uint8), row["text"].encode()
    for span in row["spans"]:
        if span["num_codes"]:
            first, last = span["id_start"] + 1, span["id_stop"] - 1
            text = data[span["byte_start"] : span["byte_stop"]].decode()
            codes = layout.codes(ids[first:last])
            begins[first:last] = aligner.begins(span["span_id"], codes, text)
    return begins


def _begins(
    row: Mapping[str, Any], first: int, length: int, aligner: Aligner | None
) -> Begins | None:
    """What begins in an example whose codes begin at ``first``."""
    if aligner is None:
        return None
    codes, begins = np.asarray(row["codes"], np.int32), np.zeros(length, np.uint8)
    known = aligner.begins(row["id"], codes, row["text"], row["words"])
    begins[first : first + len(codes)] = known
    return begins


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
