"""A launcher that computes nothing: for tests of everything around the stages."""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.stages.registry import load_stage


class HollowLauncher:
    """Gives every stage a result of the right shape: each output holds the request alone.

    Equal requests give equal artifacts, and other requests other ones, as with real stages.

    Attributes:
        launched: The names of the stages that were run, in order.
    """

    def __init__(
        self, store: ArtifactStore, *, before: Callable[[StageJob], None] | None = None
    ) -> None:
        """Choose where artifacts go, and what is called before a stage "runs"."""
        self.launched: list[str] = []
        self.is_stopped = threading.Event()
        self._store = store
        self._before = before

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Write the outputs."""
        if self._before is not None:
            self._before(job)
        self.launched.append(job.stage)
        progress.update(1, 1, "hollow")
        result = load_stage(job.stage).result
        fields = {
            name: value
            for name, field in result.model_fields.items()
            if (value := self._value(job, name, field)) is not None
        }
        made = result.model_validate(fields)
        result_json = canonical_json(made.model_dump(mode="json")).decode()
        return JobReport(result_json, wall_s=2.0, cpu_s=1.0, peak_rss_bytes=1000)

    def check(self, demand: Mapping[str, int]) -> None:
        """Any stage can be called."""

    def pool(self, stage: str) -> str | None:  # noqa: ARG002
        """None: nothing runs anywhere."""
        return None

    def stop(self, *, leaves_jobs: bool = False) -> None:  # noqa: ARG002
        """Remember that it was asked."""
        self.is_stopped.set()

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:  # noqa: ARG002
        """Nothing outlives the caller."""
        return 0

    def _value(self, job: StageJob, name: str, field: FieldInfo) -> Any:
        if field.annotation is ArtifactRef:
            return self._artifact(job, name)
        if not field.is_required():
            return None
        return 0 if field.annotation is int else {}

    def _artifact(self, job: StageJob, name: str) -> ArtifactRef:
        with self._store.draft(ArtifactKind.TEXT_CORPUS) as draft:
            with draft.shard(f"{job.stage}.{name}.json") as shard:
                shard.path.write_text(job.request_json)
            return draft.commit(licences=("CC0-1.0",))
