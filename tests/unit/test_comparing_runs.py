"""``diff`` and ``mixtures`` over two runs that differ in their mixture."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from interloom.bootstrap import Services, connect
from interloom.config.evaluation import EvaluationConfig
from interloom.config.settings import Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.ids import new_run_id
from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.measures import Judging, share_right
from interloom.evaluation.pairing import SCORES, scores_to_json
from interloom.ports.catalog import Metric, MixtureComponent, Publication, RunStart, RunState, Usage
from interloom_flows.recording import PRETRAINING

Command = Callable[..., tuple[int, str, str]]
ITEMS = tuple({"id": str(place), "question": f"{place}?"} for place in range(12))
CHOSEN = ChosenSet("chats", ITEMS, len(ITEMS))
JUDGING = Judging(EvaluationConfig(), seed=0)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    held = connect(Settings(home=tmp_path / "home"))
    yield held
    held.close()


def _run(services: Services, speech: int, right: int) -> str:
    """A run that drew so many thousand tokens of speech and got so many answers right."""
    pipeline = new_run_id()
    recipe = json.dumps({"mixture": {"speech": speech}})
    services.catalog.start_run(RunStart(pipeline, PRETRAINING, "tiny", request_json=recipe))
    drawn = (
        MixtureComponent("text", 1000, 1000, 0.5),
        MixtureComponent("speech", 1000 * speech, 1000 * speech, 1.0),
    )
    measure = share_right(
        "chat/right", CHOSEN, ITEMS, [place < right for place in range(12)], JUDGING
    )
    rows = _stored(services, ArtifactKind.PACKED_ROWS, {"rows.txt": f"{speech}"})
    scores = _stored(services, ArtifactKind.EVALUATION, {SCORES: scores_to_json([measure])})
    _publish(services, pipeline, "mix", {"rows": rows}, drawn=drawn)
    _publish(services, pipeline, "evaluate", {"evaluation": scores}, measure.to_metrics())
    services.catalog.end_run(pipeline, RunState.COMPLETE)
    return pipeline


def _stored(services: Services, kind: ArtifactKind, files: Mapping[str, str]) -> ArtifactRef:
    with services.store.draft(kind) as draft:
        for name, content in files.items():
            with draft.shard(name) as shard:
                shard.path.write_text(content)
        return draft.commit()


def _publish(
    services: Services,
    pipeline: str,
    stage: str,
    outputs: Mapping[str, ArtifactRef],
    metrics: tuple[Metric, ...] = (),
    drawn: tuple[MixtureComponent, ...] = (),
) -> None:
    (made,) = outputs.values()
    run_id, key = new_run_id(), made.id
    services.catalog.start_run(RunStart(run_id, stage, "tiny", pipeline, key))
    lease = services.catalog.acquire(key, "test", ttl_s=60)
    assert lease is not None
    services.catalog.publish(
        lease,
        Publication(
            run_id,
            result_json="{}",
            inputs={},
            outputs=outputs,
            manifests=(services.store.manifest(made),),
            metrics=metrics,
            usage=Usage(wall_s=75.0),
            mixture=drawn,
        ),
    )


def test_results_on_the_same_items_are_compared_item_by_item(
    services: Services, command: Command
) -> None:
    first, second = _run(services, 1, right=3), _run(services, 3, right=10)

    code, out, _ = command("diff", first, second)

    assert code == 0
    assert "mixture.speech 1 -> 3" in out
    (line,) = (line for line in out.splitlines() if line.startswith("chat/right"))
    assert line.split()[1] == "0.25"
    assert line.split()[-6:] == ["+0.5833", "7,", "0", "of", "12", "0.016"]
    assert "the second run took 2 min in 2 stages (0 reused)" in out


def test_equal_runs_have_nothing_to_show(services: Services, command: Command) -> None:
    run = _run(services, 1, right=3)

    out = command("diff", run, run)[1]

    assert "The recipes are the same." in out
    assert "All results are the same." in out


def test_mixtures_are_listed_with_what_was_drawn_and_what_came_of_it(
    services: Services, command: Command
) -> None:
    first, second = _run(services, 1, right=3), _run(services, 3, right=10)

    code, out, err = command("mixtures", "--show", "chat/right", "--show", "tokenizer/wer")

    assert not err
    newest, oldest = out.splitlines()[1:]
    assert code == 0
    assert newest.startswith(second[:13])
    assert "speech 75%, text 25%   4,000  0.8333 (0.552 .. 0.953)" in newest
    assert oldest.startswith(first[:13])
    assert "speech 50%, text 50%   2,000" in oldest


def test_a_home_without_a_mixture_says_how_to_make_one(command: Command) -> None:
    assert command("mixtures")[1] == "No mixture yet. Make one with: interloom run starter\n"
