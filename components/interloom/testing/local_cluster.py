"""A cluster whose only node is this machine: its pods run this checkout by host paths.

For tests. Pods get this machine's ``/usr``, interpreter, virtual environment and code at their own
paths, from an image with an empty root; nothing is built or copied.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import interloom
from interloom.adapters.cluster.api import JOBS, PODS, ClusterApi
from interloom.config.environment import environment
from interloom.core.errors import MissingError

ROOT = Path(interloom.__file__).parents[2]  # of the checkout
IMAGE = environment().get("INTERLOOM_TEST_IMAGE", "localhost/host:1")
HOST = environment().get("INTERLOOM_TEST_HOST_ADDRESS", "10.244.0.1")  # this machine, from a pod

_CODE = ":".join(str(ROOT / part) for part in ("components", "flows", "dashboards"))

Json = dict[str, Any]

_IMAGE_ENV = (  # of infra/images/Dockerfile
    {"name": "PATH", "value": "/opt/interloom/bin:/usr/bin:/bin"},
    {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
    {"name": "PYTHONUNBUFFERED", "value": "1"},
    {"name": "DO_NOT_TRACK", "value": "1"},
)


def kubectl(*words: str, body: str | None = None, check: bool = True) -> str:
    """What kubectl prints."""
    program = shutil.which("kubectl")
    if program is None:
        raise MissingError("kubectl is not installed (Debian: kubernetes-client)")
    command = [program, "--request-timeout=30s", *words]
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


@dataclass(frozen=True, slots=True)
class Site:
    """A namespace, and a folder of this machine that its pods have at the same path.

    Attributes:
        namespace: Its name.
        folder: Store, workspaces, profile.
        api: The cluster, in that namespace.
    """

    namespace: str
    folder: Path
    api: ClusterApi

    def profile(self, **changes: Any) -> Path:
        """Write a cluster profile; ``changes`` replace its fields."""
        path = self.folder / f"profile-{uuid4().hex[:8]}.json"
        path.write_text(json.dumps(self.profile_body() | changes))
        return path

    def profile_body(self) -> Json:
        """A profile whose pods run this checkout."""
        return {
            "namespace": self.namespace,
            "default_pool": "cpu",
            "pools": {"cpu": {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}},
            "python": [sys.executable],
            "pod": pod_template(self.folder, {"INTERLOOM_STORE_ROOT": str(self.folder / "store")}),
            "refused_s": 8,
            "unschedulable_s": 8,
            "grace_s": 20,
        }

    def pods(self) -> list[Json]:
        """All pods."""
        return self.api.items(PODS)

    def jobs(self) -> list[Json]:
        """All jobs."""
        return self.api.items(JOBS)


def pod_template(folder: Path, env: Mapping[str, str]) -> Json:
    """A pod that has this machine's interpreter and checkout."""
    mounts = {
        "usr": Path("/usr"),
        "python": Path(sys.base_prefix),
        "venv": Path(sys.prefix),
        "code": ROOT,
        "site": folder,
    }
    paths = {name: path for name, path in mounts.items() if path != Path("/usr") or name == "usr"}
    container = {
        "name": "stage",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": name, "value": value}
            for name, value in {
                "INTERLOOM_HOME": str(folder / "home"),
                "PYTHONPATH": _CODE,
                **env,
            }.items()
        ],
        "volumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": name != "site"}
            for name, path in paths.items()
        ],
    }
    volumes: list[Json] = [
        {"name": name, "hostPath": {"path": str(path)}} for name, path in paths.items()
    ]
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": volumes,
        }
    }


def in_image_root(spec: Json, root: Path) -> None:
    """Let the container of a pod run in an image's root that ``infra/images/fill.sh`` filled."""
    container = spec["containers"][0]
    container["image"] = IMAGE
    container["env"] = [*_IMAGE_ENV, *container.get("env", ())]
    parts = ("usr", "opt")
    mounts = [{"name": part, "mountPath": f"/{part}", "readOnly": True} for part in parts]
    container["volumeMounts"] = [*container.get("volumeMounts", ()), *mounts]
    volumes = [{"name": part, "hostPath": {"path": str(root / part)}} for part in parts]
    spec["volumes"] = [*spec.get("volumes", ()), *volumes]


def flow_job_template(site: Site, profile: Path, env: Mapping[str, str]) -> Json:
    """The job template of flow runs, as it is but for volumes, node pool, user and settings."""
    template: Json = json.loads((ROOT / "infra/base/job-template.json").read_text())
    variables = template["variables"]["properties"]
    variables["image"]["default"] = IMAGE
    variables["namespace"]["default"] = site.namespace
    spec = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    for word in ("nodeSelector", "tolerations", "priorityClassName", "securityContext"):
        del spec[word]
    container = spec["containers"][0]
    for word in ("envFrom", "securityContext", "resources"):
        del container[word]
    ours = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PYTHONPATH": _CODE,
        "PREFECT_HOME": str(site.folder / "prefect"),
        "INTERLOOM_HOME": str(site.folder / "home"),
        "INTERLOOM_WORK_ROOT": str(site.folder / "work"),
        "INTERLOOM_CLUSTER_PROFILE": str(profile),
        "INTERLOOM_RETRY_DELAYS_S": "[2, 10, 30]",
        **env,
    }
    kept = [entry for entry in container["env"] if entry["name"] not in ours]
    container["env"] = kept + [{"name": name, "value": value} for name, value in ours.items()]
    from_here = pod_template(site.folder, {})["spec"]
    container["volumeMounts"] = from_here["containers"][0]["volumeMounts"]
    spec["volumes"] = from_here["volumes"]
    return template
