"""The pods' output, line by line: into the workspace's log, and to whoever follows the flow."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interloom.adapters.cluster.api import PODS, ClusterApi, NotThereError
from interloom.adapters.cluster.manifests import RANK_LABEL
from interloom.adapters.cluster.pods import has_started
from interloom.core.errors import ConfigError

# A flow run shows it when PREFECT_LOGGING_EXTRA_LOGGERS names it.
LOGGER = logging.getLogger("interloom.pods")
_EVERY_S = 2.0
_MOST_BYTES = 4_000_000


class PodLogs:
    """Follows the logs of an attempt's pods by asking again for what is new."""

    def __init__(self, api: ClusterApi, path: Path) -> None:
        self._api = api
        self._path = path
        self._last: dict[str, str] = {}  # pod: time stamp of its last line
        self._asked_s: dict[str, float] = {}

    def fetch(self, pods: Iterable[Mapping[str, Any]], *, is_end: bool = False) -> None:
        """Append what the pods said since the last call; at most every two seconds a pod."""
        for pod in pods:
            name, now_s = pod["metadata"]["name"], time.monotonic()
            before_s = self._asked_s.get(name)
            is_due = is_end or before_s is None or now_s - before_s >= _EVERY_S
            if is_due and has_started(pod):
                self._asked_s[name] = now_s
                since = (
                    {} if before_s is None else {"sinceSeconds": math.ceil(now_s - before_s) + 5}
                )
                self._append(name, pod["metadata"]["labels"].get(RANK_LABEL, ""), since)

    def _append(self, name: str, rank: str, since: Mapping[str, int]) -> None:
        try:
            query: dict[str, str | int] = {"timestamps": "true", "limitBytes": _MOST_BYTES, **since}
            text = self._api.text(PODS, f"{name}/log", query)
        except (NotThereError, ConfigError):  # gone, or its container is being replaced
            return
        seen = self._last.get(name, "")
        with self._path.open("a") as file:
            for stamped in text.splitlines():
                stamp, _, line = stamped.partition(" ")
                if (order := _order(stamp)) > seen:
                    self._last[name] = order
                    file.write(f"[{rank}] {line}\n" if rank else f"{line}\n")
                    LOGGER.info("%s: %s", name, line)


def _order(stamp: str) -> str:
    """A time stamp such that later ones sort behind: its fraction of a second in nine digits."""
    second, _, rest = stamp.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{second[:19]}.{digits:0<9}"
