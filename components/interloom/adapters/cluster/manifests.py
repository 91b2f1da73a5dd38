"""What is sent to the cluster: a plain Job a rank, or one TrainJob. Pure."""

import copy
from dataclasses import dataclass
from typing import Any

from interloom.adapters.stage_files import SHUTDOWN, stage_environment
from interloom.config.cluster import ClusterProfile, PoolProfile
from interloom.ports.launcher import StageJob

Json = dict[str, Any]

MANAGED = {"app.kubernetes.io/managed-by": "interloom"}
KEY_LABEL = "interloom.dev/stage-key"
ATTEMPT_LABEL = "interloom.dev/attempt"
RANK_LABEL = "interloom.dev/rank"
PART_LABEL = "interloom.dev/part"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# What the stage runner exits with when a retry cannot help: request, data, an installation.
FINAL_EXIT_CODES = (64, 65, 66)
_POD_FAILURE_POLICY = (1, 26)  # servers from here on know it


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to execute a stage.

    Attributes:
        number: Counts from 1; each has names of its own.
        meeting: Under which its ranks find each other; never used twice.
    """

    number: int
    meeting: str


def label_of(stage_key: str) -> str:
    """A stage key as a label's value, which may have 63 letters."""
    return stage_key[:40]


def base_name(job: StageJob, attempt: int) -> str:
    """``pretrain-7f3a91c2d0-a1``: the same for the same stage key, part and attempt."""
    part = "" if job.part is None else f"-{job.part}"
    return f"{job.stage.replace('_', '-')}-{job.key[:10]}{part}-a{attempt}"


def selector_of(job: StageJob) -> str:
    """Which objects belong to a job, over all attempts: those of its part, or of none."""
    part = f"!{PART_LABEL}" if job.part is None else f"{PART_LABEL}={job.part}"
    return f"{KEY_LABEL}={label_of(job.key)},{part}"


def rank_job(
    job: StageJob,
    profile: ClusterProfile,
    *,
    attempt: Attempt,
    rank: int,
    program: tuple[str, ...],
    server: tuple[int, int],
) -> Json:
    """The Job of one rank.

    Args:
        job: What to execute.
        profile: Where and in what pod.
        attempt: Which try this is.
        rank: Its number among ``job.num_ranks``.
        program: What Python runs, before the stage's name and its request.
        server: The API server's version: what it does not know is not sent.
    """
    labels = {**MANAGED, **_identity(job, attempt.number), RANK_LABEL: str(rank)}
    pool = profile.pool(job.stage)
    spec: Json = {
        "backoffLimit": 0,  # all ranks go before any comes back, so the launcher counts
        "completions": 1,
        "parallelism": 1,
        "ttlSecondsAfterFinished": profile.kept_s,
        "template": _pod(
            job, profile, labels, _command(job, profile, rank, attempt.meeting, program)
        ),
    }
    if server >= _POD_FAILURE_POLICY:
        container = spec["template"]["spec"]["containers"][0]["name"]
        spec["podFailurePolicy"] = _failure_policy(container)
    queue = {QUEUE_LABEL: pool.queue} if pool.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{base_name(job, attempt.number)}-r{rank}",
            "labels": {**labels, **queue},
        },
        "spec": spec,
    }


def train_job(
    job: StageJob, profile: ClusterProfile, *, attempt: int, program: tuple[str, ...]
) -> Json:
    """The TrainJob of all ranks: one node a rank, processes by its GPUs."""
    pool = profile.pool(job.stage)
    container = profile.pod["spec"]["containers"][0]
    queue = {QUEUE_LABEL: pool.queue} if pool.queue else {}
    per_node = min(job.num_ranks, pool.ranks_per_node)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": base_name(job, attempt),
            "labels": {**MANAGED, **_identity(job, attempt), **queue},
        },
        "spec": {
            "suspend": bool(pool.queue),  # Kueue admits
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": profile.runtime,
            },
            "trainer": {
                "image": pool.image or container["image"],
                "command": ["torchrun", *program, *_stage_words(job)],
                "numNodes": -(-job.num_ranks // per_node),
                "numProcPerNode": per_node,
                "resourcesPerNode": pool.resources_of(per_node),
                "env": _named(_environment(job, pool) | {SHUTDOWN: str(profile.grace_s)}),
            },
        },
    }


def _identity(job: StageJob, attempt: int) -> dict[str, str]:
    part = {} if job.part is None else {PART_LABEL: str(job.part)}
    return {
        KEY_LABEL: label_of(job.key),
        ATTEMPT_LABEL: str(attempt),
        "interloom.dev/stage": job.stage,
        **part,
    }


def _stage_words(job: StageJob) -> list[str]:
    words = [job.stage, str(job.folder / "request.json"), "--on-cluster"]
    if job.part is None:
        return words
    return [*words, f"--part={job.part}", f"--workspace={job.workspace}"]


def _command(
    job: StageJob, profile: ClusterProfile, rank: int, meeting: str, program: tuple[str, ...]
) -> list[str]:
    """The stage itself; several ranks find each other first."""
    stage = [*profile.python, *program, *_stage_words(job)]
    if job.num_ranks == 1:
        return stage
    words = ["-m", "interloom.adapters.cluster.rank", meeting, str(rank), str(job.num_ranks)]
    return [*profile.python, *words, "--", *stage]


def _environment(job: StageJob, pool: PoolProfile) -> dict[str, str]:
    return stage_environment(job.threads_per_rank, "cuda" if pool.num_gpus else "cpu")


def _named(values: dict[str, str]) -> list[Json]:
    """As a TrainJob takes them; old servers turn an empty value into none at all."""
    return [{"name": name, "value": value} for name, value in sorted(values.items()) if value]


def _pod(job: StageJob, profile: ClusterProfile, labels: Json, command: list[str]) -> Json:
    """The profile's pod template with the stage in its first container."""
    pool = profile.pool(job.stage)
    template: Json = copy.deepcopy(dict(profile.pod))
    template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    spec = template["spec"]
    if job.num_ranks > 1:
        template["metadata"]["labels"]["interloom.dev/role"] = "rank"
    spec["restartPolicy"] = "Never"
    spec["terminationGracePeriodSeconds"] = profile.grace_s
    if pool.node_selector:
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | dict(pool.node_selector)
    if pool.tolerations:
        spec["tolerations"] = [*spec.get("tolerations", ()), *map(dict, pool.tolerations)]
    if pool.priority_class:
        spec["priorityClassName"] = pool.priority_class
    container = spec["containers"][0]
    container["command"] = command
    container["image"] = pool.image or container["image"]
    if pool.resources:
        container["resources"] = pool.resources_of(1)
    container["env"] = [
        *container.get("env", ()),
        *({"name": k, "value": v} for k, v in sorted(_environment(job, pool).items())),
        *(_rank_environment(profile) if job.num_ranks > 1 else ()),
    ]
    return template


def _rank_environment(profile: ClusterProfile) -> list[Json]:
    """How ranks find each other: own address, own identity, the catalog."""
    fields = {"INTERLOOM_POD_IP": "status.podIP", "INTERLOOM_POD_UID": "metadata.uid"}
    own = [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in fields.items()
    ]
    return [*own, *map(dict, profile.rendezvous_env)]


def _failure_policy(container: str) -> Json:
    """Both end the job at once, and say why: the launcher decides what comes next."""
    final = {"containerName": container, "operator": "In", "values": [*FINAL_EXIT_CODES]}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": final},
            {"action": "FailJob", "onPodConditions": disrupted},
        ]
    }
