"""The manifests: each is valid, and together they refer to nothing that is not there."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from interloom.config.cluster import load_cluster_profile
from interloom.stages.registry import STAGES, load_stage

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.34"
OVERLAYS = ["local", "gpu-cluster"]
CLUSTER_KINDS = {
    "Namespace",
    "PriorityClass",
    "ResourceFlavor",
    "ClusterQueue",
    "WorkloadPriorityClass",
    "ClusterTrainingRuntime",
}
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def infra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder, with secrets."""
    folder = tmp_path_factory.mktemp("tree") / "infra"
    shutil.copytree(ROOT / "infra", folder)
    subprocess.run([folder / "make-secrets.sh"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest, infra: Path) -> list[Resource]:
    """What an overlay applies."""
    return rendered(infra / "overlays" / request.param)


def rendered(folder: Path) -> list[Resource]:
    """What ``kubectl kustomize`` makes, for the words of kustomize that we use."""
    body = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "namespace", "labels", "resources", "components", "patches"}
    generators = {"configMapGenerator", "secretGenerator", "generatorOptions"}
    assert not set(body) - known - generators, f"{folder}: teach the test {set(body) - known}"
    found: list[Resource] = []
    for name in [*body.get("resources", ()), *body.get("components", ())]:
        path = folder / name
        documents = yaml.safe_load_all(path.read_text()) if path.is_file() else rendered(path)
        found += [document for document in documents if document]
    for kind in ("ConfigMap", "Secret"):
        for entry in body.get(f"{kind[0].lower()}{kind[1:]}Generator", ()):
            made = _generated(folder, kind, entry)
            if entry.get("behavior") == "replace":
                before = next(one for one in found if _name(one) == _name(made))
                before[_field(kind)] = made[_field(kind)]
            else:
                found.append(made)
    for resource in found:
        _adorn(resource, body)
    for patch in body.get("patches", ()):
        _patch(found, patch["target"], yaml.safe_load(patch["patch"]))
    return found


def _adorn(resource: Resource, body: Mapping[str, Any]) -> None:
    for pair in body.get("labels", ()):
        resource["metadata"].setdefault("labels", {}).update(pair["pairs"])
    if "namespace" in body and resource["kind"] not in CLUSTER_KINDS:
        resource["metadata"]["namespace"] = body["namespace"]


def _generated(folder: Path, kind: str, entry: Mapping[str, Any]) -> Resource:
    data = {name: (folder / name).read_text() for name in entry.get("files", ())}
    for name in entry.get("envs", ()):
        lines = (folder / name).read_text().splitlines()
        data |= dict(line.split("=", 1) for line in lines)
    metadata = {"name": entry["name"]}
    if "namespace" in entry:
        metadata["namespace"] = entry["namespace"]
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, _field(kind): data}


def _field(kind: str) -> str:
    return "stringData" if kind == "Secret" else "data"


def _patch(found: list[Resource], target: Mapping[str, str], steps: list[Any]) -> None:
    hit = [
        resource
        for resource in found
        if resource["kind"] == target["kind"]
        and target.get("name") in {None, resource["metadata"]["name"]}
    ]
    assert hit, f"a patch matches nothing: {target}"
    for resource in hit:
        for step in steps:
            *path, last = step["path"].strip("/").split("/")
            place: Any = resource
            for part in path:
                place = place[int(part)] if isinstance(place, list) else place[part]
            assert last in place, f"{step} finds nothing in {target}"
            if step["op"] == "remove":
                del place[last]
            else:
                place[last] = step["value"]


