"""Arms of a sweep that differ in their seed alone, as one: means over trainings."""

from collections.abc import Sequence

from interloom.evaluation.intervals import mean_of
from interloom.evaluation.numbers import Number
from interloom_flows.sweeping import ArmResult, number_of

_SEEDS = ("seed", "seed_offset")
_CONFIDENCE = 0.95


def over_seeds(results: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    """One for each group of arms that are equal but for a seed; none of a group with a failure."""
    groups: dict[tuple[str, ...], list[ArmResult]] = {}
    for result in results:
        kept = tuple(one for one in result.overrides if not _is_seed(one))
        groups.setdefault(kept, []).append(result)
    return tuple(
        ArmResult(kept, None, _means(held), name=f"{held[0].label}, mean of {len(held)}")
        for kept, held in groups.items()
        if len(held) > 1 and not any(one.error for one in held)
    )


def _is_seed(override: str) -> bool:
    return override.partition("=")[0].rpartition(".")[2] in _SEEDS


def _means(arms: Sequence[ArmResult]) -> tuple[Number, ...]:
    """Each number that all arms have."""
    means = []
    for name in (number.name for number in arms[0].numbers):
        held = [number_of(arm, name) for arm in arms]
        values = [one.value for one in held if one is not None and one.value is not None]
        if len(values) == len(arms):
            mean = mean_of(values, _CONFIDENCE)
            means.append(Number(name, mean.value, mean.low, mean.high, mean.num_items))
    return tuple(means)
