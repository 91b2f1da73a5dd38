"""What a pod adds: from its creation to the stage's first line, beside a process of this machine.

    KUBECONFIG=... python benchmarks/cluster_overhead

Also how long it takes from a bad image name to an error that says so. The node of the cluster must
be this machine: its pods run this checkout.
"""

import json
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from interloom.adapters.cluster.api import PODS, ClusterApi
from interloom.adapters.cluster.opening import open_cluster_launcher
from interloom.adapters.local_launcher import LocalLauncher
from interloom.core.errors import ConfigError
from interloom.ports.launcher import Launcher, StageJob
from interloom.ports.progress import NoProgress
from interloom.testing.local_cluster import Site, kubectl
from interloom.testing.probe import PROGRAM, ProbeRequest

ROUNDS = 5
BEGINS = "stage probe begins"


def main() -> None:
    """Measure both sides in turns and print the figures."""
    namespace = f"interloom-bench-{uuid4().hex[:6]}"
    kubectl("create", "namespace", namespace)
    try:
        with tempfile.TemporaryDirectory() as name:
            measure(Site(namespace, Path(name), ClusterApi(namespace)))
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def measure(site: Site) -> None:
    """Run the rounds and print one JSON object."""
    cluster = open_cluster_launcher("jobs", site.profile(), PROGRAM)
    here = LocalLauncher(store_root=site.folder / "store", program=PROGRAM)
    ours, local, refused = list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        ours.append(pod_s(site, run(cluster, site)))
        local.append(process_s(here, site))
        refused.append(refusal_s(site))
    for name, values in (("pod", ours), ("process", local), ("bad image", refused)):
        sys.stdout.write(f"{name}: {', '.join(f'{value:.1f}' for value in values)} s\n")
    ratio = round(statistics.median(local) / statistics.median(ours), 3)
    config = {"interloom": side(ours), "process": side(local), "ratio": ratio}
    message = {"limit_s": 30, "interloom": side(refused), "what": "bad image to error"}
    figure = {"figure": "pod start to stage start", "unit": "s", "configs": [config, message]}
    sys.stdout.write(json.dumps(figure | {"ratio": ratio}) + "\n")


def run(launcher: Launcher, site: Site) -> StageJob:
    """One short stage."""
    request = ProbeRequest(text="hello").model_dump_json()
    job = StageJob("probe", request, site.folder / "work" / uuid4().hex)
    launcher.run(job, progress=NoProgress())
    return job


def pod_s(site: Site, job: StageJob) -> float:
    """From the pod's creation to the stage's first line, both by the cluster's clock."""
    label = f"interloom.dev/stage-key={job.key[:40]}"
    (pod,) = site.api.items(PODS, labelSelector=label)
    log = site.api.text(PODS, f"{pod['metadata']['name']}/log", {"timestamps": "true"})
    (stamp,) = [line.split(" ", 1)[0] for line in log.splitlines() if line.endswith(BEGINS)]
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    began = datetime.fromisoformat(f"{stamp[:26].rstrip('Z')}+00:00")
    return (began - made).total_seconds()


def process_s(launcher: LocalLauncher, site: Site) -> float:
    """From the launcher's start to the stage's first line."""
    request = ProbeRequest(text="hello", num_steps=1).model_dump_json()
    job = StageJob("probe", request, site.folder / "work" / uuid4().hex)
    started_s = time.time()
    launcher.run(job, progress=NoProgress())
    return (job.folder / "steps").stat().st_mtime - started_s


def refusal_s(site: Site) -> float:
    """From the launcher's start to an error that names the image."""
    template = site.profile_body()["pod"]
    template["spec"]["containers"][0]["image"] = "localhost/there-is-none:1"
    launcher = open_cluster_launcher("jobs", site.profile(pod=template, refused_s=10), PROGRAM)
    started_s = time.monotonic()
    try:
        run(launcher, site)
    except ConfigError as error:
        if "there-is-none" in str(error):
            return time.monotonic() - started_s
    raise SystemExit("an image that does not exist was not refused by name")


def side(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(values), 2),
        "lowest": round(min(values), 2),
        "highest": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
