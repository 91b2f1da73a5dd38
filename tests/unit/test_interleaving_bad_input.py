"""Texts that nobody would speak: each is handled by a rule and counted, none vanishes."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interloom.config.interleaving import InterleavingConfig, PoissonSpans, QualityLimits
from interloom.corpora.units import Unit
from interloom.interleaving.making import Made, UnitMaker, read_made
from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.speaking import Synthesised
from interloom.interleaving.weaving import Provenance, Weaver
from interloom.quality.interleaved import EXPECTATIONS, IDENTITIES, AlignmentCheck, Target
from interloom.quality.shards import Natural
from interloom.testing.gate import PlainGate
from interloom.text.bpe import TextTokenizer
from interloom.text.speakable import has_letter, speakable, symbol_share
from interloom.text.words import word_equivalents
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.vocabulary.layout import VocabularyLayout

TOKENIZER = TextTokenizer.train(["the cat sat on the mat"] * 3, vocab_size=270)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, 512, "a" * 64, "b" * 64)
MADE = Provenance("poisson-1", "test", "b" * 64, 0, "fp32", "test")
CONFIG = InterleavingConfig(
    policy=PoissonSpans(mean_words=4), quality=QualityLimits(), decontamination=None
)
PROSE = "the cat sat on the mat and saw a dog. "


class GuardedSpeaker:
    """Four codes a word, never twice alike; what no voice can say is refused."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span."""
        return [self._speak(span) for span in spans]

    def _speak(self, span: SpanRequest) -> SpanResult:
        words = word_equivalents(speakable(span.text))
        none = np.zeros(0, np.int32)
        if not has_letter(span.text) or symbol_share(span.text) > 0.05:
            return SpanResult(span.span_id, none, reason="unpronounceable", attempts=0)
        if 4 * words > CONFIG.synthesis.max_tokens:
            return SpanResult(span.span_id, none, reason="text too long", attempts=0)
        seed = zlib.crc32(span.text.encode())
        codes = np.random.Generator(np.random.Philox(key=seed)).integers(512, size=round(4 * words))
        return SpanResult(span.span_id, codes.astype(np.int32), reason="", attempts=1)


def made_of(texts: Sequence[str], folder: Path) -> Made:
    rows: list[dict[str, Any]] = [
        {"id": f"d{at}", "split": "train", "text": text, "source": "s", "licence": "CC0-1.0"}
        for at, text in enumerate(texts)
    ]
    maker = UnitMaker(
        config=CONFIG,
        source=Synthesised(GuardedSpeaker()),
        policy=Poisson("poisson-1", SpanRule(0.3, 4, 41)),
        weaver=Weaver(TOKENIZER, LAYOUT, MADE),
        text_tokenizer=TOKENIZER,
        contamination=None,
        natural=Natural(0.0),
        judge=None,
        seed=0,
    )
    unit = Unit(0, ())
    maker.make(rows, unit, folder)
    return read_made(folder / unit.name)


def broken(made: Made) -> list[str]:
    origin: dict[str, str | int] = {"tokenizer": "b" * 64, "made_by": "test"}
    check = AlignmentCheck(TOKENIZER, LAYOUT, CONFIG.synthesis, Target(0.3), origin)
    verdicts = PlainGate().judge(
        "s",
        (*EXPECTATIONS, *IDENTITIES),
        check.summarise(made.table),
        made.table["id"].to_pylist(),
    )
    return [one.expectation for one in verdicts if not one.success]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no words"),
        (" \n\t\u3000\x85 ", "no words"),
        ("too short", "too short"),
        ("\U0001f600 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f680 \U0001f389", "nothing spoken"),
        ("| --- | --- | === | +++ | *** |", "nothing spoken"),
        ("for(i=0;i<n;++i){a[i]=b[i]^0x1f;} " * 4, "nothing spoken"),
        ("x" * 30_000 + " " + "y" * 30_000 + " z" * 2, "nothing spoken"),
    ],
)
def test_what_cannot_be_spoken_is_left_out_with_its_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    made = made_of([text], tmp_path)

    assert made.table.num_rows == 0
    assert {why: n for why, n in made.tally.left_out.items() if n} == {reason: 1}


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 3 + "1234567890" * 4,
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u200f\u202bmixed\u202c \u05d0",
        "zero\u200bwidth \u200d joined \ufeff words \u2060 and \u00adsoft hyphens here",
        "\u6211\u4eca\u5929\u53bb\u5b66\u6821\u3002\u4f60\u5462\uff1f\u6211\u4e0d\u53bb\u3002",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
        "e\u0301clair cafe\u0301 nai\u0308ve re\u0301sume\u0301 one two three",
        "a\x1cb c\x00d e\x85f one two three four",
    ],
)
def test_whatever_is_spoken_is_whole(tmp_path: Path, text: str) -> None:
    made = made_of([text, PROSE], tmp_path)

    assert made.table.num_rows + sum(made.tally.left_out.values()) == 2
    assert broken(made) == []


@pytest.mark.slow
def test_a_line_of_megabytes_is_one_document_like_another(tmp_path: Path) -> None:
    text = PROSE * (1_000_000 // len(PROSE))

    made = made_of([text], tmp_path)

    assert made.table["num_words"].to_pylist() == [len(text.split())]
    assert made.sums["ratio_difference"] == 0
    assert broken(made) == []
