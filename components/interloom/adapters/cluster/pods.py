"""What a pod's status means: why it waits, how it ended. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]

_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_BROKEN = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_TAKEN_AWAY = frozenset(
    {"Evicted", "Preempting", "NodeLost", "NodeAffinity", "Shutdown", "Terminated"}
)
_KILLED, TOLD_TO_END = 137, 143
REPLACES_ANOTHER = 76  # of a rank that came back alone
_NOT_ITS_FAULT = frozenset({_KILLED, TOLD_TO_END, REPLACES_ANOTHER})


class Why(StrEnum):
    """Why a pod does not run yet, by who can mend it."""

    NO_NODE = "no node takes it"
    IMAGE = "its image does not come"
    BROKEN = "its container cannot start"
    NOT_MADE = "its pod is not made"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pod, or a job without one, that does not run, and the cluster's own words for it."""

    who: str
    why: Why
    message: str

    def __str__(self) -> str:
        return f"{self.who} waits: {self.why}: {self.message}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod's container ended.

    Attributes:
        exit_code: Of its process.
        is_taken_away: The cluster ended it, not the stage: evicted, drained, deleted, killed.
        is_out_of_memory: It passed its memory limit.
    """

    exit_code: int
    is_taken_away: bool = False
    is_out_of_memory: bool = False


def waiting(pod: Json) -> Waiting | None:
    """Why a pod does not run; None if it runs, has ended, or has just been made."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if status.get("phase") not in {"Pending", None}:
        return None
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Waiting(name, Why.NO_NODE, _words(condition))
    for container in _containers(status):
        state = container.get("state", {}).get("waiting")
        if state is None:
            continue
        if state.get("reason") in _IMAGE:
            return Waiting(name, Why.IMAGE, f"{container['image']}: {_words(state)}")
        if state.get("reason") in _BROKEN:
            return Waiting(name, Why.BROKEN, _words(state))
    return None


def not_made(job: str, events: Sequence[Json]) -> Waiting | None:
    """Why a job has no pod, by its events: a quota, an account or a policy is in the way."""
    for event in events:
        if event["involvedObject"]["name"] == job and event.get("reason") == "FailedCreate":
            return Waiting(f"job {job}", Why.NOT_MADE, str(event.get("message", "")))
    return None


def ended(pod: Json) -> Ended | None:
    """How a pod ended; None if it has not."""
    status = pod.get("status", {})
    states = [container.get("state", {}).get("terminated") for container in _containers(status)]
    failed = [state for state in states if state and state["exitCode"] != 0]
    is_gone = "deletionTimestamp" in pod["metadata"] or _is_disrupted(status)
    if status.get("phase") == "Succeeded":
        return Ended(0)
    if not failed:
        # Evicted before its container said anything, or on a node that is lost.
        return Ended(TOLD_TO_END, is_taken_away=True) if status.get("phase") == "Failed" else None
    code = int(failed[0]["exitCode"])
    is_full = failed[0].get("reason") == "OOMKilled"
    is_killed = code in _NOT_ITS_FAULT and not is_full
    return Ended(code, is_taken_away=is_gone or is_killed, is_out_of_memory=is_full)


def has_started(pod: Json) -> bool:
    """Whether a pod's container runs or has run, so that it has a log."""
    states = [container.get("state", {}) for container in _containers(pod.get("status", {}))]
    return any("running" in state or "terminated" in state for state in states)


def _is_disrupted(status: Json) -> bool:
    conditions = status.get("conditions", ())
    return status.get("reason") in _TAKEN_AWAY or any(
        condition["type"] == "DisruptionTarget" and condition["status"] == "True"
        for condition in conditions
    )


def _containers(status: Json) -> list[Json]:
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _words(state: Json) -> str:
    """Reason and message in one line."""
    return " ".join(str(state.get("message") or state.get("reason") or "no reason given").split())
