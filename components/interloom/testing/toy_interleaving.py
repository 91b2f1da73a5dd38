"""Interleaving of the toy language without a model: a corpus goes its whole way in a second."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interloom.config.interleaving import (
    Decontamination,
    InterleavingConfig,
    PoissonSpans,
    QualityLimits,
)
from interloom.config.text_to_token import SynthesisConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.fan_out import Make, make_units
from interloom.corpora.tables import (
    DOCUMENTS,
    read_table,
    write_table,
)
from interloom.interleaving.decontamination import Contamination
from interloom.interleaving.judging import ShardJudge
from interloom.interleaving.making import UnitMaker, is_made
from interloom.interleaving.policies import Poisson, make_policy
from interloom.interleaving.speaking import Synthesised
from interloom.interleaving.units import Corpus, Taking
from interloom.interleaving.weaving import Provenance, Weaver
from interloom.interleaving.writing import Written, write_shards
from interloom.ports.progress import NoProgress
from interloom.ports.store import ArtifactStore
from interloom.quality.interleaved import AlignmentCheck, Target
from interloom.quality.shards import Natural
from interloom.testing import toy_speech
from interloom.testing.gate import PlainGate
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import VocabularyLayout

SYNTHESIS = SynthesisConfig(num_slots=8, max_tokens_per_word=16)
QUALITY = QualityLimits(ratio_tolerance=0.2, error_sample=0)
CONFIG = InterleavingConfig(
    documents_per_shard=16,
    policy=PoissonSpans(mean_words=4),
    quality=QUALITY,
    decontamination=None,
    synthesis=SYNTHESIS,
)
DOCUMENT_ROWS = [
    toy_speech.document_row(at, num_words=2 + at % 30, may_interleave=at % 5 > 0)
    for at in range(60)
]
TOKENIZER = TextTokenizer.train([row["text"] for row in DOCUMENT_ROWS], vocab_size=280)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, "a" * 64, "b" * 64)


def changed(**changes: Any) -> InterleavingConfig:
    """The configuration with other values."""
    return CONFIG.model_copy(update=changes)


def limited(**changes: Any) -> InterleavingConfig:
    """The configuration with other limits of quality."""
    return changed(quality=QUALITY.model_copy(update=changes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a corpus."""

    written: Written
    rows: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    ref: ArtifactRef
    store: ArtifactStore

    def json(self, path: str) -> dict[str, Any]:
        """A report of the artifact."""
        shard = self.store.manifest(self.ref).shard(path)
        return dict(json.loads(self.store.local_path(shard).read_bytes()))


def run(
    speaker: toy_speech.ToySpeaker,
    folder: Path,
    config: InterleavingConfig = CONFIG,
    documents: Sequence[dict[str, Any]] = DOCUMENT_ROWS,
    *,
    num_workers: int = 1,
    evaluation: Sequence[str] = (),
) -> Outcome:
    """Interleave documents as the stage does, with units that a folder keeps between calls."""
    store = MemoryStore()
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        write_table(draft, "documents", DOCUMENTS, documents, rows_per_shard=25)
        text = draft.commit(licences=["CC0-1.0"])
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            TOKENIZER.save(shard.path)
        text_tokenizer = draft.commit()
    layout = dataclasses.replace(LAYOUT, text_tokenizer=text_tokenizer.id)
    facts = {
        "layout": layout.to_dict(),
        "made_by": "toy",
        "seed": 0,
        "synthesis": config.synthesis.model_dump(mode="json"),
        "tokenizer": LAYOUT.tokenizer,
    }
    taking = Taking(
        share=config.document_share,
        seed=0,
        max_documents=config.max_documents,
        unit_documents=config.documents_per_shard,
        unit_bytes=config.shard_bytes,
    )
    corpus = Corpus(store, text, "documents", taking)
    policy = make_policy(config.policy, 20)
    made = Provenance(policy.name, "toy", LAYOUT.tokenizer, 0, "fp32", "toy")

    def build() -> Make:
        maker = UnitMaker(
            config=config,
            source=Synthesised(speaker),
            policy=policy,
            weaver=Weaver(TOKENIZER, LAYOUT, made),
            text_tokenizer=TOKENIZER,
            contamination=Contamination(evaluation, config.decontamination or Decontamination()),
            natural=Natural(0.0),
            judge=None,
            seed=0,
        )
        return lambda unit: maker.make(corpus.read(unit), unit, shards)

    origin: dict[str, str | int] = {
        "made_by": "toy",
        "tokenizer": LAYOUT.tokenizer,
        "policy": policy.name,
        "seed": 0,
    }
    target = Target(None if not isinstance(policy, Poisson) else policy.rule.ratio)
    check = AlignmentCheck(TOKENIZER, LAYOUT, config.synthesis, target, origin)
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    units = make_units(
        corpus.units(),
        build,
        is_made=lambda one: is_made(shards / one.name),
        num_workers=num_workers,
    )
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        judge = ShardJudge(PlainGate(), check, config.quality)
        written = write_shards(units, shards, judge, draft, NoProgress())
        ref = draft.commit(
            parents=[text, text_tokenizer],
            licences=sorted(written.licences),
            facts=facts | {"policy": config.policy.model_dump(mode="json")},
        )
    rows, quarantine = (
        list(read_table(store, ref, name)) for name in ("interleaved", "quarantine")
    )
    return Outcome(written, rows, quarantine, ref, store)


def failed(outcome: Outcome, severity: str = "fail") -> list[str]:
    """The checks that do not hold."""
    return [
        one.expectation
        for one in outcome.written.checks
        if not one.success and one.severity == severity
    ]
