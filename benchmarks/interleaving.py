"""Interleaving to joint ids: offset integers against speech tokens as strings.

The peer is slamkit's Poisson interleaver, re-stated from its description: spans are picked one by
one from a list of eligible places that is rebuilt for each draw, speech tokens are written as
``<Un7>`` into a string, and a Hugging Face tokenizer turns the string into ids. Before anything is
measured, both must give the same ids for the same spans, and spans of the same share and mean.

Words follow Zipf's law, as those of a real text do. Measured is processor time of one thread, since
that is what a corpus costs. Our own rate is also told by the length of documents.

    python benchmarks/interleaving.py
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from _sides import OURS, compared, rates_in_turns, show
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.weaving import Plan, Provenance, Weaver, plan_document
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.spans import SpanResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

TURNS = 5
NUM_CODES = 1024
RULE = SpanRule(ratio=0.3, mean_words=10, max_words=41)
POLICY = Poisson("poisson-1", RULE)
CONFIGS = ({"words": 400, "documents": 200}, {"words": 8000, "documents": 10})
LENGTHS = (500, 5_000, 50_000)  # words of a document, for our own cost per word
WORDS_EACH = 200_000

Spans = Sequence[tuple[int, int]]
Document = dict[str, object]


def make_documents(words: int, documents: int) -> list[Document]:
    """Texts of random words, with the codes of each word."""
    rng = np.random.Generator(np.random.Philox(key=words))
    made: list[Document] = []
    vocabulary = make_vocabulary()
    for number in range(documents):
        drawn = [vocabulary[at] for at in np.minimum(rng.zipf(1.2, words), len(vocabulary)) - 1]
        codes = list(rng.integers(NUM_CODES, size=(words, 4)).astype(np.int32))
        made.append({"id": str(number), "text": " ".join(drawn), "words": drawn, "codes": codes})
    return made


def make_vocabulary() -> list[str]:
    """Ten thousand words of syllables; a few of them are most of the text."""
    rng = np.random.Generator(np.random.Philox(key=7))
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    made: dict[str, None] = {}
    while len(made) < 10_000:
        parts = rng.integers(len(syllables), size=int(rng.integers(1, 5)))
        made["".join(syllables[at] for at in parts)] = None
    return sorted(made, key=len)


def pick_spans(num_words: int, rng: np.random.Generator) -> Spans:
    """The peer's picker: the list of eligible places is rebuilt for each draw."""
    taken = np.zeros(num_words, bool)
    spans: list[tuple[int, int]] = []
    target = int(np.ceil(RULE.ratio * num_words))
    while taken.sum() < target:
        eligible = [
            at for at in range(num_words) if not taken[at] and not (at > 0 and taken[at - 1])
        ]
        start = eligible[int(rng.integers(len(eligible)))]
        stop = min(start + int(rng.poisson(RULE.mean_words)), num_words)
        if stop > start and not taken[start : min(stop + 1, num_words)].any():
            taken[start:stop] = True
            spans.append((start, stop))
    return sorted(spans)


class StringInterleaver:
    """Strings first, then ids."""

    def __init__(self, text_tokenizer: TextTokenizer, layout: VocabularyLayout) -> None:
        body = json.loads(text_tokenizer_json(text_tokenizer))
        self._tokenizer = Tokenizer.from_str(json.dumps(body))
        names = [marker.value for marker in Marker] + [f"<Un{code}>" for code in range(NUM_CODES)]
        self._tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
        if self._tokenizer.token_to_id("<Un0>") != layout.speech_offset:
            raise SystemExit("the peer's vocabulary is laid out otherwise")

    def ids(self, document: Document, spans: Spans) -> list[int]:
        """Ids of a document with these spans spoken."""
        words, codes = list_of(document["words"]), list_of(document["codes"])
        parts, at = [], 0
        for start, stop in spans:
            parts.append(joined(words[at:start], at))
            units = "".join(f"<Un{code}>" for word in codes[start:stop] for code in word)
            parts.append(Marker.AUDIO_BEGIN.value + units + Marker.AUDIO_END.value)
            at = stop
        parts.append(joined(words[at:], at))
        return list(self._tokenizer.encode("".join(parts), add_special_tokens=False).ids)


