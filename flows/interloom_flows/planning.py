"""What a run would do: which results it reuses, which stages it runs, and why.

Walks the pipeline in order. A stage whose inputs are all there has a key; a published, whole result
of that key is reused, and its outputs are the inputs of the next. A stage behind one that will run
has no key yet.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interloom.config.patches import PATCH_SIZE
from interloom.config.recipe import Recipe
from interloom.core.artifacts import ArtifactKind, ArtifactRef, parse_ref
from interloom.core.errors import ConfigError
from interloom.corpora.permission import BlockList, require_consents, require_licences
from interloom.ports.catalog import Catalog, DatasetVersion, RunRecord, StageHit, Usage
from interloom.stages.closure import steady_code
from interloom.stages.contract import (
    StageCall,
    StageContract,
    lookup,
    read_result,
    stage_key,
    why_not,
)
from interloom.stages.pricing import Prices
from interloom.stages.result import StageResult, train_config
from interloom_flows.pipeline import Inputs, Step

_LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True)
class Reuse:
    """A published result that will be used again."""

    call: StageCall
    hit: StageHit
    result: StageResult


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What is known of one step before anything runs.

    Attributes:
        step: Which.
        reuse: What it reuses; None if it will run.
        why: Why it will run; empty if it will not.
        before: What it used the last time in this recipe, if it ever ran.
    """

    step: Step
    reuse: Reuse | None
    why: str = ""
    before: Usage | None = None

    @property
    def estimate_s(self) -> float | None:
        """Seconds that it took the last time."""
        return self.before.wall_s if self.before else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe's steps, in order, and what is there for them already."""

    recipe: Recipe
    steps: tuple[PlannedStep, ...]
    inputs: Inputs

    @property
    def reused(self) -> Mapping[str, Reuse]:
        """The steps that will not run, by stage."""
        return {
            planned.step.stage: planned.reuse for planned in self.steps if planned.reuse is not None
        }

    @property
    def to_run(self) -> tuple[PlannedStep, ...]:
        """The steps that will run, in order."""
        return tuple(planned for planned in self.steps if planned.reuse is None)

    @property
    def demand(self) -> Mapping[str, int]:
        """Of each stage that will run, the number of ranks."""
        return {one.step.stage: one.step.num_ranks(self.recipe) for one in self.to_run}

    def cost(self, prices: Prices) -> "PlanCost":
        """What is known of the cost of the steps that will run, at today's prices."""
        known = [planned.before for planned in self.to_run if planned.before is not None]
        return PlanCost(
            num_unknown=len(self.to_run) - len(known),
            wall_s=sum(used.wall_s for used in known),
            gpu_hours=sum(used.gpu_hours for used in known),
            price=sum(prices.of(used) for used in known),
        )


@dataclass(frozen=True, slots=True)
class PlanCost:
    """What the steps of a plan that will run used the last time, added up.

    Attributes:
        num_unknown: Steps that never ran in this recipe; they are not in the sums.
        wall_s: Seconds, one step after the other.
        gpu_hours: GPUs held.
        price: At the prices that were given.
    """

    num_unknown: int
    wall_s: float
    gpu_hours: float
    price: float


def resolve(
    contract: StageContract,
    recipe: Recipe,
    steps: Sequence[Step],
    corpora: Mapping[str, ArtifactRef],
    *,
    fresh: Collection[str] = (),
) -> Plan:
    """Look every step up in the catalog, in topological order. Writes nothing.

    Args:
        contract: The installation.
        recipe: What is wanted.
        steps: Of the recipe.
        corpora: That the recipe names.
        fresh: Stages that run although there is a result to reuse.
    """
    inputs = Inputs(named=corpora, blocked=blocked_entries(contract.catalog))
    with steady_code():
        return _resolved(contract, recipe, steps, inputs, frozenset(fresh))


