"""Where a stage keeps what it may need again after a crash."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from interloom.core.errors import TransientError
from interloom.ports.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class Part:
    """A share of a stage's shards: every ``count``-th of them, from ``index`` on."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"Part needs 0 <= index < count, got {self.index} of {self.count}")

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read what ``str`` gives."""
        index, _, count = text.partition("-of-")
        return cls(int(index), int(count))

    def takes(self, shard: int) -> bool:
        """Whether the shard of this number is in it."""
        return shard % self.count == self.index


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder tied to one stage key, and the way to report progress.

    The folder survives a kill of the stage, so that training goes on from its last checkpoint,
    and is removed once the stage's result is published. Nothing in it may change the result.

    Attributes:
        folder: Exists and belongs to this stage key alone.
        progress: Told how far the stage is.
        patience_s: No single step of a stage takes so long; after it, the stage hangs.
        give_up: Ends the stage's process with an error, from any thread; None where a stage that
            hangs is somebody else's business.
        num_workers: Processes that a stage which cuts its work into units may use; it changes
            nothing of what comes out.
    """

    folder: Path
    progress: Progress = field(default_factory=NoProgress)
    patience_s: float = 600.0
    give_up: Callable[[TransientError], None] | None = None
    num_workers: int = 1
