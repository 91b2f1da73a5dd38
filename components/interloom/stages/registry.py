"""The closed list of stages, and how one is loaded without the others."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from interloom.core.errors import ConfigError
from interloom.stages.result import StageRequest, StageResult

STAGES: Mapping[str, str] = MappingProxyType(
    {
        name: f"interloom.stages.{name}"
        for name in (
            "ingest",
            "train_tokenizer",
            "tokenize_speech",
            "train_decoder",
            "train_text_to_token",
            "interleave",
            "readmit",
            "mix",
            "pretrain",
            "build_dialogues",
            "sft",
            "evaluate",
            "evaluate_tokenizer",
        )
    }
)
PORTS = frozenset({"store", "work", "engine", "gate"})


@dataclass(frozen=True, slots=True)
class StageDefinition:
    """A stage as its module defines it.

    Attributes:
        name: Of the stage, its module's last part and its function.
        module: Full name of the module.
        function: ``function(request, **ports) -> result``.
        request: The class of its request.
        result: The class of its result.
        ports: Names of the keyword ports that it takes, out of ``PORTS``.
    """

    name: str
    module: str
    function: Callable[..., StageResult]
    request: type[StageRequest]
    result: type[StageResult]
    ports: frozenset[str]


def load_stage(name: str, registry: Mapping[str, str] = STAGES) -> StageDefinition:
    """Import one stage's module, which is light, and read its function's signature.

    Raises:
        ConfigError: There is no such stage, or its signature is not a stage's.
    """
    if name not in registry:
        raise ConfigError(f"there is no stage {name!r}; the stages are {', '.join(registry)}")
    return _defined(name, registry[name])


@cache
def _defined(name: str, module_name: str) -> StageDefinition:
    """Read the signature of a stage's function."""
    module = importlib.import_module(module_name)
    function: Callable[..., StageResult] = getattr(module, name)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    ports = frozenset(parameter.name for parameter in parameters[1:])
    if not ports <= PORTS:
        raise ConfigError(
            f"stage {name!r} asks for {', '.join(sorted(ports - PORTS))}; "
            f"a stage can have {', '.join(sorted(PORTS))}"
        )
    # Annotations as they stand: those of ports may name types that only a checker imports.
    request, result = parameters[0].annotation, signature.return_annotation
    return StageDefinition(name, module_name, function, request, result, ports)
