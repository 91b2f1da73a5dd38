"""What a cluster gives to stages: pools of nodes, a pod's shape, how long to wait for what.

It is a JSON file that belongs to the installation, as ``infra/base/cluster-profile.json``; what a
stage computes never depends on it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from interloom.config.base import Frozen
from interloom.core.errors import ConfigError

GPU = "nvidia.com/gpu"
GRACE_S = 120
"""Seconds in which a rank ends its step and writes its part of a checkpoint, by default."""
_Quantity = Annotated[str, Field(pattern=r"^[0-9]+[a-zA-Z]*$")]


class PoolProfile(Frozen):
    """One pool of nodes.

    Attributes:
        node_selector: Labels that its nodes carry.
        tolerations: Of the taints that its nodes carry.
        image: Of its pods, where it is not that of ``pod``.
        resources: Kubernetes' ``requests`` and ``limits`` of one rank, in whole numbers.
        ranks_per_node: How many ranks a node of a train job holds; its GPUs, as a rule.
        priority_class: Who yields on a full node.
        queue: Kueue's local queue, where the cluster has one.
    """

    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    image: str | None = None
    resources: Mapping[str, Mapping[str, _Quantity]] = Field(default_factory=dict)
    ranks_per_node: PositiveInt = 1
    priority_class: str | None = None
    queue: str | None = None

    def resources_of(self, num_ranks: int) -> dict[str, dict[str, str]]:
        """What so many ranks on one node ask for."""
        return {
            kind: {name: _times(value, num_ranks) for name, value in values.items()}
            for kind, values in self.resources.items()
        }

    @property
    def num_gpus(self) -> int:
        """GPUs of one rank."""
        return int(self.resources.get("limits", {}).get(GPU, "0"))


class FanOutProfile(Frozen):
    """How the shards of a data stage are made side by side, before the stage itself.

    Attributes:
        parts: Jobs that make them between them; one that finds nothing to do ends at once.
        at_once: So many of them run at a time.
        retries: Of each, when it fails in a way that another try may mend.
    """

    parts: PositiveInt
    at_once: PositiveInt
    retries: NonNegativeInt = 3


class ClusterProfile(Frozen):
    """The installation's cluster.

    Attributes:
        namespace: Where jobs are made.
        pools: By name.
        default_pool: For stages that ``stages`` does not name.
        stages: Stage name to pool name.
        fan_out: Stage name to how its shards are made side by side; only for stages that can.
        python: What runs Python in the image.
        pod: Kubernetes' pod template; its first container runs the stage. It mounts store and
            workspaces at the paths that the flow has them.
        rendezvous_env: Further environment of ranks that must find each other: the catalog's URL.
        runtime: The cluster training runtime that train jobs refer to.
        unschedulable_s: For so long a pod may find no node; give an autoscaler its time.
        refused_s: For so long an image may fail to come, or a pod to be made.
        away_s: For so long the API server may be silent.
        kept_s: For so long a finished job is kept for people to look at.
        max_preemptions: Attempts that the cluster itself may end, apart from the user's retries.
        grace_s: Between SIGTERM and the end of a pod: time for a checkpoint.
    """

    namespace: str = "interloom"
    pools: Mapping[str, PoolProfile]
    default_pool: str
    stages: Mapping[str, str] = Field(default_factory=dict)
    fan_out: Mapping[str, FanOutProfile] = Field(default_factory=dict)
    python: tuple[str, ...] = ("python",)
    pod: Mapping[str, Any]
    rendezvous_env: tuple[Mapping[str, Any], ...] = ()
    runtime: str = "interloom-deepspeed"
    unschedulable_s: PositiveFloat = 20.0
    refused_s: PositiveFloat = 10.0
    away_s: PositiveFloat = 600.0
    kept_s: NonNegativeInt = 3600
    max_preemptions: NonNegativeInt = 100
    grace_s: PositiveInt = GRACE_S

    def pool_name(self, stage: str) -> str:
        """Which pool runs a stage."""
        return self.stages.get(stage, self.default_pool)

    def pool(self, stage: str) -> PoolProfile:
        """The pool that runs a stage.

        Raises:
            ConfigError: The profile has no pool of this name; lists those it has.
        """
        name = self.pool_name(stage)
        if name not in self.pools:
            raise ConfigError(
                f"stage {stage!r} goes to pool {name!r}, which the cluster profile does not have; "
                f"it has {', '.join(sorted(self.pools)) or 'none'}: add it, or name another"
            )
        return self.pools[name]


def _times(quantity: str, number: int) -> str:
    """A whole Kubernetes quantity, so many times: ``100Mi`` thrice is ``300Mi``."""
    digits = quantity.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return f"{int(digits) * number}{quantity[len(digits) :]}"


def load_cluster_profile(path: Path | None) -> ClusterProfile:
    """Read the profile.

    Raises:
        ConfigError: There is no such file, or a field is wrong; names it.
    """
    if path is None:
        raise ConfigError(
            "a launcher on a cluster needs the cluster's profile; set INTERLOOM_CLUSTER_PROFILE to "
            "a file such as infra/base/cluster-profile.json"
        )
    try:
        return ClusterProfile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"INTERLOOM_CLUSTER_PROFILE: {path} cannot be read: {error.strerror}"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"cluster profile {path}: {where}: {first['msg']}") from error
