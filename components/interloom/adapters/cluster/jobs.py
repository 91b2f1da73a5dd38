"""A stage as plain Jobs, one a rank: works on any cluster, without DNS or a controller of ours."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from interloom.adapters.cluster.api import EVENTS, JOBS, PODS, QUOTAS, ClusterApi, ExistsError
from interloom.adapters.cluster.api import RefusedError as MayNotError
from interloom.adapters.cluster.manifests import (
    ATTEMPT_LABEL,
    KEY_LABEL,
    MANAGED,
    Attempt,
    base_name,
    label_of,
    rank_job,
    selector_of,
)
from interloom.adapters.cluster.pods import Waiting, not_made
from interloom.adapters.cluster.workloads import Phase, Sight
from interloom.config.cluster import ClusterProfile
from interloom.core.errors import ConfigError
from interloom.ports.launcher import StageJob

Json = Mapping[str, Any]
OURS = ",".join(f"{name}={value}" for name, value in MANAGED.items())


@dataclass(slots=True)
class JobWorkloads:
    """One Job a rank.

    A pod that is lost is made anew by its Job. Alone that is fine; one of several would come back
    to ranks that are gone, so then all are taken away together.
    """

    api: ClusterApi
    profile: ClusterProfile
    program: tuple[str, ...]
    heals_itself: bool = False
    _server: list[tuple[int, int]] = field(default_factory=list)

    def preflight(self, job: StageJob, attempt: Attempt, *, is_alone: bool = False) -> None:
        """Let the server check the first rank's Job, and add up what the quotas leave."""
        self.api.create(JOBS, next(self._bodies(job, attempt)), is_dry=True)
        self._check_quotas(job, is_alone=is_alone)

    def newest(self, job: StageJob) -> tuple[int, Phase] | None:
        """By label, so that no name has to be remembered."""
        found = self._jobs(selector_of(job))
        live = [item for item in found if "deletionTimestamp" not in item["metadata"]]
        if not live:
            return None
        number = max(_attempt(item) for item in live)
        return number, _phase([item for item in live if _attempt(item) == number], job.num_ranks)

    def start(self, job: StageJob, attempt: Attempt) -> None:
        """Make the ranks' Jobs; those that are there are left alone."""
        for body in self._bodies(job, attempt):
            try:
                self.api.create(JOBS, body)
            except ExistsError:
                continue

    def look(self, job: StageJob, number: int) -> Sight:
        """Jobs and pods by label; events only of Jobs without a pod."""
        selector = f"{selector_of(job)},{ATTEMPT_LABEL}={number}"
        jobs = self._jobs(selector)
        pods = self.api.items(PODS, labelSelector=selector)
        owners = {pod["metadata"]["labels"].get("job-name") for pod in pods}
        names = [item["metadata"]["name"] for item in jobs]
        bare = [name for name in names if name not in owners]
        phase = _phase(jobs, job.num_ranks)
        if phase is Phase.QUEUED:
            return Sight(phase, pods, f"waits for Kueue in {self.profile.pool(job.stage).queue}")
        return Sight(phase, pods, waiting=list(self._held_up(bare)))

    def remove(self, job: StageJob, number: int) -> None:
        """Delete the ranks' Jobs; their pods go with them."""
        for rank in range(job.num_ranks):
            self.api.delete(JOBS, f"{base_name(job, number)}-r{rank}")

    def end_orphans(self, held: Collection[str], *, grace_s: float) -> int:
        """Delete them: checkpoints are in the workspace, and old servers cannot suspend a Job."""
        ended = set[str]()
        for item in orphans(self._jobs(OURS), held, grace_s=grace_s):
            if not _is(item, "Complete") and not _is(item, "Failed"):
                self.api.delete(JOBS, item["metadata"]["name"])
                ended.add(item["metadata"]["labels"][KEY_LABEL])
        return len(ended)

    def _jobs(self, selector: str) -> list[dict[str, Any]]:
        return self.api.items(JOBS, labelSelector=f"{OURS},{selector}")

    def _bodies(self, job: StageJob, attempt: Attempt) -> Iterator[dict[str, Any]]:
        if not self._server:
            self._server.append(self.api.version())
        for rank in range(job.num_ranks):
            yield rank_job(
                job,
                self.profile,
                attempt=attempt,
                rank=rank,
                program=self.program,
                server=self._server[0],
            )

    def _held_up(self, names: list[str]) -> Iterable[Waiting]:
        """Why these Jobs have no pod."""
        for name in names:
            events = self.api.items(EVENTS, fieldSelector=f"involvedObject.name={name}")
            if (found := not_made(name, events)) is not None:
                yield found

    def _check_quotas(self, job: StageJob, *, is_alone: bool) -> None:
        """Compare what all ranks ask for with what each quota leaves.

        Raises:
            ConfigError: One leaves too little; names it.
        """
        try:
            quotas = self.api.items(QUOTAS)
        except MayNotError:
            return  # then the job's events tell
        ranks = f" with {job.num_ranks} ranks" if job.num_ranks > 1 else ""
        wanted = _demand(self.profile.pool(job.stage).resources_of(job.num_ranks), job.num_ranks)
        for quota in quotas:
            status = quota.get("status", {})
            for name, hard in status.get("hard", {}).items():
                used = "0" if is_alone else status.get("used", {}).get(name, "0")
                left = _number(hard) - _number(used)
                if wanted.get(name, Fraction(0)) > left:
                    raise ConfigError(
                        f"stage {job.stage!r}{ranks} needs {name} = "
                        f"{float(wanted[name]):g}, but quota {quota['metadata']['name']!r} leaves "
                        f"{float(max(left, Fraction(0))):g} of {hard} in namespace "
                        f"{self.profile.namespace!r}; wait, raise the quota, or use fewer ranks"
                    )


