"""Lineage both ways: from a row of a corpus to models, from anything to its sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from interloom.core.artifacts import ArtifactKind, ArtifactRef, parse_ref
from interloom.core.errors import ConfigError, MissingError
from interloom.ports.catalog import Catalog, Checkpoint, RunRecord
from interloom.ports.store import ArtifactStore
from interloom.stages.pretrain import PretrainRequest
from interloom_flows.planning import dataset_named

_TABLES = {
    ArtifactKind.SPEECH_CORPUS: "utterances",
    ArtifactKind.TEXT_CORPUS: "documents",
    ArtifactKind.DIALOGUE_CORPUS: "dialogues",
    ArtifactKind.SPEECH_TOKENS: "tokens",
    ArtifactKind.INTERLEAVED: "interleaved",
}
ROW_KINDS = ("utterance", "document", "dialogue")


@dataclass(frozen=True, slots=True)
class Made:
    """An artifact and the run that made it.

    Attributes:
        artifact: What.
        run: Which; its usage is what the artifact cost.
        names: Its named versions, as ``name@version``.
    """

    artifact: ArtifactRef
    run: RunRecord
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArtifactLineage:
    """Everything that an artifact was made from, and everything that was made from it.

    Attributes:
        subject: The artifact itself.
        ancestors: What it was made from, in the order in which it was made.
        descendants: What was made from it, likewise.
    """

    subject: Made
    ancestors: tuple[Made, ...]
    descendants: tuple[Made, ...]

    @property
    def price(self) -> float:
        """What it took to make the artifact, with all that it was made from; each run once."""
        return sum(run.usage.price for run in self._runs())

    @property
    def gpu_hours(self) -> float:
        """The GPU-hours in it."""
        return sum(run.usage.gpu_hours for run in self._runs())

    @property
    def cpu_hours(self) -> float:
        """The processor hours in it."""
        return sum(run.usage.cpu_s for run in self._runs()) / 3600

    def _runs(self) -> Sequence[RunRecord]:
        made = (*self.ancestors, self.subject)
        return tuple({held.run.run_id: held.run for held in made}.values())


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with the id that was asked for, in a shard of a table."""

    artifact: ArtifactRef
    shard: str
    index: int


@dataclass(frozen=True, slots=True)
class ReadAt:
    """A training that read rows with a document.

    Attributes:
        run: The training.
        steps: Its optimizer steps that read one of the rows, counted from 0.
        checkpoints: What it published, by step.
        results: Its result metrics, by name.
    """

    run: RunRecord
    steps: tuple[int, ...]
    checkpoints: tuple[Checkpoint, ...]
    results: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class MixedAt:
    """Rows of a mixture that hold a document.

    Attributes:
        rows: The mixture's artifact.
        source: Of the mixture.
        row_numbers: Which rows.
        trainings: What read them.
    """

    rows: ArtifactRef
    source: str
    row_numbers: tuple[int, ...]
    trainings: tuple[ReadAt, ...]


@dataclass(frozen=True, slots=True)
class StepOrigin:
    """A document that an optimizer step read."""

    row: int
    source: str
    document_id: str
    licence: str
    num_tokens: int


def find_artifact(catalog: Catalog, what: str) -> ArtifactRef:
    """The artifact that ``NAME``, ``NAME@VERSION``, ``kind:ID`` or the beginning of an id names.

    Raises:
        ConfigError: Nothing stands behind an ``@``.
        MissingError: There is none.
    """
    kind, colon, artifact_id = what.partition(":")
    if colon and kind in set(ArtifactKind):
        if len(artifact_id) == 64:
            return parse_ref(what)
        return catalog.resolve_artifact(artifact_id)
    if "/" in what or "@" in what:
        return dataset_named(catalog, what).ref
    try:
        return dataset_named(catalog, what).ref
    except MissingError:
        return catalog.resolve_artifact(what)


def artifact_lineage(catalog: Catalog, artifact: ArtifactRef) -> ArtifactLineage:
    """What an artifact was made from and what was made from it, with the runs and their cost.

    Raises:
        MissingError: It is not published.
    """
    return ArtifactLineage(
        subject=_made(catalog, artifact),
        ancestors=_in_order(catalog, catalog.ancestors([artifact])),
        descendants=_in_order(catalog, catalog.descendants([artifact])),
    )


