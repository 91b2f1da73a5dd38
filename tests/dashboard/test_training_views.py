"""What the pages on training and on comparison show, without drawing it."""

from pathlib import Path

import numpy as np
import pytest

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.ids import new_run_id
from interloom.mixture.examples import Example
from interloom.mixture.plan import all_documents
from interloom.mixture.spooling import CutRule, spool
from interloom.mixture.writing import write_rows
from interloom.ports.catalog import Metric, Publication, RunStart, RunState
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Marker, VocabularyLayout
from interloom_dashboards import comparison, training

POINTS = (
    Metric("train/loss/text", 3.0, 10),
    Metric("train/loss/text", 2.0, 20),
    Metric("train/gradient_share/speech", 0.7, 20),
    Metric("train/token_share/source/speak", 0.1, 20),
    Metric("train/spike", 22.0, 14),
    Metric("train/spike/row/7", 9.0, 14),
    Metric("train/spike/row/3", 9.0, 14),
    Metric("telemetry/tokens_per_s", 12_345.0, 20),
    Metric("telemetry/mfu", 0.31, 20),
)


def _run(  # type: ignore[no-untyped-def]
    world, recipe: str, request: str, metrics: tuple[Metric, ...], *, job: str = "evaluate"
) -> str:
    """A complete pipeline of one stage that published a number."""
    pipeline, stage = new_run_id(), new_run_id()
    world.catalog.start_run(RunStart(pipeline, "pipeline", recipe, request_json=request))
    with world.store.draft(ArtifactKind.EVALUATION) as draft:
        with draft.shard("name.txt") as shard:
            shard.path.write_text(pipeline)
        made = draft.commit()
    world.catalog.start_run(RunStart(stage, job, recipe, pipeline, made.id))
    lease = world.catalog.acquire(made.id, "test", ttl_s=60)
    publication = Publication(
        stage, "{}", {}, {"evaluation": made}, (world.store.manifest(made),), metrics
    )
    world.catalog.publish(lease, publication)
    world.catalog.end_run(pipeline, RunState.COMPLETE)
    return pipeline


def test_a_stage_is_shown_by_families_of_curves_with_its_spikes(world) -> None:  # type: ignore[no-untyped-def]
    run_id = _run(world, "tiny", "{}", POINTS)

    (shown,) = training.view(world.catalog, run_id)

    assert [list(curves) for curves in shown.families.values()] == [
        ["text"],
        ["source/speak"],
        ["speech"],
    ]
    assert shown.spikes == (training.Spike(14, 22.0, (3, 7)),)
    assert dict(shown.speed) == {"tokens a second": "12.3 k", "% of the machine's peak": "31"}
    assert [alarm.signature for alarm in shown.alarms] == ["the loss leapt"]


def test_text_that_is_lost_since_the_run_before_raises_an_alarm(world) -> None:  # type: ignore[no-untyped-def]
    _run(world, "tiny", "{}", (Metric("cloze/T->T/story", 0.9),))
    later = _run(world, "tiny", "{}", (Metric("cloze/T->T/story", 0.8),))

    assert [a.signature for a in training.run_alarms(world.catalog, later)] == [
        "text ability falls"
    ]


def test_a_row_is_read_and_heard_document_by_document(tmp_path: Path) -> None:
    store = MemoryStore()
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            TextTokenizer.train(["the fox sees the owl"] * 4, vocab_size=270).save(shard.path)
        text_ref = draft.commit()
    text = TextTokenizer.load(store.local_path(store.manifest(text_ref).shard("tokenizer.json")))
    layout = VocabularyLayout(text.vocab_size, 16, text_ref.id, "1" * 64)
    end = layout.marker(Marker.DOCUMENT_END)
    woven = [*text.encode("the fox "), *layout.wrap_audio(np.array([3, 5])).tolist(), end]
    rows = _store_row(store, tmp_path, layout, woven)

    found = training.pieces(store, rows, 0)

    assert found == (
        training.Piece("interleaved: d1", "the fox ", ()),
        training.Piece("interleaved: d1", "", (3, 5)),
    )


