"""Where a stage keeps what it may need again after a crash."""

from dataclasses import dataclass, field
from pathlib import Path

from interloom.ports.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder tied to one stage key, and the way to report progress.

    The folder survives a kill of the stage, so that training goes on from its last checkpoint,
    and is removed once the stage's result is published. Nothing in it may change the result.

    Attributes:
        folder: Exists and belongs to this stage key alone.
        progress: Told how far the stage is.
    """

    folder: Path
    progress: Progress = field(default_factory=NoProgress)
