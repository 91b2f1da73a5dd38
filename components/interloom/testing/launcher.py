"""A launcher that calls the stage in this process."""

from collections.abc import Collection, Mapping
from typing import Any

from interloom.core.artifacts import canonical_json
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.registry import STAGES, load_stage


class InlineLauncher:
    """Runs stages here and now, over a given store; ``num_runs`` counts them.

    Args:
        store: For stages that read or write artifacts.
        registry: Stage name to module.
        ports: Further ports by name: ``engine``, ``gate``.
    """

    def __init__(
        self, store: ArtifactStore, *, registry: Mapping[str, str] = STAGES, **ports: Any
    ) -> None:
        self.num_runs = 0
        self._registry = registry
        self._ports = {"store": store} | ports

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Call the stage; its errors come through."""
        self.num_runs += 1
        definition = load_stage(job.stage, self._registry)
        job.folder.mkdir(parents=True, exist_ok=True)
        ports = self._ports | {"work": Workspace(job.folder, progress)}
        request = definition.request.model_validate_json(job.request_json)
        result = definition.function(request, **{name: ports[name] for name in definition.ports})
        result_json = canonical_json(result.model_dump(mode="json")).decode()
        return JobReport(result_json, wall_s=0.0, cpu_s=0.0, peak_rss_bytes=0)

    def check(self, demand: Mapping[str, int]) -> None:
        """Any stage can be called."""

    def pool(self, stage: str) -> str | None:  # noqa: ARG002
        """None: everything runs here."""
        return None

    def stop(self, *, leaves_jobs: bool = False) -> None:
        """Nothing runs beside the caller."""

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:  # noqa: ARG002
        """Nothing outlives the caller."""
        return 0
