"""The closed list of stages, and how one is loaded without the others."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from interloom.core.errors import ConfigError
from interloom.stages.result import StageRequest, StageResult

MAKE_SHARDS = "make_shards"
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
            "speak_tasks",
            "sft",
            "evaluate",
            "evaluate_tokenizer",
        )
    }
)
PORTS = frozenset({"store", "work", "engine", "gate"})


@dataclass(frozen=True, slots=True)
class ShardMaker:
    """What makes a part of a stage's shards in its workspace, in any process, in any order.

    The stage itself then finds them there, and makes what is missing.

    Attributes:
        function: ``make_shards(request, *, part, **ports)``.
        ports: Names of the keyword ports that it takes, out of ``PORTS``.
    """

    function: Callable[..., None]
    ports: frozenset[str]


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
        shard_maker: The module's ``make_shards``, for a stage whose shards can be made apart.
    """

    name: str
    module: str
    function: Callable[..., StageResult]
    request: type[StageRequest]
    result: type[StageResult]
    ports: frozenset[str]
    shard_maker: ShardMaker | None = None


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
    # Annotations as they stand: those of ports may name types that only a checker imports.
    request = next(iter(signature.parameters.values())).annotation
    return StageDefinition(
        name,
        module_name,
        function,
        request,
        signature.return_annotation,
        _ports(name, function, PORTS),
        _shard_maker(name, getattr(module, MAKE_SHARDS, None)),
    )


def _shard_maker(name: str, function: Callable[..., None] | None) -> ShardMaker | None:
    if function is None:
        return None
    return ShardMaker(function, _ports(name, function, PORTS | {"part"}) - {"part"})


def _ports(name: str, function: Callable[..., object], known: frozenset[str]) -> frozenset[str]:
    """The keyword ports that a function's signature names.

    Raises:
        ConfigError: There is no such port.
    """
    ports = frozenset(list(inspect.signature(function).parameters)[1:])
    if not ports <= known:
        raise ConfigError(
            f"stage {name!r} asks for {', '.join(sorted(ports - known))}; "
            f"a stage can have {', '.join(sorted(PORTS))}"
        )
    return ports
