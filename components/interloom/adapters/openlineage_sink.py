"""Events of runs for a lineage server, through OpenLineage's own client.

Standard facets where the specification has one; our own, whose schemas stand in ``docs/lineage``,
for what only this platform knows: mixtures, alignment of spans, tokens, checkpoints, usage,
licences.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interloom.core.artifacts import ArtifactKind, Manifest
from interloom.core.errors import ConfigError, MissingError, TransientError
from interloom.ports.catalog import RunRecord
from interloom.ports.events import EventDataset, LineageEvent

NAMESPACE = "interloom"
PRODUCER = "https://interloom.dev"
SCHEMAS = "https://interloom.dev/lineage/1-0-0"
_TIMEOUT_S = 5.0
_TOKENS = ("rows", "samples", "speech_tokens", "text_tokens", "tokens", "spans", "documents")


class OpenLineageSink:
    """Tells events to a file or to a server."""

    def __init__(self, client: Any, where: str) -> None:
        self._client = client
        self._where = where

    def tell(self, event: LineageEvent) -> None:
        """Tell one event.

        Raises:
            TransientError: The file or the server did not take it.
        """
        made = run_event(event)
        try:
            self._client.emit(made)
        except Exception as error:
            raise TransientError(
                f"{self._where} did not take a lineage event: {type(error).__name__}: {error}"
            ) from error


def open_sink(
    *, url: str | None = None, api_key: str | None = None, file: Path | None = None
) -> OpenLineageSink:
    """A sink to a server or to a file.

    Raises:
        ConfigError: Neither is given, or both.
        MissingError: OpenLineage's client is not installed.
    """
    if (url is None) == (file is None):
        raise ConfigError(
            "lineage events go to one place: set INTERLOOM_OPENLINEAGE_URL or "
            "INTERLOOM_OPENLINEAGE_FILE, not both"
        )
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.transport.file import FileConfig, FileTransport
        from openlineage.client.transport.http import (
            ApiKeyTokenProvider,
            HttpConfig,
            HttpTransport,
        )
    except ModuleNotFoundError as error:
        raise MissingError(
            "OpenLineage's client is not installed; pip install 'interloom[lineage]'"
        ) from error
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        transport: Any = FileTransport(FileConfig(log_file_path=str(file), append=True))
        return OpenLineageSink(OpenLineageClient(transport=transport), str(file))
    assert url is not None
    config = HttpConfig(url=url, timeout=_TIMEOUT_S, retry={"total": 0})  # the outbox tries again
    if api_key is not None:
        config.auth = ApiKeyTokenProvider({"apiKey": api_key})
    return OpenLineageSink(OpenLineageClient(transport=HttpTransport(config)), url)


def run_event(event: LineageEvent) -> Any:
    """The event in OpenLineage's form."""
    from openlineage.client.event_v2 import Run, RunEvent, RunState

    return RunEvent(
        eventType=RunState[event.type],
        eventTime=event.at,
        run=Run(event.run.run_id, _run_facets(event)),
        job=_job(event.run, is_stage=event.run.stage_key is not None),
        inputs=[_input(held) for held in event.inputs],
        outputs=[_output(held) for held in event.outputs],
        producer=PRODUCER,
    )


def _job(run: RunRecord, *, is_stage: bool) -> Any:
    from openlineage.client.event_v2 import Job
    from openlineage.client.facet_v2 import job_type_job

    kind = job_type_job.JobTypeJobFacet(
        processingType="BATCH",
        integration="INTERLOOM",
        jobType="STAGE" if is_stage else "PIPELINE",
        producer=PRODUCER,
    )
    return Job(NAMESPACE, _job_name(run), {"jobType": kind})


def _job_name(run: RunRecord) -> str:
    return f"{run.recipe}.{run.job}"


def _run_facets(event: LineageEvent) -> dict[str, Any]:
    from openlineage.client.facet_v2 import nominal_time_run, processing_engine_run

    run = event.run
    facets: dict[str, Any] = {
        "nominalTime": nominal_time_run.NominalTimeRunFacet(
            nominalStartTime=run.started_at, nominalEndTime=run.ended_at, producer=PRODUCER
        ),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=version("interloom"), name="interloom", producer=PRODUCER
        ),
    }
    if event.parent is not None:
        facets["parent"] = _parent(event.parent)
    if run.error:
        facets["errorMessage"] = _error(run.error)
    if event.checks:
        facets["test"] = _tests(event)
    if event.type != "START":
        facets["interloom_usage"] = _usage(run)
    if event.mixture:
        facets["interloom_mixture"] = _mixture(event)
    return facets