def _resolved(
    contract: StageContract,
    recipe: Recipe,
    steps: Sequence[Step],
    inputs: Inputs,
    fresh: frozenset[str],
) -> Plan:
    planned = list[PlannedStep]()
    for step in steps:
        remade = [name for name in step.after if name not in inputs.results]
        call = None if remade else stage_call(recipe, step, inputs)
        is_fresh = step.stage in fresh
        reuse = None if call is None or is_fresh else _reuse(contract, call)
        if reuse is not None:
            planned.append(PlannedStep(step, reuse))
            inputs = inputs.with_result(step.stage, reuse.result)
            continue
        before = contract.catalog.last_run(step.stage, recipe.name)
        asked = "asked for anew" if is_fresh else ""
        why = asked or _why(contract, recipe, step, call, before) or _follows(remade, steps)
        used = before.usage if before is not None and before.usage.wall_s else None
        planned.append(PlannedStep(step, None, why, used))
    return Plan(recipe, tuple(planned), inputs)


def stage_call(
    recipe: Recipe, step: Step, inputs: Inputs, parent_run_id: str | None = None
) -> StageCall:
    """The wish for a step's result, with ranks and threads as the recipe fixes them."""
    request = step.request(recipe, inputs)
    train = train_config(request)
    return StageCall(
        stage=step.stage,
        request=request,
        recipe=recipe.name,
        parent_run_id=parent_run_id,
        num_ranks=train.num_ranks if train else 1,
        threads_per_rank=train.threads_per_rank if train else step.num_threads,
    )


def named_corpora(catalog: Catalog, recipe: Recipe) -> dict[str, ArtifactRef]:
    """What a recipe names, as ``name``, ``name@version`` or ``name@alias``.

    Corpora, ``interleaved`` rows that are there already, and the ``start`` of pre-training.

    Raises:
        ConfigError: Nothing stands behind an ``@``, ``start`` is no language model or one of
            other patches, or the rows are not interleaved.
        DataError: One is under a licence, or holds speech by a consent, that the recipe does not
            allow; so are weights that it starts from.
        MissingError: One is not in the catalog.
    """
    source, later = recipe.ingest.source, _start(catalog, recipe) | _rows(catalog, recipe)
    _check_permission(catalog, recipe, later)
    if source.kind == "starter":
        return later
    names = {"speech": source.speech, "text": source.text, "dialogues": source.dialogues}
    held = {
        field: dataset_named(catalog, name) for field, name in names.items() if name is not None
    }
    blocked = BlockList.of(blocked_entries(catalog))
    licences = {version.name: blocked.allowed(version.licences) for version in held.values()}
    require_licences(recipe.ingest.only_licences, licences)
    manifests = {version.name: catalog.manifest(version.ref) for version in held.values()}
    require_consents(recipe.ingest.only_consents, manifests)
    return {field: version.ref for field, version in held.items()} | later


def _check_permission(catalog: Catalog, recipe: Recipe, later: Mapping[str, ArtifactRef]) -> None:
    """Refuse rows, weights or a tokenizer to start from that the recipe does not allow.

    Raises:
        DataError: Names what is under another licence, or learnt from speech by another consent.
        MissingError: One is not in the catalog.
    """
    only = recipe.ingest
    if not only.only_licences and not only.only_consents:
        return
    tokenizer = recipe.tokenizer.start_from
    refs = [*later.values(), *([parse_ref(tokenizer)] if tokenizer is not None else [])]
    manifests = {str(ref): catalog.manifest(ref) for ref in refs}
    require_licences(
        only.only_licences, {name: manifest.licences for name, manifest in manifests.items()}
    )
    require_consents(only.only_consents, manifests)


def _start(catalog: Catalog, recipe: Recipe) -> dict[str, ArtifactRef]:
    """The model that pre-training starts from, if the recipe names one."""
    if recipe.pretrain.start is None:
        return {}
    version = dataset_named(catalog, recipe.pretrain.start)
    kinds = (ArtifactKind.LANGUAGE_MODEL, ArtifactKind.BASE_MODEL)
    if version.ref.kind not in kinds:
        raise ConfigError(
            f"pretrain.start: {recipe.pretrain.start} is a {version.ref.kind}, not a "
            f"{' or '.join(kinds)}; interloom data list shows what there is"
        )
    held = catalog.manifest(version.ref).facts.get(PATCH_SIZE)
    if held is not None and held != (wanted := recipe.pretrain.patches.lasting_size):
        raise ConfigError(
            f"pretrain.start: {recipe.pretrain.start} was trained with patches of {held} tokens, "
            f"pretrain.patches has {wanted} (0 is none); start from a model of the same patches"
        )
    return {"start": version.ref}


