"""What a run has to show: its stages, its numbers with intervals, its artifacts, its sounds."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import MissingError
from interloom.evaluation.numbers import Number, fold_intervals
from interloom.ports.catalog import Catalog, RunRecord, RunState
from interloom.ports.store import ArtifactStore
from interloom.stages.result import StageResult
from interloom_flows.recording import PIPELINES

if TYPE_CHECKING:
    from interloom.evaluation.choice import ItemScores

LAST = "last"
_SEARCHED = 1000
_KEPT = (".wav", ".json")
_SPEECH_TOKENS = ("interleave/speech_tokens", "synthesis/accepted_tokens")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A pipeline's run.

    Attributes:
        run: Its record.
        stages: The records of its stages, in order.
        outputs: What they made or reused, by name.
        numbers: The results of each stage, by stage.
    """

    run: RunRecord
    stages: tuple[RunRecord, ...]
    outputs: Mapping[str, ArtifactRef]
    numbers: Mapping[str, tuple[Number, ...]]


def speech_costs(summary: RunSummary) -> Iterator[tuple[str, float, float]]:
    """What a speech token cost that was synthesised and kept.

    Yields:
        Stage, processor milliseconds a token, and price of a million tokens; of each stage of this
        run that synthesised anew.
    """
    for stage in summary.stages:
        values = {number.name: number.value for number in summary.numbers.get(stage.job, ())}
        kept = [values[name] for name in _SPEECH_TOKENS if values.get(name)]
        if kept and kept[0] and not stage.is_cache_hit:
            usage = stage.usage
            yield stage.job, 1000 * usage.cpu_s / kept[0], 1e6 * usage.price / kept[0]


def result_metrics(result: StageResult) -> Iterator[tuple[str, float]]:
    """The numbers of a result, without the points of its curves."""
    return ((metric.name, metric.value) for metric in result.metrics if metric.step is None)


def pipelines(catalog: Catalog) -> list[RunRecord]:
    """The runs of whole pipelines, newest first."""
    return [run for run in catalog.runs(limit=_SEARCHED) if run.job in PIPELINES]


def find_run(catalog: Catalog, name: str, needed: Collection[str] = ()) -> RunRecord:
    """A pipeline's run: ``last``, a recipe's newest complete one, or an id or its beginning.

    Args:
        catalog: Knows them.
        name: Which.
        needed: Outputs that the run must have; one that is named by its id is not asked for them.

    Raises:
        MissingError: There is none.
    """
    named = [
        run
        for run in pipelines(catalog)
        if run.state is RunState.COMPLETE and name in {LAST, run.recipe}
    ]
    for run in named:
        if not needed or summarise(catalog, run).outputs.keys() >= set(needed):
            return run
    if named or name == LAST:
        wanted = f" that made {', '.join(sorted(needed))}" if needed else ""
        raise MissingError(f"no run is complete yet{wanted}; start one with: interloom run starter")
    return catalog.run(name)


def summarise(catalog: Catalog, run: RunRecord) -> RunSummary:
    """Everything that a pipeline's run has to show."""
    stages = tuple(catalog.runs(parent_run_id=run.run_id))
    outputs = dict[str, ArtifactRef]()
    numbers = dict[str, tuple[Number, ...]]()
    for stage in stages:
        if stage.state is not RunState.COMPLETE:
            continue
        hit = catalog.find(stage.stage_key or "")
        outputs |= hit.outputs if hit else {}
        values = {metric.name: metric.value for metric in catalog.results(stage.run_id)}
        numbers[stage.job] = fold_intervals(values)
    return RunSummary(run, stages, outputs, numbers)


def item_scores(store: ArtifactStore, summary: RunSummary) -> "Mapping[str, ItemScores]":
    """The score of each item of the run's evaluation, by the name of its number."""
    from interloom.evaluation.pairing import SCORES, scores_from_json

    evaluation = summary.outputs.get("evaluation")
    if evaluation is None:
        return {}
    shard = next((one for one in store.manifest(evaluation).shards if one.path == SCORES), None)
    return {} if shard is None else scores_from_json(store.local_path(shard).read_bytes())


def save_sounds(store: ArtifactStore, evaluation: ArtifactRef, folder: Path) -> tuple[Path, ...]:
    """Copy an evaluation's WAV files and reports where a person finds them.

    Returns:
        The WAV files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = list[Path]()
    for shard in store.manifest(evaluation).shards:
        if shard.path.endswith(_KEPT):
            target = folder / Path(shard.path).name
            shutil.copyfile(store.local_path(shard), target)
            saved.append(target)
    return tuple(path for path in saved if path.suffix == ".wav")