def _store_row(
    store: MemoryStore, folder: Path, layout: VocabularyLayout, ids: list[int]
) -> ArtifactRef:
    rule = CutRule(32, layout, refuses_unfit=True)
    example = Example.after("d1", np.array(ids, np.int32), 1, "CC0-1.0")
    sources = {"interleaved": spool("interleaved", [example], rule, folder)}
    with store.draft(ArtifactKind.PACKED_ROWS) as draft:
        draws = all_documents({"interleaved": 1})
        write_rows(draft, sources, draws, row_length=32, layout=layout)
        return draft.commit(facts={"layout": layout.to_dict(), "vocabulary": layout.digest})


def test_runs_of_a_recipe_are_compared_by_what_they_changed(world) -> None:  # type: ignore[no-untyped-def]
    for share, value in ((0.0, 0.5), (0.64, 0.9)):
        request = f'{{"seed": 0, "mixture": {{"share": {share}}}}}'
        numbers = {"": value, "/low": value - 0.1, "/high": value + 0.05, "/n": 64.0}
        metrics = tuple(Metric(f"cloze/S->T/woven{k}", v) for k, v in numbers.items())
        _run(world, "transfer", request, metrics)

    shown = comparison.view(world.catalog, "transfer")

    assert comparison.recipes(world.catalog) == ("transfer",)
    assert shown.keys == ("mixture.share",)
    assert [arm.label for arm in shown.arms] == ["share=0.0", "share=0.64"]
    assert shown.names == shown.first_names == ("cloze/S->T/woven",)
    assert list(comparison.table(shown, shown.names)) == [
        {"mixture.share": "0.0", "cloze/S->T/woven": "0.500 (0.400 to 0.550)"},
        {"mixture.share": "0.64", "cloze/S->T/woven": "0.900 (0.800 to 0.950)"},
    ]
    points = list(comparison.points(shown, shown.names))
    assert [point["high"] for point in points] == [pytest.approx(0.55), pytest.approx(0.95)]


def test_what_runs_learnt_is_drawn_over_what_they_took(world) -> None:  # type: ignore[no-untyped-def]
    for steps, losses in ((20, (5.0, 4.0)), (30, (5.0, 3.5))):
        request = f'{{"pretrain": {{"num_steps": {steps}}}}}'
        at = (steps // 2, steps)
        points = [Metric("train/loss/speech", *pair) for pair in zip(losses, at, strict=True)]
        points += [
            Metric(f"train/{unit}", 50.0, step) for unit in ("tokens", "flops") for step in at
        ]
        points += [
            Metric("language_model/tokens_seen", 100.0 * steps),
            Metric("language_model/flops", 1000.0 * steps),
        ]
        _run(world, "patches", request, tuple(points), job="pretrain")

    shown = comparison.view(world.catalog, "patches")

    drawn = [(row["operations"], row["tokens"], row["loss"]) for row in comparison.lines(shown)]
    assert drawn == [
        (10_000.0, 1000.0, 5.0),
        (20_000.0, 2000.0, 4.0),
        (15_000.0, 1500.0, 5.0),
        (30_000.0, 3000.0, 3.5),
    ]
    assert comparison.line_chart("tokens")["encoding"]["x"]["field"] == "tokens"


def test_frame_rates_are_compared_by_what_is_lost_in_codes(world) -> None:  # type: ignore[no-untyped-def]
    for kernel, lost in ((2, 0.03), (8, 0.2)):
        request = f'{{"tokenizer": {{"pool_kernel": {kernel}}}}}'
        numbers = {"": lost, "/low": lost - 0.01, "/high": lost + 0.01}
        names = ("tokenizer/wer", "tokenizer/cer", "tokenizer/noise_5db/wer")
        metrics = tuple(Metric(f"{name}{k}", v) for name in names for k, v in numbers.items())
        _run(world, "rates", request, metrics)

    shown = comparison.view(world.catalog, "rates")

    assert shown.first_names == ("tokenizer/wer", "tokenizer/cer")
    assert [arm.label for arm in shown.arms] == ["pool_kernel=2", "pool_kernel=8"]