def _rows(catalog: Catalog, recipe: Recipe) -> dict[str, ArtifactRef]:
    """The interleaved rows that are mixed as they are, if the recipe names some."""
    name = recipe.interleave.rows
    if name is None or recipe.mixture.interleaved is None:
        return {}
    ref = dataset_named(catalog, name).ref
    if ref.kind is not ArtifactKind.INTERLEAVED:
        raise ConfigError(
            f"interleave.rows: {name} is a {ref.kind}, not {ArtifactKind.INTERLEAVED}; interloom "
            "data list shows what there is"
        )
    return {"interleaved": ref}


def blocked_entries(catalog: Catalog) -> tuple[str, ...]:
    """The block list as stages read it, sorted."""
    return tuple(sorted(f"{block.kind}:{block.value}" for block in catalog.blocks()))


def dataset_named(catalog: Catalog, name: str) -> DatasetVersion:
    """What ``name``, ``name@version`` or ``name@alias`` stands for; the newest by default.

    Raises:
        ConfigError: Nothing stands behind the ``@``.
        MissingError: There is no such name, version or alias.
    """
    base, at, version = name.partition("@")
    digits = version.removeprefix("v")
    if at and not version:
        raise ConfigError(
            f"{name!r}: a version or an alias is missing behind the @, as in {base}@3"
        )
    if at and not digits.isdecimal():
        return catalog.aliased(base, version)
    return catalog.dataset(base, int(digits) if at else None)


def _reuse(contract: StageContract, call: StageCall) -> Reuse | None:
    hit = lookup(contract, stage_key(contract, call))
    if hit is None:
        return None
    return Reuse(call, hit, read_result(contract, call.stage, hit.result_json))


def _follows(remade: Sequence[str], steps: Sequence[Step]) -> str:
    """Which steps' new results it waits for, without those that the others imply."""
    after = {step.stage: set(step.after) for step in steps}
    implied = set[str]().union(*(after[name] for name in remade))
    return f"follows {', '.join(name for name in remade if name not in implied)}"


def _why(
    contract: StageContract,
    recipe: Recipe,
    step: Step,
    call: StageCall | None,
    before: RunRecord | None,
) -> str:
    """Why there is nothing to reuse; empty if nothing but an input is known to change."""
    if before is None:
        return "never ran in this recipe"
    was: Mapping[str, Any] = json.loads(before.request_json)
    if call is not None:
        changes = list(request_changes(was, call.request.model_dump(mode="json"), step.section))
        return "; ".join(changes) or why_not(contract, call)
    now: dict[str, Any] = {"seed": recipe.seed}
    settings = step.settings(recipe)
    if settings is not None:
        now["config"] = settings.model_dump(mode="json")
    return "; ".join(request_changes({key: was.get(key) for key in now}, now, step.section))


def request_changes(
    was: Mapping[str, Any], now: Mapping[str, Any], section: str | None
) -> Iterator[str]:
    """What differs between two requests of a stage, as a user would set it.

    ``mixture.text.budget.share 0.3 -> 0.25`` for a setting, ``speech changed`` for an input.
    """
    for path, old, new in changes(was, now):
        if path[0] == "config":
            yield f"{'.'.join((section or 'config', *path[1:]))} {_shown(old)} -> {_shown(new)}"
        elif _is_ref(old) or _is_ref(new):
            yield f"{path[0]} changed"
        else:
            yield f"{'.'.join(path)} {_shown(old)} -> {_shown(new)}"


def changes(
    was: object, now: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object, object]]:
    """The paths at which two JSON values differ, sorted, with both values."""
    if was == now:
        return
    if isinstance(was, dict) and isinstance(now, dict) and not _is_ref(was):
        for key in sorted(was.keys() | now.keys()):
            yield from changes(was.get(key), now.get(key), (*path, str(key)))
    else:
        yield path, was, now


def _is_ref(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"kind", "id"}


def _shown(value: object) -> str:
    text = json.dumps(value) if value is not None else "none"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
