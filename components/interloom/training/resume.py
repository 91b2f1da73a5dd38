"""Where a run goes on: the newest checkpoint that is whole, agreed on by all ranks."""

import logging
from pathlib import Path

from interloom.core.errors import DataError, MissingError
from interloom.ports.engine import TrainEngine
from interloom.training.checkpoint import (
    SavedCheckpoint,
    open_checkpoint,
    remove_unsealed,
    sealed_steps,
    step_folder,
)

_LOG = logging.getLogger(__name__)


def find_checkpoint(folder: Path, engine: TrainEngine) -> SavedCheckpoint | None:
    """The newest sealed step whose every byte is as it was written; None if none was ever sealed.

    Each rank hashes its share of the files. A damaged step is passed over in favour of an older
    one, which leads to the same result later; it is never passed over in favour of nothing.

    Raises:
        DataError: Steps were sealed, and all are damaged.
    """
    if engine.rank == 0:
        remove_unsealed(folder)
    engine.sum_over_ranks({"barrier": 1.0})  # every rank looks at the same folder
    problems: list[str] = []
    for step in sealed_steps(folder):
        found = _problems(step_folder(folder, step), engine)
        if not engine.sum_over_ranks({"problems": float(len(found))})["problems"]:
            _set_aside(folder, newer_than=step, engine=engine)
            return open_checkpoint(step_folder(folder, step))
        problems += found or [f"{step_folder(folder, step)}: another rank found damage"]
        _LOG.warning("passed over a damaged checkpoint: %s", problems[-1])
    if problems:
        raise DataError(
            f"no checkpoint in {folder} is whole: {'; '.join(problems)}; restore the files, or "
            "remove the folder to train from the start"
        )
    return None


def _problems(target: Path, engine: TrainEngine) -> list[str]:
    """What this rank found wrong with its share of a step's files."""
    try:
        saved = open_checkpoint(target)
    except (DataError, MissingError) as error:
        return [str(error)]
    return list(saved.damage(slice(engine.rank, None, engine.world_size)))


def _set_aside(folder: Path, *, newer_than: int, engine: TrainEngine) -> None:
    """Rename damaged steps, so that they no longer count and can be looked at."""
    if engine.rank == 0:
        for step in sealed_steps(folder):
            if step > newer_than:
                target = step_folder(folder, step)
                target.rename(target.with_name(f"damaged-{target.name}"))
    engine.sum_over_ranks({"barrier": 1.0})
