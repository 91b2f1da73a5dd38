"""Interleave: choose spans of words, speak them, weave them into the text, judge the rows."""

import math
from typing import TYPE_CHECKING, Literal

from interloom.config.interleaving import InterleavingConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.core.errors import DataError
from interloom.core.spans import FrameClock
from interloom.ports.catalog import Metric
from interloom.ports.gate import CheckResult, QualityGate
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.interleaving.sampling import SpanRule
    from interloom.interleaving.writing import Interleaver, Tally
    from interloom.text_to_token.runtime import Judge, TextToToken
    from interloom.vocabulary.layout import VocabularyLayout

_SAMPLE_RATE_HZ = 16_000
_ENGINE = "slots of one capacity, torch"
_PRECISION = "fp32"
_NAMED = 5  # rows that an error names


class InterleaveRequest(StageRequest):
    """All that the interleaved rows depend on."""

    text: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    config: InterleavingConfig = InterleavingConfig()
    seed: int = 0
    version: Literal[1] = 1


class InterleaveResult(StageResult):
    """The interleaved rows that passed the gate.

    Attributes:
        interleaved: Table ``interleaved`` of schema ``INTERLEAVED``, and ``quarantine.json``: the
            rows left out, with the checks they broke.
    """

    interleaved: ArtifactRef


def interleave(
    request: InterleaveRequest, *, store: ArtifactStore, work: Workspace, gate: QualityGate
) -> InterleaveResult:
    """Weave the documents of the ``train`` split that may be interleaved.

    Raises:
        DataError: The model was made for other tokenizers, too many rows broke a check, or a
            manifest, of the text or of the rows, did.
    """
    from interloom.corpora.tables import INTERLEAVED, read_table, write_table
    from interloom.quality.manifests import judge_manifest

    checks = _passed(judge_manifest(request.text, store=store, gate=gate))
    model = _load(request, store, work)
    interleaver = _interleaver(request, model, gate)
    rule = _rule(request.config, store.manifest(request.tokenizer).facts["samples_per_token"])
    documents = read_table(store, request.text, "documents", split="train")
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        rows = interleaver.rows(documents, rule, work)
        write_table(draft, "interleaved", INTERLEAVED, rows)
        tally = interleaver.tally
        with draft.shard("quarantine.json") as shard:
            shard.path.write_bytes(canonical_json(tally.quarantined))
            shard.count(quarantined=len(tally.quarantined))
        checks += _passed(interleaver.verdicts())
        ref = _commit(draft, request, tally, model.prompter.layout)
    checks += _passed(judge_manifest(ref, store=store, gate=gate))
    return InterleaveResult(interleaved=ref, metrics=_metrics(tally), checks=checks)


def _load(request: InterleaveRequest, store: ArtifactStore, work: Workspace) -> "TextToToken":
    """The model, checked to be of this request's tokenizers."""
    from interloom.text_to_token.runtime import load_text_to_token

    synthesis = request.config.synthesis
    model = load_text_to_token(
        store,
        request.text_to_token,
        config=synthesis,
        seed=request.seed,
        judge=_judge(request, store) if synthesis.judged_share else None,
        progress=work.progress,
    )
    layout = model.prompter.layout
    for name, held, asked in (
        ("speech tokenizer", layout.tokenizer, request.tokenizer.id),
        ("text tokenizer", layout.text_tokenizer, request.text_tokenizer.id),
    ):
        if held != asked:
            raise DataError(
                f"{request.text_to_token} was trained with {name} {held[:12]}, but the rows are "
                f"for {asked[:12]}; train it again with this one"
            )
    return model


def _judge(request: InterleaveRequest, store: ArtifactStore) -> "Judge":
    """The reading head of the speech tokenizer."""
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer

    return load_speech_tokenizer(store, request.tokenizer).read


def _rule(config: InterleavingConfig, samples_per_token: int) -> "SpanRule":
    """The longest span is as many words as surely fit into its seconds."""
    from interloom.interleaving.sampling import SpanRule

    rate_hz = float(FrameClock(_SAMPLE_RATE_HZ, samples_per_token).frame_rate_hz)
    codes = min(config.max_span_seconds * rate_hz, config.synthesis.max_tokens)
    most = codes / config.synthesis.max_tokens_per_word
    return SpanRule(config.speech_ratio, config.mean_span_words, max(1, math.floor(most)))


def _interleaver(
    request: InterleaveRequest, model: "TextToToken", gate: QualityGate
) -> "Interleaver":
    """The parts, put together."""
    from interloom.interleaving.weaving import Weaver
    from interloom.interleaving.writing import Interleaver
    from interloom.quality.interleaved import AlignmentCheck

    text_tokenizer, layout = model.prompter.text_tokenizer, model.prompter.layout
    return Interleaver(
        request.config,
        model,
        Weaver(text_tokenizer, layout),
        AlignmentCheck(text_tokenizer, layout, request.config.synthesis),
        gate=gate,
        seed=request.seed,
    )


def _passed(verdicts: tuple[CheckResult, ...]) -> tuple[CheckResult, ...]:
    """The verdicts, if all held."""
    for one in verdicts:
        if not one.success:
            rows = ", ".join(one.failed_rows[:_NAMED])
            raise DataError(
                f"{one.suite}: {one.expectation!r} does not hold of {rows}: {one.observed}"
            )
    return verdicts


def _commit(
    draft: ArtifactDraft, request: InterleaveRequest, tally: "Tally", layout: "VocabularyLayout"
) -> ArtifactRef:
    """Store the rows with all that says how their codes were made."""
    config = request.config
    return draft.commit(
        parents=tuple(request.inputs().values()),
        licences=sorted(tally.licences),
        facts={
            "engine": _ENGINE,
            "made_by": "text_to_token",
            "layout": layout.to_dict(),
            "mean_span_words": config.mean_span_words,
            "precision": _PRECISION,
            "seed": request.seed,
            "speech_ratio": config.speech_ratio,
            "synthesis": config.synthesis.model_dump(mode="json"),
            "text_to_token": request.text_to_token.id,
            "tokenizer": request.tokenizer.id,
            "vocabulary": layout.digest,
        },
    )


def _metrics(tally: "Tally") -> tuple[Metric, ...]:
    """Shares and counts of the whole."""
    from interloom.corpora.interleaved import SPOKEN

    spans = tally.outcomes.total()
    spoken = tally.outcomes[SPOKEN]
    values = {
        "documents": tally.documents,
        "rows": len(tally.row_ids),
        "quarantined": len(tally.quarantined),
        "speech_share": tally.codes / tally.ids,
        "word_ratio": tally.spoken_words / tally.words,
        "tokens_per_word": tally.codes / tally.spoken_words,
        "speech_tokens": tally.codes,
        "spans": spans,
        "spans_accepted": spoken,
        "spans_retried": tally.retried,
        "spans_fallen_back": spans - spoken,
    }
    refused = {
        f"refused/{reason.replace(' ', '_')}": count
        for reason, count in sorted(tally.outcomes.items())
        if reason != SPOKEN
    }
    return tuple(
        Metric(f"interleave/{name}", float(value)) for name, value in (values | refused).items()
    )