def _parent(parent: RunRecord) -> Any:
    from openlineage.client.facet_v2 import parent_run

    return parent_run.ParentRunFacet(
        run=parent_run.Run(parent.run_id),
        job=parent_run.Job(NAMESPACE, _job_name(parent)),
        root=parent_run.Root(
            run=parent_run.RootRun(parent.run_id),
            job=parent_run.RootJob(NAMESPACE, _job_name(parent)),
        ),
        producer=PRODUCER,
    )


def _error(message: str) -> Any:
    from openlineage.client.facet_v2 import error_message_run

    return error_message_run.ErrorMessageRunFacet(
        message=message, programmingLanguage="python", producer=PRODUCER
    )


def _tests(event: LineageEvent) -> Any:
    from openlineage.client.facet_v2 import test_run

    executions = [
        test_run.TestExecution(
            name=f"{check.suite}: {check.expectation}",
            status="pass" if check.success else "fail",
            severity="error" if check.severity == "fail" else "warn",
            actual=check.observed,
        )
        for check in event.checks
    ]
    return test_run.TestRunFacet(tests=executions, producer=PRODUCER)


def _usage(run: RunRecord) -> Any:
    used = run.usage
    return _own(
        "run",
        "UsageRunFacet",
        cacheHit=run.is_cache_hit,
        wallSeconds=used.wall_s,
        cpuSeconds=used.cpu_s,
        peakRssBytes=used.peak_rss_bytes,
        nodeKind=used.node_kind,
        gpus=used.num_gpus,
        price=used.price,
    )


def _mixture(event: LineageEvent) -> Any:
    components = [
        {
            "source": part.source,
            "tokensAsked": part.tokens_asked,
            "tokensDrawn": part.tokens_drawn,
            "epochs": part.epochs,
        }
        for part in event.mixture
    ]
    return _own("run", "MixtureRunFacet", components=components)


def _input(held: EventDataset) -> Any:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    sizes = statistics.InputStatisticsInputDatasetFacet(**_sizes(held.manifest), producer=PRODUCER)
    return InputDataset(NAMESPACE, held.name, {"inputStatistics": sizes}, facets=_facets(held))


def _output(held: EventDataset) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    sizes = statistics.OutputStatisticsOutputDatasetFacet(
        **_sizes(held.manifest), producer=PRODUCER
    )
    return OutputDataset(NAMESPACE, held.name, {"outputStatistics": sizes}, facets=_facets(held))


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {
        "rowCount": manifest.count("rows"),
        "size": sum(shard.num_bytes for shard in manifest.shards),
        "fileCount": len(manifest.shards),
    }


def _facets(held: EventDataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_type_dataset, dataset_version_dataset

    manifest = held.manifest
    facets: dict[str, Any] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=manifest.ref.id, producer=PRODUCER
        ),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(
            datasetType="MODEL" if manifest.kind.is_model else "DATASET",
            subType=manifest.kind.value.upper(),
            producer=PRODUCER,
        ),
        "interloom_licence": _own(
            "dataset",
            "LicenceDatasetFacet",
            licences=sorted(manifest.licences),
            consents=sorted(manifest.consents),
        ),
    }
    counts = {name: manifest.count(name) for name in _TOKENS}
    if any(counts.values()):
        given = {_camel(name): count for name, count in counts.items() if count}
        facets["interloom_tokenStats"] = _own("dataset", "TokenStatsDatasetFacet", **given)
    if manifest.kind is ArtifactKind.INTERLEAVED:
        facets["interloom_spanAlignment"] = _own(
            "dataset", "SpanAlignmentDatasetFacet", **_alignment(manifest)
        )
    if held.step is not None:
        facets["interloom_checkpoint"] = _own(
            "dataset", "CheckpointDatasetFacet", step=held.step, weights=manifest.ref.id
        )
    return facets


def _alignment(manifest: Manifest) -> Mapping[str, int]:
    """How much of the text is spoken: what the shards of interleaved data count."""
    return {
        "documents": manifest.count("rows"),
        "spans": manifest.count("spans"),
        "speechTokens": manifest.count("speech_tokens"),
        "textTokens": manifest.count("text_tokens"),
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _own(end: str, name: str, **values: float | str | bool | Sequence[Any]) -> Any:
    """A facet of ours: the values, with the address of their schema."""
    from openlineage.client.facet_v2 import DatasetFacet, RunFacet

    made = (RunFacet if end == "run" else DatasetFacet)(producer=PRODUCER)
    facet = made.with_additional_properties(**values)
    object.__setattr__(facet, "_schemaURL", f"{SCHEMAS}/{name}.json")
    return facet
