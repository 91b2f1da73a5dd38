"""Interleave: choose spans of words, speak them, weave them into the text, judge the rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from interloom.config.interleaving import InterleavingConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.gate import CheckResult, QualityGate
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.ports.workspace import Part, Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.corpora.units import Unit
    from interloom.interleaving.building import Workshop
    from interloom.interleaving.units import Corpus
    from interloom.interleaving.writing import Written

_NAMED = 5  # rows that an error names
_SHARDS = "shards"  # in the workspace


class InterleaveRequest(StageRequest):
    """All that the interleaved rows depend on.

    ``tokens`` is real speech: what recorded spans are cut from, and what the pace of synthesised
    ones is compared with. ``tasks`` and the held-out part of ``tokens`` are what no row may hold.
    """

    text: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    tokens: ArtifactRef | None = None
    tasks: ArtifactRef | None = None
    config: InterleavingConfig = InterleavingConfig()
    seed: int = 0
    version: Literal[2] = 2


class InterleaveResult(StageResult):
    """The interleaved rows that passed the gate.

    Attributes:
        interleaved: Table ``interleaved`` of schema ``INTERLEAVED``; table ``quarantine`` and
            ``quarantine.json``: the rows left out, with the checks they broke; ``report.json``: the
            verdict on each shard, with its sums and distributions.
    """

    interleaved: ArtifactRef


def interleave(
    request: InterleaveRequest, *, store: ArtifactStore, work: Workspace, gate: QualityGate
) -> InterleaveResult:
    """Weave the documents of the ``train`` split that may be interleaved.

    A check that fails the whole is in the result, so that the catalog keeps the verdicts of a run
    that is not published.

    Raises:
        DataError: The model was made for other tokenizers, the text's manifest broke a check, or
            no document could be interleaved.
        TransientError: A worker died again and again.
    """
    from interloom.quality.manifests import judge_manifest

    checks = _passed(judge_manifest(request.text, store=store, gate=gate))
    workshop = _workshop(request, store)
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        written = _write(workshop, request, draft, work, gate)
        ref = _commit(draft, request, workshop, written)
    checks += written.checks + judge_manifest(ref, store=store, gate=gate)
    metrics = _metrics(written, workshop.corpus)
    return InterleaveResult(interleaved=ref, metrics=metrics, checks=checks)


def make_shards(
    request: InterleaveRequest,
    *,
    store: ArtifactStore,
    work: Workspace,
    gate: QualityGate,
    part: Part,
) -> None:
    """Make some of the shards, for ``interleave`` to judge and write."""
    from interloom.quality.manifests import judge_manifest

    _passed(judge_manifest(request.text, store=store, gate=gate))
    made = _made_units(_workshop(request, store), work, part)
    for done, _ in enumerate(made, start=1):
        work.progress.update(done, None, "shards")


def _workshop(request: InterleaveRequest, store: ArtifactStore) -> "Workshop":
    from interloom.interleaving.building import Sources, Workshop

    sources = Sources(
        text=request.text,
        text_to_token=request.text_to_token,
        tokenizer=request.tokenizer,
        text_tokenizer=request.text_tokenizer,
        tokens=request.tokens,
        tasks=request.tasks,
    )
    return Workshop(sources, request.config, seed=request.seed, store=store)


def _write(
    workshop: "Workshop",
    request: InterleaveRequest,
    draft: ArtifactDraft,
    work: Workspace,
    gate: QualityGate,
) -> "Written":
    """Make the shards that are not there yet, and write them in order."""
    from interloom.interleaving.judging import ShardJudge
    from interloom.interleaving.writing import write_shards

    judge = ShardJudge(gate, workshop.check(), request.config.quality)
    units = _made_units(workshop, work)
    return write_shards(units, work.folder / _SHARDS, judge, draft, work.progress)


def _made_units(
    workshop: "Workshop", work: Workspace, part: Part | None = None
) -> "Iterator[Unit]":
    """All units or those of a part, made in as many processes as there may be."""
    from interloom.corpora.fan_out import Make, make_units
    from interloom.interleaving.making import is_made

    folder, corpus = work.folder / _SHARDS, workshop.corpus
    folder.mkdir(exist_ok=True)

    def build() -> Make:
        maker = workshop.maker()

        def make(unit: "Unit") -> None:
            maker.make(corpus.read(unit), unit, folder)

        return make

    return make_units(
        (unit for unit in corpus.units() if part is None or part.takes(unit.index)),
        build,
        is_made=lambda unit: is_made(folder / unit.name),
        num_workers=work.num_workers,
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
    draft: ArtifactDraft, request: InterleaveRequest, workshop: "Workshop", written: "Written"
) -> ArtifactRef:
    """Store the rows with all that says how their codes were made."""
    config, made = request.config, workshop.provenance
    return draft.commit(
        parents=tuple(request.inputs().values()),
        licences=sorted(written.licences),
        facts={
            "engine": made.engine,
            "layout": workshop.layout.to_dict(),
            "made_by": made.made_by,
            "policy": config.policy.model_dump(mode="json"),
            "precision": made.precision,
            "quality": config.quality.model_dump(mode="json"),
            "seed": request.seed,
            "synthesis": config.synthesis.model_dump(mode="json"),
            "tokenizer": request.tokenizer.id,
            "vocabulary": workshop.layout.digest,
        },
    )


def _metrics(written: "Written", corpus: "Corpus") -> tuple[Metric, ...]:
    """Shares and counts of the whole."""
    from interloom.corpora.interleaved import SPOKEN

    held, tally = written.held, written.tally
    spans, spoken = tally.outcomes.total(), tally.outcomes[SPOKEN]
    tokens = held.speech_tokens + held.text_tokens + 2 * held.spans
    values = {
        "documents": tally.documents,
        "rows": held.rows,
        "quarantined": written.left_out,
        "quarantined_shards": written.quarantined,
        "speech_share": held.speech_tokens / max(1, tokens),
        "word_ratio": held.spoken_words / max(1, held.words),
        "tokens_per_word": held.speech_tokens / max(1, held.spoken_words),
        "speech_tokens": held.speech_tokens,
        "spans": spans,
        "spans_accepted": spoken,
        "spans_retried": tally.retried,
        "spans_fallen_back": spans - spoken,
        "attempts": tally.attempts,
        "drawn_tokens": tally.drawn_tokens,
    }
    reasons = {
        f"refused/{reason.replace(' ', '_')}": count
        for reason, count in sorted(tally.outcomes.items())
        if reason != SPOKEN
    }
    reasons |= {
        f"left_out/{reason.replace(' ', '_')}": count
        for reason, count in sorted((tally.left_out + corpus.not_taken).items())
    }
    reasons |= {
        f"refused_attempts/{reason.replace(' ', '_')}": count
        for reason, count in sorted(tally.refusals.items())
    }
    return tuple(
        Metric(f"interleave/{name}", float(value)) for name, value in (values | reasons).items()
    )
