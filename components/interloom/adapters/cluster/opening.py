"""A launcher from settings: which cluster, which kind of job."""

from pathlib import Path
from typing import Literal

from interloom.adapters.cluster.api import ClusterApi
from interloom.adapters.cluster.jobs import JobWorkloads
from interloom.adapters.cluster.launcher import ClusterLauncher
from interloom.adapters.cluster.trainjobs import TrainJobWorkloads
from interloom.adapters.cluster.workloads import Workloads
from interloom.config.cluster import load_cluster_profile

_PROGRAM = ("-m", "interloom.stages")


def open_cluster_launcher(
    kind: Literal["jobs", "trainjob"], path: Path | None, program: tuple[str, ...] = _PROGRAM
) -> ClusterLauncher:
    """Read the profile and find the cluster; nothing is asked of it yet.

    Args:
        kind: Plain jobs, or train jobs for the stages of GPU pools and plain jobs for the rest.
        path: The cluster's profile.
        program: What Python runs, before the stage's name and its request.

    Raises:
        ConfigError: The profile or the kubeconfig cannot be read.
        MissingError: The Kubernetes client is not installed.
    """
    profile = load_cluster_profile(path)
    api = ClusterApi(profile.namespace)
    jobs: Workloads = JobWorkloads(api, profile, program)
    workloads = jobs if kind == "jobs" else TrainJobWorkloads(api, profile, program, plain=jobs)
    return ClusterLauncher(api, profile, workloads)