def orphans(
    items: Iterable[dict[str, Any]], held: Collection[str], *, grace_s: float
) -> Iterable[dict[str, Any]]:
    """Objects of ours whose stage key nobody holds, older than ``grace_s``."""
    alive = {label_of(key) for key in held}
    now = datetime.now(UTC)
    for item in items:
        metadata = item["metadata"]
        age_s = (now - datetime.fromisoformat(metadata["creationTimestamp"])).total_seconds()
        if metadata["labels"].get(KEY_LABEL) not in alive and age_s >= grace_s:
            yield item


def _attempt(item: Json) -> int:
    return int(item["metadata"]["labels"][ATTEMPT_LABEL])


def _phase(jobs: list[dict[str, Any]], num_ranks: int) -> Phase:
    """One failed rank fails the attempt; all must succeed."""
    if any(_is(item, "Failed") for item in jobs):
        return Phase.FAILED
    if len(jobs) == num_ranks and all(_is(item, "Complete") for item in jobs):
        return Phase.SUCCEEDED
    if any(item["spec"].get("suspend") for item in jobs):
        return Phase.QUEUED
    return Phase.RUNNING


def _is(item: Json, condition: str) -> bool:
    return any(
        entry["type"] == condition and entry["status"] == "True"
        for entry in item.get("status", {}).get("conditions", ())
    )


def _demand(resources: Mapping[str, Mapping[str, str]], num_ranks: int) -> dict[str, Fraction]:
    """What all ranks together ask for, by the names that quotas use."""
    wanted = {"pods": Fraction(num_ranks)}
    requests = {**resources.get("limits", {}), **resources.get("requests", {})}
    for name, value in requests.items():
        wanted[f"requests.{name}"] = wanted[name] = _number(value)
    for name, value in resources.get("limits", {}).items():
        wanted[f"limits.{name}"] = _number(value)
    return wanted


def _number(quantity: str) -> Fraction:
    """A Kubernetes quantity, such as ``500m`` or ``4Gi``."""
    from kubernetes.utils.quantity import parse_quantity

    return Fraction(parse_quantity(quantity))