def joined(words: list[str], at: int) -> str:
    """Words with their spaces; a word carries the space before it."""
    return "".join(f" {word}" if at + place else word for place, word in enumerate(words))


def list_of(value: object) -> list[str]:
    """A list that a document holds."""
    return value if isinstance(value, list) else []


def text_tokenizer_json(text_tokenizer: TextTokenizer) -> str:
    """The tokenizer's file."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        text_tokenizer.save(Path(folder) / "tokenizer.json")
        return (Path(folder) / "tokenizer.json").read_text()


def results_of(plan: Plan, codes: Sequence[NDArray[np.int32]]) -> list[SpanResult]:
    """The codes of each span's words, as synthesis would give them."""
    return [
        SpanResult(name, np.concatenate(codes[start:stop]), reason="", attempts=1)
        for name, start, stop in zip(plan.span_ids, plan.words.start, plan.words.stop, strict=True)
    ]


def run_interloom(documents: Sequence[Document], weaver: Weaver) -> pa.Table:
    """Plan and weave all documents."""
    rows = [dict.fromkeys(("split", "source", "licence"), "") | one for one in documents]
    plans = [plan_document(row, POLICY, seed=0) for row in rows]
    results = [results_of(plan, plan.document["codes"]) for plan in plans]
    return weaver.weave(plans, results)


def run_strings(documents: Sequence[Document], peer: StringInterleaver) -> list[list[int]]:
    """Pick and write all documents."""
    made = []
    for number, document in enumerate(documents):
        rng = np.random.Generator(np.random.Philox(key=number))
        made.append(peer.ids(document, pick_spans(len(list_of(document["words"])), rng)))
    return made


def require_equal_ids(
    documents: Sequence[Document], weaver: Weaver, peer: StringInterleaver
) -> None:
    """The same spans must give the same ids on both sides."""
    ours = run_interloom(documents, weaver)
    for document, row in zip(documents, ours.select(["ids", "spans"]).to_pylist(), strict=True):
        spans = [(one["word_start"], one["word_stop"]) for one in row["spans"]]
        if row["ids"] != peer.ids(document, spans):
            raise SystemExit(f"document {document['id']}: the ids differ")


def compare(
    words: int, documents: int, weaver: Weaver, peer: StringInterleaver
) -> dict[str, object]:
    """Both sides in turns, in words of source text a second."""
    made = make_documents(words, documents)
    require_equal_ids(made, weaver, peer)
    sides: dict[str, Callable[[], object]] = {
        OURS: lambda: run_interloom(made, weaver),
        "strings": lambda: run_strings(made, peer),
    }
    rates = rates_in_turns(sides, words * documents, TURNS, time.process_time)
    return {"words": words, "documents": documents} | compared(rates)


def cost_by_length(weaver: Weaver) -> dict[str, int]:
    """Our own words a second for documents of several lengths."""
    made = {words: make_documents(words, WORDS_EACH // words) for words in LENGTHS}
    tasks = {
        str(words): partial(run_interloom, documents, weaver) for words, documents in made.items()
    }
    rates = rates_in_turns(tasks, WORDS_EACH, TURNS, time.process_time)
    return {words: round(statistics.median(values)) for words, values in rates.items()}


def main() -> None:
    """Print one line a length, then the figure as JSON."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer_texts = [" ".join(list_of(one["words"])) for one in make_documents(5000, 4)]
    text_tokenizer = TextTokenizer.train(tokenizer_texts, vocab_size=4000)
    layout = VocabularyLayout(text_tokenizer.vocab_size, NUM_CODES, "a" * 64, "b" * 64)
    made = Provenance("poisson-1", "text_to_token_model:c", "b" * 64, 0, "fp32", "none")
    weaver = Weaver(text_tokenizer, layout, made)
    peer = StringInterleaver(text_tokenizer, layout)
    configs = [compare(**config, weaver=weaver, peer=peer) for config in CONFIGS]
    by_length = cost_by_length(weaver)
    show(
        "interleaving",
        "words/s of processor time",
        configs,
        interloom_by_words_of_a_document=by_length,
    )


if __name__ == "__main__":
    main()
