"""Kubernetes' API as plain JSON, with errors that say what to do.

The one module that imports the ``kubernetes`` client. Built-in and custom resources go the same
way, so that what we send is what we wrote.
"""

import json
from collections.abc import Mapping
from typing import Any

from interloom.config.environment import environment
from interloom.core.errors import ConfigError, InterloomError, MissingError, TransientError

Json = dict[str, Any]
FIELD_MANAGER = "interloom"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
TRAIN_JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
EVENTS = "/api/v1/namespaces/{namespace}/events"
QUOTAS = "/api/v1/namespaces/{namespace}/resourcequotas"
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/workloads"
_TIMEOUT_S = 15.0
_EXPIRED = (
    "does not accept these credentials: have they expired? log in again, or renew the kubeconfig"
)
_NO_RIGHT = "give the account the role of infra/base/accounts.yaml"


class NotThereError(MissingError):
    """What was asked for does not exist."""


class ExistsError(InterloomError):
    """An object of this name is there already."""


class RefusedError(ConfigError):
    """The account may not do this."""


class ClusterApi:
    """One namespace of one cluster: in a pod by its account, elsewhere by ``KUBECONFIG``."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._client = _client()
        self._server: str = self._client.configuration.host

    def get(self, path: str, name: str = "") -> Json:
        """An object."""
        found: Json = json.loads(self._call("GET", path, name, {}))
        return found

    def items(self, path: str, **query: str) -> list[Json]:
        """The objects of a list."""
        found: list[Json] = json.loads(self._call("GET", path, "", query))["items"]
        return found

    def text(self, path: str, name: str, query: Mapping[str, str | int]) -> str:
        """What is not JSON: logs."""
        return self._call("GET", path, name, query).decode(errors="replace")

    def create(self, path: str, body: Json, *, is_dry: bool = False) -> Json:
        """Make an object; an unknown field is refused by servers that can.

        Raises:
            ExistsError: There is one of this name.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"} | _dry(is_dry=is_dry)
        made: Json = json.loads(self._call("POST", path, "", query, body))
        return made

    def apply(self, path: str, body: Json, *, is_dry: bool = False) -> Json:
        """Server-side apply under our name: the same twice changes nothing."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true"}
        name = body["metadata"]["name"]
        kind = "application/apply-patch+yaml"
        made: Json = json.loads(
            self._call("PATCH", path, name, query | _dry(is_dry=is_dry), body, kind)
        )
        return made

    def merge(self, path: str, name: str, body: Json) -> Json:
        """Change some fields."""
        kind = "application/merge-patch+json"
        made: Json = json.loads(self._call("PATCH", path, name, {}, body, kind))
        return made

    def delete(self, path: str, name: str) -> None:
        """Remove an object and what it owns; nothing happens if it is not there."""
        try:
            self._call("DELETE", path, name, {"propagationPolicy": "Background"})
        except NotThereError:
            return

    def version(self) -> tuple[int, int]:
        """The server's, such as ``(1, 30)``."""
        told = self.get("/version")
        return int(told["major"]), int("".join(filter(str.isdigit, told["minor"])))

    def _call(
        self,
        method: str,
        path: str,
        name: str,
        query: Mapping[str, str | int],
        body: Json | None = None,
        kind: str = "application/json",
    ) -> bytes:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        place = path.format(namespace=self.namespace) + (f"/{name}" if name else "")
        try:
            words = self._client.param_serialize(
                method,
                place,
                query_params=[(key, str(value)) for key, value in query.items()],
                header_params={"Accept": "application/json, */*", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(*words, _request_timeout=_TIMEOUT_S)
            data: bytes = answer.read() or b""
        except (HTTPError, OSError, ApiException) as error:
            raise TransientError(
                f"no API server answers at {self._server} ({_short(error)}); "
                "is the cluster up, and does KUBECONFIG name it?"
            ) from error
        if answer.status >= 300:
            raise self._error(answer.status, data, f"{method} {place}")
        return data

    def _error(self, status: int, data: bytes, call: str) -> InterloomError:
        message = _message(data)
        kind: type[InterloomError]
        what = f"{message or call} (status {status} from {self._server})"
        match status:
            case 401:
                kind, told = ConfigError, f"the cluster at {self._server} {_EXPIRED}"
            case 403 if "exceeded quota" in message:
                kind, told = ConfigError, f"{what}; raise the quota, or ask for less"
            case 403:
                kind, told = RefusedError, f"{what}; {_NO_RIGHT}"
            case 404 if f'namespaces "{self.namespace}" not found' in message:
                kind, told = ConfigError, self._no_namespace()
            case 404:
                kind, told = NotThereError, f"{call}: {what}"
            case 409 if "already exists" in message:
                kind, told = ExistsError, what
            case 400 | 413 | 415 | 422:
                kind, told = ConfigError, f"the cluster refuses what it was sent: {what}"
            case _:
                kind, told = TransientError, what
        return kind(told)

    def _no_namespace(self) -> str:
        return (
            f"there is no namespace {self.namespace!r} on {self._server}; make it with "
            "kubectl apply -k infra/overlays/OVERLAY, or name another in the cluster profile"
        )


def _client() -> Any:
    """A client by the pod's account, or by the kubeconfig.

    Raises:
        MissingError: The client package is not installed.
        ConfigError: There is no kubeconfig, or it cannot be read.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise MissingError(
            "jobs on a cluster need the Kubernetes client; pip install 'interloom[cluster]'"
        ) from error
    settings = client.Configuration()
    settings.retries = 0  # who calls knows how long to try
    try:
        if "KUBERNETES_SERVICE_HOST" in environment() and "KUBECONFIG" not in environment():
            config.load_incluster_config(client_configuration=settings)
        else:
            named = environment().get("KUBECONFIG")  # the client reads it only when imported
            config.load_kube_config(named, client_configuration=settings)
    except (config.ConfigException, OSError, ValueError) as error:
        raise ConfigError(
            f"no cluster is known: {_short(error)}; set KUBECONFIG to a kubeconfig file"
        ) from error
    return client.ApiClient(settings)


def _dry(*, is_dry: bool) -> dict[str, str]:
    return {"dryRun": "All"} if is_dry else {}


def _message(data: bytes) -> str:
    """What a Status object says."""
    try:
        body = json.loads(data)
    except ValueError:
        return data.decode(errors="replace").strip()[:300]
    return str(body.get("message", "")) if isinstance(body, dict) else ""


def _short(error: Exception) -> str:
    """The last cause of a connection error, in one line."""
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, Exception) else error
    return " ".join(str(inner).split()).split("): ", 1)[-1][:200] or type(inner).__name__
