from typing import Any

import pytest

from interloom_dashboards import lineage, overview, quality, results, runs, shards
from interloom_dashboards.words import ago, amount, duration

NOW = "2999-01-01T00:00:00+00:00"


def test_the_overview_says_how_the_newest_run_went(world: Any) -> None:
    shown = overview.view(world.catalog, now=NOW)

    assert shown.status.startswith("starter finished")
    assert [item.value for item in shown.headlines] == ["8.0 %"]
    assert shown.licences == ("CC0-1.0",)
    assert "4 min 10 s of processor time" in shown.cost


def test_a_run_shows_its_stages_curves_and_numbers(world: Any) -> None:
    shown = runs.view(world.catalog, world.pipeline)

    assert [line.stage for line in shown.stages] == ["interleave", "evaluate"]
    assert shown.stages[0].memory == "2.00 GB"
    assert shown.curves == {"interleave": {"train/loss": {10: 3.0, 20: 2.0}}}
    assert shown.results["tokenizer/wer"] == 0.08


def test_a_run_does_not_differ_from_itself(world: Any) -> None:
    shown = runs.view(world.catalog, world.pipeline)

    assert all(row["change"] == 0 for row in runs.compare(shown, shown))


def test_lineage_leads_from_data_to_its_evaluation(world: Any) -> None:
    shown = lineage.view(world.catalog, world.pipeline)

    assert shown.num_artifacts == 2
    assert f'"interleave" -> "{world.interleaved.id}"' in shown.dot
    assert f'"{world.interleaved.id}" -> "evaluate"' in shown.dot


def test_a_row_marks_its_spoken_words_and_escapes_its_text(world: Any) -> None:
    row = quality.rows(world.store, world.interleaved, 0, 5)[0]

    assert row.marked_html == (
        "the cat <mark title='2 speech tokens'>&lt;sat&gt; on</mark> the mat."
    )
    assert row.spans[0].codes == (3, 5)


def test_the_verdict_counts_the_checks(world: Any) -> None:
    shown = quality.view(world.catalog, world.store, world.interleaved)

    assert shown.verdict == "All 1 checks hold."
    assert shown.counts["rows"] == 1


def test_the_data_docs_show_verdicts_and_distributions_of_shards(world: Any) -> None:
    shown = quality.view(world.catalog, world.store, world.interleaved).shards

    assert shown is not None
    assert shown.headline == "1 of 2 shards are published, 1 are in quarantine."
    assert [line["verdict"] for line in shown.lines] == ["published", "quarantined"]
    assert shown.lines[1]["broken"] == "most spans could be spoken"
    assert shown.left_out == {"document: too short": 3, "span: loop": 2}
    assert shown.lengths == {"seen": [0, 4, 2], "expected": [0, 3.5, 2]}


def test_an_artifact_without_a_report_has_no_data_docs(world: Any) -> None:
    assert shards.view(world.store, world.evaluation) is None


def test_a_result_carries_its_interval(world: Any) -> None:
    shown = results.view(world.catalog, world.store, world.evaluation)

    number = {item.name: item for item in shown.numbers}["cloze/S->S/story"]
    assert (number.value, number.low, number.high, number.num_items) == (0.6, 0.5, 0.7, 100)
    assert [example.title for example in shown.examples] == ["The bot answers"]


@pytest.mark.parametrize(
    ("number", "words"), [(12, "12"), (12_345, "12.3 k"), (1_234_567, "1.2 M"), (3e9, "3.0 G")]
)
def test_amounts_are_short(number: float, words: str) -> None:
    assert amount(number) == words


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min")])
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("2026-01-02T00:00:00+00:00", "just now"),
        ("2026-01-01T23:58:59+00:00", "1 minute ago"),
        ("2026-01-01T00:00:00+00:00", "1 day ago"),
    ],
)
def test_times_are_told_as_people_do(then: str, words: str) -> None:
    assert ago(then, "2026-01-02T00:00:00+00:00") == words