def _name(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def _pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Every pod template, the one in the training runtime included."""
    for resource in resources:
        if resource["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield _name(resource), resource["spec"]["template"]
        if resource["kind"] == "ClusterTrainingRuntime":
            for job in resource["spec"]["template"]["spec"]["replicatedJobs"]:
                yield _name(resource), job["template"]["spec"]["template"]
        if resource["metadata"]["name"] == "interloom-job-template":
            job = rendered_job(json.loads(resource["data"]["job-template.json"]))
            yield "flow run", job["spec"]["template"]


def rendered_job(template: Resource, **variables: Any) -> Resource:
    """The job that the Prefect worker would make."""
    schema = template["variables"]["properties"]
    values = {name: entry.get("default") for name, entry in schema.items()}
    values |= {"name": "run-1", "command": ["prefect", "flow-run", "execute"]}
    values |= {"labels": {"prefect.io/flow-run-id": "1"}, "annotations": {}, **variables}

    def fill(value: Any) -> Any:
        match value:
            case dict():
                return {key: fill(item) for key, item in value.items()}
            case list():
                return [fill(item) for item in value]
            case str() if found := re.fullmatch(r"\{\{ (\w+) \}\}", value):
                return values[found[1]]
            case str():
                return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(values[found[1]]), value)
            case _:
                return value

    job: Resource = fill(copy.deepcopy(template["job_configuration"]["job_manifest"]))
    return job


def _check(resource: Resource) -> None:
    """Strict validation: an unknown field is an error."""
    path = SCHEMAS / f"{resource['kind'].lower()}.json"
    if path.exists():
        jsonschema.Draft202012Validator(json.loads(path.read_text())).validate(resource)
    else:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_every_resource_passes_strict_validation(resources: list[Resource]) -> None:
    for resource in resources:
        _check(resource)


def test_pods_inside_custom_resources_and_flow_runs_pass_strict_validation(
    resources: list[Resource],
) -> None:
    for name, pod in _pods(resources):
        metadata = {"name": "pod", "labels": pod["metadata"]["labels"]}
        _check({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
        assert name


def test_strict_validation_finds_a_misspelt_field_of_a_custom_resource(infra: Path) -> None:
    resources = rendered(infra / "overlays" / "gpu-cluster")
    queue = next(r for r in resources if r["kind"] == "ClusterQueue")
    queue["spec"]["cohort"] = "speech"  # its name before v1beta2

    with pytest.raises(jsonschema.ValidationError, match="cohort"):
        _check(queue)


def test_the_pod_of_a_flow_run_has_no_label_that_prefect_replaces() -> None:
    template = json.loads((ROOT / "infra/base/job-template.json").read_text())
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]

    labels = pod["metadata"]["labels"]

    assert labels["interloom.dev/role"] == "flow-run"
    assert all(label.startswith("interloom.dev/") for label in labels)


def test_the_job_of_a_flow_run_is_valid_for_each_pool() -> None:
    template = json.loads((ROOT / "infra/base/job-template.json").read_text())

    for pool in template["variables"]["properties"]["pool"]["enum"]:
        for capacity in template["variables"]["properties"]["capacity"]["enum"]:
            job = rendered_job(template, pool=pool, capacity=capacity)
            kubernetes_validate.validate(job, KUBERNETES, strict=True)
            assert job["spec"]["template"]["spec"]["nodeSelector"] == {
                "interloom.dev/pool": pool,
                "interloom.dev/capacity": capacity,
            }


def test_the_worker_accepts_the_job_template() -> None:
    # It asks for parallelism and completions inside the pod, where Kubernetes knows neither;
    # with both in their right place it is content as well.
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="needs the cluster extra")
    template = json.loads((ROOT / "infra/base/job-template.json").read_text())
    manifest = rendered_job(template)

    configuration = worker.KubernetesWorkerJobConfiguration(
        job_manifest=manifest, namespace="interloom", env={"A": "1"}
    )

    assert configuration.job_manifest["spec"]["template"]["spec"]["containers"]
    assert "completions" not in configuration.job_manifest["spec"]["template"]["spec"]
    stock = worker.KubernetesWorkerVariables.model_fields
    ours = set(template["variables"]["properties"])
    assert set(stock) - ours <= {"cluster_config", "cpu_limit", "active_deadline_seconds"}


def test_every_selector_matches_the_labels_of_a_pod(resources: list[Resource]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in _pods(resources)]
    for resource in resources:
        spec = resource.get("spec", {})
        wanted: list[dict[str, str]] = []
        match resource["kind"]:
            case "Service":
                wanted = [spec["selector"]]
            case "Deployment" | "StatefulSet":
                wanted = [spec["selector"]["matchLabels"]]
                assert wanted[0].items() <= spec["template"]["metadata"]["labels"].items()
            case "PodDisruptionBudget":
                wanted = [spec["selector"]["matchLabels"]]
            case "NetworkPolicy":
                wanted = [spec["podSelector"].get("matchLabels", {}), *_peers(spec)]
            case _:
                pass
        for selector in wanted:
            if selector.get("interloom.dev/role") == "rank" and not _has_runtime(resources):
                continue  # only a GPU cluster trains on several nodes
            assert any(selector.items() <= have.items() for have in labels), (
                f"{_name(resource)} selects no pod: {selector}"
            )


def _peers(spec: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The pods of our own namespace that a policy names as peers."""
    rules = [*spec.get("ingress", ()), *spec.get("egress", ())]
    for peer in (peer for rule in rules for peer in rule.get("from", rule.get("to", ()))):
        if "podSelector" in peer and "namespaceSelector" not in peer:
            yield peer["podSelector"]["matchLabels"]


def _has_runtime(resources: list[Resource]) -> bool:
    return any(resource["kind"] == "ClusterTrainingRuntime" for resource in resources)


def test_every_name_that_a_pod_refers_to_is_defined(resources: list[Resource]) -> None:
    names = {_name(resource) for resource in resources}
    keys = {
        (_name(resource), key)
        for resource in resources
        for key in {**resource.get("data", {}), **resource.get("stringData", {})}
    }
    for where, pod in _pods(resources):
        spec = pod["spec"]
        assert f"ServiceAccount/{spec['serviceAccountName']}" in names, where
        assert f"PriorityClass/{spec['priorityClassName']}" in names, where
        mounted = {mount["name"] for c in spec["containers"] for mount in c["volumeMounts"]}
        claimed = {volume["name"] for volume in spec["volumes"]}
        assert mounted - claimed <= {"data"}, where  # that of a StatefulSet's claim template
        for reference in _references(spec):
            kind, name, key = reference
            assert f"{kind}/{name}" in names, f"{where}: no {kind} {name}"
            assert key is None or (f"{kind}/{name}", key) in keys, f"{where}: no key {key}"


def _references(spec: Resource) -> Iterator[tuple[str, str, str | None]]:
    """Config maps, secrets and claims of a pod, with the key if one is named."""
    for container in spec["containers"]:
        for source in container.get("envFrom", ()):
            yield "ConfigMap", source["configMapRef"]["name"], None
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield "Secret", reference["name"], reference["key"]
    for volume in spec["volumes"]:
        yield from _sources(volume)


def _sources(volume: Resource) -> Iterator[tuple[str, str, str | None]]:
    match volume:
        case {"configMap": {"name": name}}:
            yield "ConfigMap", name, None
        case {"persistentVolumeClaim": {"claimName": name}}:
            yield "PersistentVolumeClaim", name, None
        case {"secret": {"secretName": name, "items": items}}:
            for item in items:
                yield "Secret", name, item["key"]
        case _:
            pass


def test_queues_name_flavors_and_queues_that_exist(infra: Path) -> None:
    resources = rendered(infra / "overlays" / "gpu-cluster")
    names = {_name(resource) for resource in resources}

    for resource in resources:
        if resource["kind"] == "LocalQueue":
            assert f"ClusterQueue/{resource['spec']['clusterQueue']}" in names
        if resource["kind"] == "ClusterQueue":
            for group in resource["spec"]["resourceGroups"]:
                for flavor in group["flavors"]:
                    assert f"ResourceFlavor/{flavor['name']}" in names
                    assert [r["name"] for r in flavor["resources"]] == group["coveredResources"]


def test_every_pod_runs_without_rights_on_a_read_only_root(resources: list[Resource]) -> None:
    for where, pod in _pods(resources):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"], where
        assert security["runAsUser"] > 0, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in pod["spec"]["containers"]:
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"], where
            assert inner["allowPrivilegeEscalation"] is False, where
            assert inner["capabilities"] == {"drop": ["ALL"]}, where
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where


def test_only_worker_and_flow_runs_carry_a_token(resources: list[Resource]) -> None:
    with_token = {
        where
        for where, pod in _pods(resources)
        if pod["spec"]["automountServiceAccountToken"] is not False
    }

    assert with_token == {"Deployment/interloom-worker", "flow run"}
    for resource in resources:
        if resource["kind"] == "ServiceAccount":
            assert resource["automountServiceAccountToken"] is False


def test_no_role_may_read_secrets_or_make_pods(resources: list[Resource]) -> None:
    roles = {r["metadata"]["name"]: r for r in resources if r["kind"] == "Role"}

    assert set(roles) == {"interloom-worker", "interloom-flow-runner"}
    assert not [r for r in resources if r["kind"] in {"ClusterRole", "ClusterRoleBinding"}]
    for role in roles.values():
        for rule in role["rules"]:
            granted = {*rule["resources"], *rule["verbs"], *rule["apiGroups"]}
            assert "*" not in granted
            assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            if {"pods", "pods/log", "events"} & set(rule["resources"]):
                assert set(rule["verbs"]) <= {"get", "list", "watch"}
    train = [r for r in roles["interloom-flow-runner"]["rules"] if r["resources"] == ["trainjobs"]]
    assert train[0]["verbs"] == ["get", "list", "watch", "create", "patch", "delete"]


def test_nothing_may_connect_that_no_policy_allows(resources: list[Resource]) -> None:
    policies = {r["metadata"]["name"]: r["spec"] for r in resources if r["kind"] == "NetworkPolicy"}

    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]:
            assert "ports" in rule or name == "train-together"


