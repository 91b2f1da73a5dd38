"""Prove on this machine that a killed run goes on as if nothing had happened."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from interloom.adapters.stage_files import stage_environment
from interloom.config.base import Frozen
from interloom.config.settings import child_environment
from interloom.core.errors import CrashError

LOSS_TOLERANCE = 1e-4
"""How far losses on another number of ranks may be off, as a part of the loss."""


class TrialOptions(Frozen):
    """What is tried.

    Attributes:
        num_kills: How often the run on as many ranks is killed.
        num_steps: Optimizer steps of every run.
        num_ranks: Of the run that is compared bit for bit.
        zero_stage: Of that run.
        seed: Of weights, order of rows and the moments of the kills.
    """

    num_kills: Annotated[int, Field(ge=1, le=20)] = 5
    num_steps: Annotated[int, Field(ge=12)] = 24
    num_ranks: PositiveInt = 1
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _kills_have_steps(self) -> Self:
        if self.num_kills >= self.num_steps:
            raise ValueError(f"more steps than kills are needed, got {self.num_steps} steps")
        if 4 % self.num_ranks:
            raise ValueError(f"1, 2 or 4 ranks can share the micro-batches, got {self.num_ranks}")
        return self


class Check(Frozen):
    """One thing that was looked at.

    Attributes:
        name: What.
        how: By which rule.
        is_good: Whether it held.
        found: What was seen.
    """

    name: str
    how: str
    is_good: bool
    found: str


def try_resuming(options: TrialOptions) -> Iterator[Check]:
    """Run the trials in a process of their own; gives each verdict as it comes.

    Raises:
        CrashError: A run could not be brought to its end; has the end of its log.
    """
    with TemporaryDirectory(prefix="interloom-resume-") as folder:
        request = Path(folder) / "options.json"
        request.write_text(options.model_dump_json())
        with (Path(folder) / "log.txt").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "interloom_flows.resume_trials", str(request)],
                env=child_environment(stage_environment(1, "cpu")),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            assert process.stdout is not None
            with process:
                for line in process.stdout:
                    yield Check.model_validate_json(line)
            if process.returncode:
                log.seek(0)
                tail = "".join(log.readlines()[-12:])
                raise CrashError(f"the trials ended with {process.returncode}:\n{tail}")
