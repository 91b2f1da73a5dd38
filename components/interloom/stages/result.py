"""What all results of stages have in common."""

from collections.abc import Mapping

from interloom.config.base import Frozen
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactRef
from interloom.ports.catalog import Metric, MixtureComponent
from interloom.ports.gate import CheckResult


class StageRequest(Frozen):
    """All that a result depends on. Fields that hold an ``ArtifactRef`` are the inputs."""

    def inputs(self) -> Mapping[str, ArtifactRef]:
        """The artifacts this stage reads, by the name of their field."""
        return _refs(self)


class StageResult(Frozen):
    """What a stage made. Fields that hold an ``ArtifactRef`` are the outputs.

    Equal requests give equal results: no time, no rate, no path of this machine.
    """

    metrics: tuple[Metric, ...] = ()
    checks: tuple[CheckResult, ...] = ()

    def outputs(self) -> Mapping[str, ArtifactRef]:
        """The artifacts that were written, by the name of their field."""
        return _refs(self)

    def mixture(self) -> tuple[MixtureComponent, ...]:
        """What was mixed, for a stage that mixes."""
        return ()

    def metric(self, name: str) -> float:
        """The result metric of this name.

        Raises:
            KeyError: The stage recorded none of this name.
        """
        for metric in self.metrics:
            if metric.name == name and metric.step is None:
                return metric.value
        raise KeyError(name)


def train_config(request: StageRequest) -> TrainConfig | None:
    """How the stage trains; None for a stage that trains nothing."""
    return train_section(getattr(request, "config", None))


def train_section(config: object) -> TrainConfig | None:
    """The part of a stage's settings that says how it trains, if there is one."""
    if not isinstance(config, Frozen):
        return None
    values = (getattr(config, name) for name in type(config).model_fields)
    return next((value for value in values if isinstance(value, TrainConfig)), None)


def _refs(model: Frozen) -> dict[str, ArtifactRef]:
    """The fields that hold a reference."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    return {name: value for name, value in values.items() if isinstance(value, ArtifactRef)}