def find_rows(catalog: Catalog, store: ArtifactStore, row_id: str) -> tuple[PlacedRow, ...]:
    """Where a row with this id stands, in every published table; reads ids only."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found, after = list[PlacedRow](), ""
    while batch := catalog.artifacts(after=after):
        after = batch[-1].id
        for ref in batch:
            if ref.kind not in _TABLES:
                continue
            for shard in store.manifest(ref).shards_under(f"{_TABLES[ref.kind]}/"):
                table = pq.read_table(store.local_path(shard), columns=["id"])
                index = pc.index(table["id"], row_id).as_py()
                if index >= 0:
                    found.append(PlacedRow(ref, shard.path, index))
    if not found:
        raise MissingError(f"no published table has a row {row_id!r}; ids are case-sensitive")
    return tuple(found)


def trace_row(
    catalog: Catalog, store: ArtifactStore, row_id: str, places: Sequence[PlacedRow]
) -> Iterator[MixedAt]:
    """The rows of mixtures that hold a document, the steps that read them, and what came of it."""
    from interloom.mixture.tracing import place_document

    tables = sorted({place.artifact for place in places})
    for rows in catalog.descendants(tables):
        if rows.kind is ArtifactKind.PACKED_ROWS:
            for held in place_document(store, rows, row_id):
                trainings = tuple(_trainings(catalog, store, rows, held.rows))
                yield MixedAt(rows, held.source, held.rows, trainings)


def trace_step(
    catalog: Catalog, store: ArtifactStore, model: ArtifactRef, step: int
) -> tuple[StepOrigin, ...]:
    """The documents that one step of a model's training read.

    Raises:
        ConfigError: The model was not trained on packed rows, or not for so many steps.
    """
    from interloom.mixture.rows import load_rows
    from interloom.mixture.tracing import open_order, rows_of_step

    run = catalog.run(_producer(catalog, model))
    if run.job != "pretrain":
        raise ConfigError(f"{model} was made by {run.job}, which reads no packed rows")
    request = PretrainRequest.model_validate_json(run.request_json)
    num_steps = request.config.train.num_steps
    if not 0 <= step < num_steps:
        raise ConfigError(f"--step: {model} has steps 0 to {num_steps - 1}, got {step}")
    stored = load_rows(store, request.rows)
    order = open_order(stored, request.seed)
    return tuple(
        StepOrigin(row, origin.source, origin.document_id, origin.licence, origin.num_tokens)
        for row in rows_of_step(order, step, rows_per_step=request.config.rows_per_step)
        for origin in stored.origins(row)
    )


def _trainings(
    catalog: Catalog, store: ArtifactStore, rows: ArtifactRef, row_numbers: Sequence[int]
) -> Iterator[ReadAt]:
    """The trainings that read any of these rows, those that reused a result left out."""
    from interloom.mixture.rows import load_rows
    from interloom.mixture.tracing import open_order, steps_with

    for run_id in catalog.consumers(rows):
        run = catalog.run(run_id)
        if run.job != "pretrain" or run.is_cache_hit:
            continue
        request = PretrainRequest.model_validate_json(run.request_json)
        order = open_order(load_rows(store, rows), request.seed)
        config = request.config
        steps = steps_with(
            order,
            row_numbers,
            rows_per_step=config.rows_per_step,
            num_steps=config.train.num_steps,
        )
        outputs = [edge.artifact for edge in catalog.edges([run_id]) if edge.is_output]
        points = [point for ref in outputs for point in catalog.checkpoints(ref)]
        results = [(m.name, m.value) for m in catalog.results(run_id)]
        own = tuple(point for point in points if point.run_id == run_id)
        yield ReadAt(run, steps, own, tuple(results))


def _producer(catalog: Catalog, artifact: ArtifactRef) -> str:
    run_id = catalog.producer(artifact)
    if run_id is None:
        raise MissingError(f"{artifact} is not published; list what is: interloom data list")
    return run_id


def _made(catalog: Catalog, artifact: ArtifactRef) -> Made:
    names = tuple(f"{held.name}@{held.version}" for held in catalog.names([artifact]))
    return Made(artifact, catalog.run(_producer(catalog, artifact)), names)


def _in_order(catalog: Catalog, artifacts: Sequence[ArtifactRef]) -> tuple[Made, ...]:
    made = (_made(catalog, ref) for ref in artifacts)
    return tuple(sorted(made, key=lambda held: (held.run.run_id, held.artifact)))
