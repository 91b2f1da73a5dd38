"""Stages on a cluster: start or re-attach, follow, explain, take away."""

import json
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from interloom.adapters.cluster.api import ClusterApi
from interloom.adapters.cluster.fan_out import run_parts
from interloom.adapters.cluster.logs import PodLogs
from interloom.adapters.cluster.manifests import RANK_LABEL, Attempt
from interloom.adapters.cluster.pods import Ended, Waiting, Why, ended, waiting
from interloom.adapters.cluster.workloads import Phase, Sight, Workloads
from interloom.adapters.stage_files import forward, prepare, stage_error
from interloom.config.cluster import ClusterProfile
from interloom.core.errors import ConfigError, InterloomError, PreemptedError, TransientError
from interloom.ports.launcher import LOG_FILE, JobReport, StageJob
from interloom.ports.progress import Progress

_POLL_S = 1.0
_SETTLE_S = 15.0  # the first rank to fail is seldom the cause: let the others tell
_GONE_S = 15.0  # beyond the grace time, until a pod that was taken away is given up
_ATTEMPT = "attempt.json"


class _TakenAwayError(Exception):
    """The cluster ended the attempt; the stage may go on from its checkpoint."""


class ClusterLauncher:
    """A ``Launcher`` over plain jobs or train jobs.

    Every name follows from the stage key, so a flow that comes back finds its jobs and goes on
    following them. What the cluster itself ends (a drained node, an eviction, a lost pod) is tried
    again here, by a budget of its own; what the stage itself ends by is raised.
    """

    def __init__(self, api: ClusterApi, profile: ClusterProfile, workloads: Workloads) -> None:
        self._api = api
        self._profile = profile
        self._workloads = workloads
        self._is_stopped = threading.Event()
        self._leaves_jobs = False

    def check(self, demand: Mapping[str, int]) -> None:
        """Let the cluster look at a job of each stage without making it."""
        for stage, num_ranks in demand.items():
            job = StageJob(stage, "", Path("unborn"), num_ranks)
            self._workloads.preflight(job, Attempt(0, "none"), is_alone=True)

    def pool(self, stage: str) -> str | None:
        """As the cluster profile says."""
        return self._profile.pool_name(stage)

    def stop(self, *, leaves_jobs: bool = False) -> None:
        """End every stage that runs, or only stop following; from any thread."""
        self._leaves_jobs = leaves_jobs
        self._is_stopped.set()

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:
        """End the jobs of stage keys that nobody holds."""
        return self._workloads.end_orphans(held, grace_s=grace_s)

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Run the job to its end; where the profile says so, its parts before it."""
        limits = self._profile.fan_out.get(job.stage)
        if limits is None or not job.can_be_parted:
            return self._run(job, progress, self._is_stopped)
        started_s = time.monotonic()
        found = self._workloads.newest(job)
        if found is None or found[1] in {Phase.SUCCEEDED, Phase.FAILED}:  # else it does without
            run_parts(job, limits, self._run, progress=progress, is_stopped=self._is_stopped)
        self._run(job, progress, self._is_stopped)
        return _report(job, time.monotonic() - started_s)

    def _run(self, job: StageJob, progress: Progress, is_stopped: threading.Event) -> JobReport:
        """Run one job, over as many attempts as the cluster takes away."""
        started_s = time.monotonic()
        for _ in range(self._profile.max_preemptions + 1):
            number = self._begin(job, progress)
            try:
                _Follower(self._api, self._profile, job, progress).follow(
                    self._workloads, number, is_stopped
                )
            except _TakenAwayError as error:
                progress.update(0, None, f"starts again: {error}")
                self._take_away(job, number)
            except InterloomError as error:
                if not isinstance(error, _AwayError):
                    self._remove(job, number)
                raise
            except BaseException:
                if not self._leaves_jobs:
                    self._remove(job, number)
                raise
            else:
                return _report(job, time.monotonic() - started_s)
        raise TransientError(
            f"stage {job.stage!r} was taken away by the cluster "
            f"{self._profile.max_preemptions + 1} times; raise max_preemptions in the cluster "
            "profile, or give it nodes that stay"
        )

    def _begin(self, job: StageJob, progress: Progress) -> int:
        """Attach to an attempt that goes on or has succeeded, or start the next one."""
        found = self._workloads.newest(job)
        last = _read_attempt(job.folder)
        number = last.number if last is not None else 0
        if found is not None:
            number, phase = found
            attempt = last if last is not None and last.number == number else None
            has_result = (job.folder / "result.json").is_file()
            if attempt is not None and (
                phase in {Phase.QUEUED, Phase.RUNNING} or (phase is Phase.SUCCEEDED and has_result)
            ):
                progress.update(0, None, f"goes on with attempt {number}")
                (job.folder / LOG_FILE).unlink(missing_ok=True)  # told again from the beginning
                self._workloads.start(job, attempt)
                return number
            self._take_away(job, number)
        number += 1  # never a name again whose job may still be going
        attempt = Attempt(number, uuid4().hex)
        self._workloads.preflight(job, attempt)
        prepare(job)
        (job.folder / _ATTEMPT).write_text(
            json.dumps({"number": attempt.number, "meeting": attempt.meeting})
        )
        self._workloads.start(job, attempt)
        return number

    def _remove(self, job: StageJob, number: int) -> None:
        """Remove an attempt; if the server is away, the reconciler does."""
        with suppress(TransientError):
            self._workloads.remove(job, number)

    def _take_away(self, job: StageJob, number: int) -> None:
        """Remove an attempt and wait for its pods: two must not write one workspace."""
        self._workloads.remove(job, number)
        deadline_s = time.monotonic() + self._profile.grace_s + _GONE_S
        while self._workloads.look(job, number).pods and time.monotonic() < deadline_s:
            if self._is_stopped.wait(_POLL_S):
                raise KeyboardInterrupt


class _AwayError(TransientError):
    """The API server is away for too long; the jobs go on without us."""


class _Follower:
    """Follows one attempt to its end."""

    def __init__(
        self, api: ClusterApi, profile: ClusterProfile, job: StageJob, progress: Progress
    ) -> None:
        self._profile = profile
        self._job = job
        self._progress = progress
        self._logs = PodLogs(api, job.folder / LOG_FILE)
        self._pods: dict[str, str] = {}  # rank: the pod that began it
        self._since_s: dict[tuple[str, Why], float] = {}
        self._heard_s = time.monotonic()
        self._failed_s: float | None = None
        self._told = ""

    def follow(self, workloads: Workloads, number: int, is_stopped: threading.Event) -> None:
        """Return when the attempt has succeeded.

        Raises:
            KeyboardInterrupt: We were told to stop.
            _TakenAwayError: The cluster ended it.
            ConfigError: A pod cannot start, or ran out of memory; or the stage refused.
            InterloomError: What the stage ended by.
        """
        offset = 0
        while True:
            if is_stopped.is_set():
                raise KeyboardInterrupt
            offset = forward(self._job.folder / "progress.jsonl", offset, self._progress)
            sight = self._sight(workloads, number)
            if sight is not None and self._is_over(sight, heals_itself=workloads.heals_itself):
                forward(self._job.folder / "progress.jsonl", offset, self._progress)
                return
            is_stopped.wait(_POLL_S)

    def _sight(self, workloads: Workloads, number: int) -> Sight | None:
        """What the cluster shows, and the new lines of the logs; None while nobody answers."""
        try:
            sight = workloads.look(self._job, number)
        except TransientError as error:
            silent_s = time.monotonic() - self._heard_s
            if silent_s > self._profile.away_s:
                raise _AwayError(f"{error} (silent for {silent_s:.0f} s)") from error
            self._tell(f"the API server is silent: {error}")
            return None
        self._heard_s = time.monotonic()
        with suppress(TransientError):  # the node of a lost pod has no log to give
            self._logs.fetch(sight.pods, is_end=sight.phase in {Phase.SUCCEEDED, Phase.FAILED})
        return sight

    def _is_over(self, sight: Sight, *, heals_itself: bool) -> bool:
        """Whether it has succeeded; raises when it has not and will not."""
        match sight.phase:
            case Phase.SUCCEEDED:
                return True
            case Phase.QUEUED:
                self._tell(f"queued: {sight.note}" if sight.note else "queued")
            case Phase.FAILED:
                if not heals_itself:
                    self._check_lost(sight)
                self._judge(sight)
            case Phase.RUNNING:
                self._check_waiting(sight)
                if not heals_itself:
                    self._check_lost(sight)
        return False

    def _judge(self, sight: Sight) -> None:
        """Say how a failed attempt ended, once all ranks have told or had time to."""
        now_s = time.monotonic()
        self._failed_s = self._failed_s or now_s
        ends = [end for pod in sight.pods if (end := ended(pod)) is not None]
        if len(ends) < self._job.num_ranks and now_s - self._failed_s < _SETTLE_S:
            return
        bad = [end for end in ends if end.exit_code != 0]
        full = [end for end in bad if end.is_out_of_memory]
        if full:
            raise ConfigError(self._out_of_memory())
        if not bad or any(end.is_taken_away for end in bad):
            raise _TakenAwayError("the cluster took a pod away")
        error = stage_error(_first_code(bad), self._job)
        if isinstance(error, PreemptedError):
            raise _TakenAwayError("it was told to end") from error
        raise error

    def _out_of_memory(self) -> str:
        pool = self._profile.pool(self._job.stage)
        limit = pool.resources.get("limits", {}).get("memory", "the node's")
        return (
            f"stage {self._job.stage!r} ran out of memory: its limit is {limit} in pool "
            f"{self._profile.pool_name(self._job.stage)!r}; raise it in the cluster profile, or "
            "make batches smaller"
        )

    def _check_lost(self, sight: Sight) -> None:
        """A pod of several ranks that goes, or is another than before, ends the attempt."""
        if self._job.num_ranks == 1:
            return
        for pod in sight.pods:
            metadata = pod["metadata"]
            first = self._pods.setdefault(metadata["labels"][RANK_LABEL], metadata["uid"])
            is_going = "deletionTimestamp" in metadata
            if is_going or first != metadata["uid"]:
                raise _TakenAwayError(f"pod {metadata['name']} was lost or replaced")

    def _check_waiting(self, sight: Sight) -> None:
        """Tell why pods do not run, and give up in time.

        Raises:
            ConfigError: A reason has held for longer than the profile allows.
        """
        reasons = [*sight.waiting, *(found for pod in sight.pods if (found := waiting(pod)))]
        seen = {(reason.who, reason.why) for reason in reasons}
        self._since_s = {key: since for key, since in self._since_s.items() if key in seen}
        for reason in reasons:
            now_s = time.monotonic()
            since_s = self._since_s.setdefault((reason.who, reason.why), now_s)
            self._tell(str(reason))
            if now_s - since_s >= self._patience_s(reason):
                raise ConfigError(
                    f"stage {self._job.stage!r} does not start: {reason}; "
                    f"{self._advice(reason.why)}"
                )

    def _patience_s(self, reason: Waiting) -> float:
        is_nodes = reason.why is Why.NO_NODE
        return self._profile.unschedulable_s if is_nodes else self._profile.refused_s

    def _advice(self, why: Why) -> str:
        stage, pool = self._job.stage, self._profile.pool_name(self._job.stage)
        match why:
            case Why.NO_NODE:
                wanted = dict(self._profile.pool(stage).node_selector)
                return (
                    f"it goes to pool {pool!r} (nodes with {wanted or 'any label'}): add such a "
                    "node, ask for less, or name another pool in the cluster profile"
                )
            case Why.IMAGE:
                return "build and push the image, or name another in the cluster profile"
            case Why.BROKEN:
                return "apply the manifests of infra/ that its pod refers to"
            case Why.NOT_MADE:
                return "mend what is named there, or ask for less"

    def _tell(self, note: str) -> None:
        if note != self._told:
            self._told = note
            self._progress.update(0, None, note)


def _first_code(bad: list[Ended]) -> int:
    """Of several ranks, the code that says most: 1 is what the others of a dead rank end with."""
    return max((end.exit_code for end in bad), key=lambda code: (code != 1, code))


def _read_attempt(folder: Path) -> Attempt | None:
    """The last attempt that was begun in a workspace; None in a new one."""
    try:
        body: Mapping[str, Any] = json.loads((folder / _ATTEMPT).read_text())
    except (OSError, ValueError):
        return None
    return Attempt(int(body["number"]), str(body["meeting"]))


def _report(job: StageJob, wall_s: float) -> JobReport:
    """What the ranks, and the parts before them, left in the workspace."""
    found = (*job.folder.glob("usage-*.json"), *job.folder.glob("parts/*/usage-*.json"))
    usages = [json.loads(path.read_text()) for path in found]
    return JobReport(
        (job.folder / "result.json").read_text(),
        wall_s,
        sum(usage["cpu_s"] for usage in usages),
        max((usage["peak_rss_bytes"] for usage in usages), default=0),
    )
