"""The peer of the interleaving benchmark, re-stated, cuts documents as ours does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from interloom.interleaving.sampling import choose_spans, document_stream

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "interleaving.py"
WORDS = 400


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interleaving_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_give_valid_spans_of_the_same_share_and_mean(benchmark: ModuleType) -> None:
    rule = benchmark.RULE
    theirs = [
        np.array(benchmark.pick_spans(WORDS, np.random.Generator(np.random.Philox(key=at))))
        for at in range(80)
    ]
    ours = [
        np.stack([one.start, one.stop], axis=1)
        for at in range(80)
        if (one := choose_spans(WORDS, rule, document_stream(0, str(at))))
    ]

    for side in (theirs, ours):
        assert all((spans[:, 0] < spans[:, 1]).all() for spans in side)
        assert all((spans[1:, 0] > spans[:-1, 1]).all() for spans in side)
        assert all(spans[0, 0] >= 0 and spans[-1, 1] <= WORDS for spans in side)
    shares, means = zip(*(statistics(side) for side in (theirs, ours)), strict=True)
    assert shares == pytest.approx([rule.ratio] * 2, abs=0.02)
    assert means[0] == pytest.approx(means[1], abs=0.6)


def statistics(side: list[np.ndarray]) -> tuple[float, float]:
    """Share of the words that are spoken, and mean length of a span."""
    lengths = np.concatenate([spans[:, 1] - spans[:, 0] for spans in side])
    return float(lengths.sum()) / (WORDS * len(side)), float(lengths.mean())


def test_both_give_the_same_ids_for_the_same_spans(benchmark: ModuleType) -> None:
    documents = benchmark.make_documents(40, 3)
    texts = [" ".join(document["words"]) for document in documents]
    tokenizer = benchmark.TextTokenizer.train(texts, vocab_size=400)
    layout = benchmark.VocabularyLayout(
        tokenizer.vocab_size, benchmark.NUM_CODES, "a" * 64, "b" * 64
    )
    made = benchmark.Provenance("poisson-1", "c", "b" * 64, 0, "fp32", "none")
    weaver = benchmark.Weaver(tokenizer, layout, made)
    peer = benchmark.StringInterleaver(tokenizer, layout)

    benchmark.require_equal_ids(documents, weaver, peer)
    documents[0]["text"] = documents[0]["text"].upper()
    with pytest.raises(SystemExit, match="document 0: the ids differ"):
        benchmark.require_equal_ids(documents, weaver, peer)