def test_images_are_pinned_and_none_is_an_abandoned_s3_server(resources: list[Resource]) -> None:
    images = {c["image"] for _, pod in _pods(resources) for c in pod["spec"]["containers"]}

    for image in images:
        name, tag = image.rsplit(":", 1)
        assert re.search(r"\d", tag), image
        assert "." not in name.split("/")[0], f"{image} names a registry"
        assert "minio" not in name
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    ours = {image for image in images if image.startswith("interloom/")}
    assert {image.rsplit(":", 1)[1] for image in ours} == {version[1]}
    dockerfile = (ROOT / "infra/images/Dockerfile").read_text()
    stages = re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.MULTILINE)
    assert {image.split("/")[1].split(":")[0] for image in ours} <= set(stages)


def test_every_stage_goes_into_an_image_that_has_what_it_needs() -> None:
    script = (ROOT / "infra/images/stage.sh").read_text()
    extras = dict(re.findall(r"^(\w+)\) extras=(\S+) ;;$", script, re.MULTILINE))
    assert set(extras) == {"flows", "train", "vllm", "dashboard"}
    for path in (ROOT / "infra").rglob("cluster-profile.json"):
        profile = load_cluster_profile(path)
        for stage in STAGES:
            image = profile.pool(stage).image or profile.pod["spec"]["containers"][0]["image"]
            name = image.split("/")[1].split(":")[0]
            definition = load_stage(stage)
            assert "train" in extras[name].split(",")  # torch
            assert ("engine" in definition.ports) == (name == "train"), stage
            assert "gate" not in definition.ports or "quality" in extras[name].split(","), stage


