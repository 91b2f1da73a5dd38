"""Where things are on this machine or cluster: read once from the environment.

What to compute stands in recipes; no setting may change a result.
"""

import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from interloom.config.cluster import GRACE_S
from interloom.config.s3 import S3Settings
from interloom.core.errors import ConfigError

_SECRET = (
    "PASSWORD",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "DATABASE_URL",
    "CONNECTION_URL",
    "AUTH_STRING",
)


def _text(value: object) -> object:
    """A path as text."""
    return str(value) if isinstance(value, Path) else value


class Settings(BaseSettings):
    """The installation. Each field is the environment variable ``INTERLOOM_<FIELD>``.

    Attributes:
        home: Everything local: catalog, store, workspaces, Prefect's files.
        store_root: The artifact store: a folder, by default below ``home``, or
            ``s3://bucket/prefix``.
        store_mirrors: Other stores, as a JSON list of such names; what the store has lost or holds
            damaged is healed from them.
        s3: How S3 is reached: ``INTERLOOM_S3_ENDPOINT`` and more, see ``config.s3``.
        database_url: SQLAlchemy URL of the catalog, ``postgresql+psycopg://...`` on a cluster; by
            default a SQLite file below ``home``.
        image_digest: Digest of the container image that runs the stages; part of every stage key.
        device: What stages compute on; ``auto`` takes a CUDA device if the machine has one.
        lease_ttl_s: A runner that was silent for so long has lost its stage.
        retry_delays_s: Waits before a stage that failed transiently is tried again; their number
            is the number of retries.
        paranoid: Hash every byte of what is reused, not a sample.
        num_threads: Processor threads that stages running side by side may use together.
        num_workers: Processes that a stage may cut its shards among, each with a model of its own.
        prefect_api_url: A Prefect server; by default one is started for the command.
        work_root: Workspaces of running stages; below ``home`` by default, on a cluster a folder of
            a volume that flow runs and stages share.
        launcher: What executes stages: processes of this machine, plain jobs of a Kubernetes
            cluster, or its train jobs.
        cluster_profile: Pools and pod of that cluster; see ``config.cluster``.
        grace_s: Between SIGTERM and the end of a stage on this machine: time for a checkpoint.
        staging_grace_s: Drafts and workspaces without an owner are swept when they are so old.
        node_kind: What stages run on, as the catalog shows it beside their cost.
        price_per_gpu_hour: Of one GPU that a stage holds, in ``currency``.
        price_per_cpu_hour: Of one processor that computes.
        currency: Of all prices.
        openlineage_url: A lineage server that gets an event for each run; needs the extra
            ``lineage``.
        openlineage_api_key: For that server.
        openlineage_file: A file that gets the same events, one JSON object a line.
    """

    model_config = SettingsConfigDict(env_prefix="INTERLOOM_", frozen=True, extra="ignore")

    home: Path = Path(".interloom")
    store_root: Annotated[str | None, BeforeValidator(_text)] = None
    store_mirrors: tuple[str, ...] = ()
    s3: S3Settings = Field(default_factory=S3Settings)
    database_url: SecretStr | None = None
    image_digest: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    lease_ttl_s: PositiveFloat = 30.0
    retry_delays_s: tuple[Annotated[float, Field(ge=0)], ...] = (10.0, 60.0, 300.0)
    paranoid: bool = False
    num_threads: PositiveInt = Field(default_factory=lambda: len(os.sched_getaffinity(0)))
    num_workers: PositiveInt = 1
    prefect_api_url: str | None = None
    grace_s: PositiveInt = GRACE_S
    staging_grace_s: NonNegativeInt = 3600
    work_root: Path | None = None
    launcher: Literal["local", "jobs", "trainjob"] = "local"
    cluster_profile: Path | None = None
    node_kind: str = ""
    price_per_gpu_hour: NonNegativeFloat = 0.0
    price_per_cpu_hour: NonNegativeFloat = 0.0
    currency: str = "USD"
    openlineage_url: str | None = None
    openlineage_api_key: SecretStr | None = None
    openlineage_file: Path | None = None

    @property
    def tells_lineage(self) -> bool:
        """Whether events of runs are wanted anywhere."""
        return self.openlineage_url is not None or self.openlineage_file is not None

    @property
    def store_url(self) -> str:
        """The artifact store: a folder's absolute path, or ``s3://bucket/prefix``."""
        if self.store_root is None:
            return str((self.home / "store").absolute())
        return (
            self.store_root if "://" in self.store_root else str(Path(self.store_root).absolute())
        )

    @property
    def store_cache_folder(self) -> Path:
        """What was read from S3."""
        return (self.home / "cache").absolute()

    @property
    def work_folder(self) -> Path:
        """Workspaces of stages, one a stage key."""
        return (self.work_root or self.home / "work").absolute()

    @property
    def log_folder(self) -> Path:
        """Logs of stages that are complete, by the id of their run."""
        return (self.home / "logs").absolute()

    @property
    def catalog_url(self) -> str:
        """The catalog's SQLAlchemy URL, with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.home / 'catalog.sqlite').absolute()}"

    @property
    def device_kind(self) -> Literal["cpu", "cuda"]:
        """What stages compute on."""
        if self.device != "auto":
            return self.device
        return "cuda" if _has_cuda() else "cpu"


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigError: A variable has a value that cannot be read; names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        prefix = "INTERLOOM_S3" if error.title == S3Settings.__name__ else "INTERLOOM"
        name = f"{prefix}_{'_'.join(str(part) for part in first['loc'][:1]).upper()}"
        raise ConfigError(f"{name}: {first['msg']}, got {first['input']!r}") from error


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment for a stage's process: ours without secrets, and ``changes``.

    The credentials of the artifact store are kept: a stage reads and writes it.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("INTERLOOM_S3_") or not any(word in name.upper() for word in _SECRET)
    }
    return kept | dict(changes)


def same_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment for another command of this installation: all of ours, and ``changes``."""
    return dict(os.environ) | dict(changes)


@cache
def _has_cuda() -> bool:
    """Whether a CUDA device is visible, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return False
    return Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


class RankSettings(BaseSettings):
    """What torchrun and the launcher tell one process of a stage.

    Attributes:
        rank: Its number among all; 0 without torchrun.
        omp_num_threads: Processor threads it may use.
        interloom_rank_patience_s: After so long without a step, a rank hangs, and the stage ends.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    rank: NonNegativeInt = 0
    omp_num_threads: PositiveInt = 1
    interloom_rank_patience_s: PositiveFloat = 600.0
