"""What a Prefect server shall offer, as ``prefect.yaml`` says it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveInt, ValidationError

from interloom.config.base import Frozen
from interloom.core.errors import ConfigError, MissingError


class Schedule(Frozen):
    """When a deployment runs: by cron, or every so many seconds."""

    cron: str | None = None
    interval: PositiveInt | None = None
    timezone: str = "UTC"


class WorkPool(Frozen):
    """Where a deployment's runs go."""

    name: str
    work_queue_name: str
    job_variables: Mapping[str, Any] = Field(default_factory=dict)


class Deployment(Frozen):
    """One flow that the server offers."""

    name: str
    description: str
    entrypoint: str
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    concurrency_limit: PositiveInt
    schedules: tuple[Schedule, ...] = ()
    work_pool: WorkPool


class Surroundings(Frozen):
    """What the deployments need of the server."""

    base_job_template: Path
    queues: Mapping[str, PositiveInt]
    pools: Mapping[str, PositiveInt]
    silent_after_s: PositiveInt


class Definitions(Frozen):
    """The part of the file that Prefect leaves to its users."""

    interloom: Surroundings


class DeploymentFile(Frozen):
    """The whole of ``prefect.yaml``."""

    name: str
    pull: tuple[Mapping[str, Any], ...]
    deployments: tuple[Deployment, ...]
    definitions: Definitions

    @property
    def around(self) -> Surroundings:
        """What the deployments need."""
        return self.definitions.interloom


def load_deployments(path: Path) -> DeploymentFile:
    """Read the file.

    Raises:
        MissingError: It is not there.
        ConfigError: It cannot be read; names the key.
    """
    try:
        body = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise MissingError(
            f"{path} is not there; call this in the repository's root, or name a file with --file"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    try:
        return DeploymentFile.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