# Each was seen in what its exporter tells, or is in the exporter's own list of stable metrics.
METRICS = {
    "SeaweedFS_master_pick_for_write_error",
    "SeaweedFS_s3_request_total",
    "kube_deployment_status_replicas_available",
    "kube_job_status_failed",
    "kube_pod_container_status_terminated_reason",
    "kube_pod_status_unschedulable",
    "kube_statefulset_status_replicas_ready",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "kueue_pending_workloads",
    "up",
}


def test_every_alert_is_explained_and_asks_for_metrics_that_exist(infra: Path) -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    (rules,) = [
        one for one in rendered(infra / "overlays/gpu-cluster") if one["kind"] == "PrometheusRule"
    ]

    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    asked = {name for rule in alerts for name in re.findall(r"(\w+)\{", rule["expr"])}

    assert asked == METRICS
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert f"| `{rule['alert']}` |" in operations
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_a_second_call_keeps_the_secrets(infra: Path) -> None:
    before = {path.name: path.read_bytes() for path in (infra / "secrets").iterdir()}

    subprocess.run([infra / "make-secrets.sh"], check=True, capture_output=True)

    assert {path.name: path.read_bytes() for path in (infra / "secrets").iterdir()} == before


def test_the_shell_scripts_parse_and_the_image_copies_what_exists() -> None:
    for script in [*(ROOT / "infra").rglob("*.sh")]:
        subprocess.run(["/bin/sh", "-n", script], check=True)
    lines = (ROOT / "infra/images/Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
    assert "constraints.txt" in (ROOT / "infra/images/stage.sh").read_text()
    assert (ROOT / "dashboards/interloom_dashboards/app.py").exists()


def test_the_migration_job_runs_a_module_that_exists() -> None:
    job = yaml.safe_load((ROOT / "infra/base/migrate.yaml").read_text())

    python, flag, module = job["spec"]["template"]["spec"]["containers"][0]["command"]

    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same(infra: Path, overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    version = subprocess.run(
        [kubectl, "version", "--client"], capture_output=True, text=True, check=False
    )
    if not re.search(r"Kustomize Version: v[5-9]", version.stdout):
        pytest.skip("this kubectl's kustomize is older than version 5")

    output = subprocess.run(
        [kubectl, "kustomize", infra / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    theirs = {_name(r): r for r in yaml.safe_load_all(output)}
    ours = {_name(r): r for r in rendered(infra / "overlays" / overlay)}
    assert theirs.keys() == ours.keys()
    for name, resource in ours.items():
        if resource["kind"] != "Secret":  # theirs holds base64
            assert theirs[name] == resource
