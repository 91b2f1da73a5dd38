"""A training stage as one Kubeflow TrainJob: JobSet restarts its ranks, Kueue admits it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from interloom.adapters.cluster.api import PODS, TRAIN_JOBS, WORKLOADS, ClusterApi, NotThereError
from interloom.adapters.cluster.jobs import OURS, orphans
from interloom.adapters.cluster.manifests import (
    ATTEMPT_LABEL,
    KEY_LABEL,
    QUEUE_LABEL,
    Attempt,
    base_name,
    selector_of,
    train_job,
)
from interloom.adapters.cluster.workloads import Phase, Sight, Workloads
from interloom.config.cluster import ClusterProfile
from interloom.core.errors import InterloomError, MissingError
from interloom.ports.launcher import StageJob

_ORPHANED = "interloom.dev/suspended-as-orphan"
_JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"


@dataclass(slots=True)
class TrainJobWorkloads:
    """TrainJobs for stages of several ranks or with GPUs; other stages and parts are plain jobs."""

    api: ClusterApi
    profile: ClusterProfile
    program: tuple[str, ...]
    plain: Workloads
    heals_itself: bool = True

    def preflight(self, job: StageJob, attempt: Attempt, *, is_alone: bool = False) -> None:
        """Apply it dry.

        Raises:
            MissingError: The cluster has no TrainJob API.
        """
        if not self._is_ours(job):
            self.plain.preflight(job, attempt, is_alone=is_alone)
            return
        try:
            self.api.apply(TRAIN_JOBS, self._body(job, attempt.number), is_dry=True)
        except NotThereError as error:
            raise _no_api(error) from error

    def newest(self, job: StageJob) -> tuple[int, Phase] | None:
        """By label; one that the reconciler suspended counts as going on."""
        if not self._is_ours(job):
            return self.plain.newest(job)
        try:
            found = self.api.items(TRAIN_JOBS, labelSelector=f"{OURS},{selector_of(job)}")
        except NotThereError as error:
            raise _no_api(error) from error
        live = [item for item in found if "deletionTimestamp" not in item["metadata"]]
        if not live:
            return None
        last = max(live, key=lambda item: int(item["metadata"]["labels"][ATTEMPT_LABEL]))
        return int(last["metadata"]["labels"][ATTEMPT_LABEL]), _phase(last)

    def start(self, job: StageJob, attempt: Attempt) -> None:
        """Apply it, or let go on what the reconciler suspended.

        One that is there is not applied again: whether it is suspended is Kueue's to say.
        """
        if not self._is_ours(job):
            self.plain.start(job, attempt)
            return
        name = base_name(job, attempt.number)
        try:
            there = self.api.get(TRAIN_JOBS, name)
        except NotThereError:
            self.api.apply(TRAIN_JOBS, self._body(job, attempt.number))
            return
        if _ORPHANED in there["metadata"].get("annotations", {}):
            change = {"metadata": {"annotations": {_ORPHANED: None}}, "spec": {"suspend": False}}
            self.api.merge(TRAIN_JOBS, name, change)

    def look(self, job: StageJob, number: int) -> Sight:
        """The TrainJob's conditions, Kueue's words while it waits, and the pods of its JobSet."""
        if not self._is_ours(job):
            return self.plain.look(job, number)
        name = base_name(job, number)
        try:
            item = self.api.get(TRAIN_JOBS, name)
        except NotThereError:
            return Sight(Phase.FAILED)
        pods = self.api.items(PODS, labelSelector=f"{_JOBSET_LABEL}={name}")
        phase = _phase(item)
        note = self._queue_note(item) if phase is Phase.QUEUED else ""
        return Sight(phase, pods, note)

    def remove(self, job: StageJob, number: int) -> None:
        """Delete it; JobSet and pods go with it."""
        if self._is_ours(job):
            self.api.delete(TRAIN_JOBS, base_name(job, number))
        else:
            self.plain.remove(job, number)

    def end_orphans(self, held: Collection[str], *, grace_s: float) -> int:
        """Suspend them, so that a flow that comes back goes on; those of a queue are deleted.

        Kueue would let a suspended one go on at once, and the checkpoint is in the workspace.
        """
        ended = set[str]()
        for item in orphans(self.api.items(TRAIN_JOBS, labelSelector=OURS), held, grace_s=grace_s):
            metadata = item["metadata"]
            if _phase(item) in {Phase.SUCCEEDED, Phase.FAILED}:
                continue
            if QUEUE_LABEL in metadata["labels"]:
                self.api.delete(TRAIN_JOBS, metadata["name"])
            elif _ORPHANED in metadata.get("annotations", {}):
                continue
            else:
                change = {
                    "metadata": {"annotations": {_ORPHANED: "true"}},
                    "spec": {"suspend": True},
                }
                self.api.merge(TRAIN_JOBS, metadata["name"], change)
            ended.add(metadata["labels"][KEY_LABEL])
        return len(ended) + self.plain.end_orphans(held, grace_s=grace_s)

    def _is_ours(self, job: StageJob) -> bool:
        if job.part is not None:
            return False
        return job.num_ranks > 1 or self.profile.pool(job.stage).num_gpus > 0

    def _body(self, job: StageJob, number: int) -> dict[str, Any]:
        return train_job(job, self.profile, attempt=number, program=self.program)

    def _queue_note(self, item: Mapping[str, Any]) -> str:
        """Why Kueue does not admit it yet."""
        try:
            found = self.api.items(
                WORKLOADS, labelSelector=f"kueue.x-k8s.io/job-uid={item['metadata']['uid']}"
            )
        except InterloomError:
            return "suspended"
        for workload in found:
            for condition in workload.get("status", {}).get("conditions", ()):
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return str(condition.get("message", "no quota"))
        return "waiting for Kueue"


def _phase(item: Mapping[str, Any]) -> Phase:
    """By conditions; before there are any, by whether it is suspended."""
    held = {
        entry["type"]
        for entry in item.get("status", {}).get("conditions", ())
        if entry["status"] == "True"
    }
    if "Complete" in held:
        return Phase.SUCCEEDED
    if "Failed" in held:
        return Phase.FAILED
    return Phase.QUEUED if item["spec"].get("suspend") else Phase.RUNNING


def _no_api(error: InterloomError) -> MissingError:
    return MissingError(
        f"the cluster has no TrainJob API ({error}); install Kubeflow Trainer 2.3 and apply "
        "infra/overlays/gpu-cluster, or set INTERLOOM_LAUNCHER=jobs"
    )
