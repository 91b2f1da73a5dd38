"""Train the language model on packed rows."""

from typing import TYPE_CHECKING, Literal

from interloom.config.language_model import PretrainConfig
from interloom.config.patches import PatchConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.language_model.building import AnyTransformer
    from interloom.mixture.rows import StoredRows
    from interloom.training.loop import Trained
    from interloom.vocabulary.layout import VocabularyLayout


class PretrainRequest(StageRequest):
    """The rows, the model's shape and how it is trained."""

    rows: ArtifactRef
    start: ArtifactRef | None = None
    config: PretrainConfig = PretrainConfig()
    seed: int = 0
    version: Literal[1] = 1

    @property
    def draw_seed(self) -> int:
        """The seed of weights and order."""
        return self.seed + self.config.seed_offset


class PretrainResult(StageResult):
    """The language model."""

    model: ArtifactRef


def pretrain(
    request: PretrainRequest, *, store: ArtifactStore, work: Workspace, engine: EngineBuilder
) -> PretrainResult:
    """Train from random weights or those of ``start``; every rank calls this and gets the same.

    Curves: ``train/loss``, ``train/loss/text``, ``train/loss/speech``, ``train/loss/marker`` and
    ``train/loss/source/NAME``; with latent patches ``train/patches/...``. Results:
    ``language_model/...`` with the last point of each, and ``language_model/heldout/loss...`` on
    what the mixture holds out, with static patches.

    Raises:
        ConfigError: Rows are longer than the model takes, or it cannot be compiled here.
        DataError: The loss stopped being finite; or ``start`` has another vocabulary, shape or
            patches.
    """
    from interloom.language_model.compiling import compile_blocks
    from interloom.language_model.model import Transformer
    from interloom.language_model.task import LanguageModelTask
    from interloom.mixture.rows import load_rows
    from interloom.training.loop import train
    from interloom.training.ranks import commit_once
    from interloom.vocabulary.layout import VocabularyLayout

    config = request.config
    rows = load_rows(store, request.rows)
    if rows.row_length > config.model.max_length:
        raise ConfigError(
            f"rows have {rows.row_length} tokens, the model takes {config.model.max_length}; raise "
            "model.max_length or lower the mixture's row_length"
        )
    layout = VocabularyLayout.from_dict(dict(store.manifest(request.rows).facts["layout"]))
    model = _model(request, layout)
    _start_from(model, store, request, layout)
    if config.is_compiled and isinstance(model, Transformer):
        compile_blocks(model)
    task = LanguageModelTask(
        model,
        rows,
        layout,
        rows_per_batch=config.rows_per_batch,
        batches_per_step=config.train.gradient_accumulation * config.train.num_ranks,
        seed=request.draw_seed,
    )
    trained = train(task, config.train, engine=engine, work=work, seed=request.draw_seed)
    metrics = _metrics(request, rows, trained) + _heldout(request, store, layout, trained)
    made = commit_once(
        ArtifactKind.LANGUAGE_MODEL, lambda: _store(request, store, layout, trained, metrics)
    )
    return PretrainResult(model=made, metrics=metrics + trained.curves + trained.telemetry)


def _model(request: PretrainRequest, layout: "VocabularyLayout") -> "AnyTransformer":
    """The model with weights drawn from the seed."""
    import torch

    from interloom.language_model.building import build_model

    model = build_model(
        request.config.model,
        request.config.laid_patches,
        layout,
        has_activation_checkpointing=request.config.has_activation_checkpointing,
        loss_chunk_tokens=request.config.loss_chunk_tokens,
    )
    model.initialise(torch.Generator().manual_seed(request.draw_seed))
    return model


def _start_from(
    model: "AnyTransformer",
    store: ArtifactStore,
    request: PretrainRequest,
    layout: "VocabularyLayout",
) -> None:
    """Give a model the weights of another of its shape: with its vocabulary, or a base of text.

    Raises:
        DataError: It has another one; names the difference.
    """
    import torch

    from interloom.language_model.bases import start_from_base
    from interloom.language_model.runtime import load_language_model

    start = request.start
    if start is None:
        return
    if start.kind is ArtifactKind.BASE_MODEL:
        generator = torch.Generator().manual_seed(request.draw_seed)
        shape = request.config.model
        start_from_base(model, shape, layout, start, store=store, generator=generator)
        return
    base = load_language_model(store, start)
    layout.require(base.layout.digest, holder=str(start))
    _require_alike(base.patches, request.config.patches, start)
    try:
        model.load_state_dict(base.model.state_dict())
    except RuntimeError as error:
        raise DataError(
            f"the weights of {start} do not fit pretrain.model: {error}; give the recipe the shape "
            "of the model it starts from"
        ) from error


def _require_alike(held: PatchConfig, asked: PatchConfig, start: ArtifactRef) -> None:
    """Refuse a model whose patches are others; words may go before static cuts, or after them.

    Raises:
        DataError: They are; says which.
    """
    if held.lasting_size != asked.lasting_size:
        raise DataError(
            f"{start} was trained with patches.kind = {held.kind!r} and size {held.size}, this is "
            f"{asked.kind!r} and {asked.size}; start from a model of the same patches, or from none"
        )


def _metrics(
    request: PretrainRequest, rows: "StoredRows", trained: "Trained"
) -> tuple[Metric, ...]:
    """What the run came to: the last point of each loss, and how much was seen."""
    config = request.config
    num_rows = config.train.num_steps * config.rows_per_step
    last = {
        point.name: point.value
        for point in trained.curves
        if "loss" in point.name or "patches/" in point.name
    }
    sums = {name: _sum_over(trained, config, name) for name in ("flops", "tokens", "positions")}
    numbers = {
        "parameters": float(sum(value.numel() for value in trained.weights.values())),
        "flops": sums["flops"],
        "tokens_seen": sums["tokens"],
        "positions_seen": sums["positions"],
        "epochs": num_rows / rows.num_rows,
    }
    numbers |= {name.removeprefix("train/"): value for name, value in last.items()}
    return tuple(Metric(f"language_model/{name}", value) for name, value in numbers.items())


def _sum_over(trained: "Trained", config: PretrainConfig, name: str) -> float:
    """What a curve of means of micro-batches comes to over the whole training."""
    batches_per_step = config.train.gradient_accumulation * config.train.num_ranks
    total, last = 0.0, 0
    for point in trained.curves:
        if point.name == f"train/{name}" and point.step is not None:
            total += point.value * (point.step - last) * batches_per_step
            last = point.step
    return total


def _heldout(
    request: PretrainRequest, store: ArtifactStore, layout: "VocabularyLayout", trained: "Trained"
) -> tuple[Metric, ...]:
    """The losses on rows that were not trained on, if the mixture holds any out."""
    from interloom.language_model.task import mean_losses
    from interloom.mixture.rows import load_heldout_rows

    rows = load_heldout_rows(store, request.rows)
    if rows is None:
        return ()
    model = _model(request, layout)
    model.load_state_dict(dict(trained.weights))
    losses = mean_losses(model, rows, layout, rows_per_batch=request.config.rows_per_batch)
    return tuple(
        Metric(f"language_model/heldout/{name}", value) for name, value in sorted(losses.items())
    )


def _store(
    request: PretrainRequest,
    store: ArtifactStore,
    layout: "VocabularyLayout",
    trained: "Trained",
    metrics: tuple[Metric, ...],
) -> ArtifactRef:
    """Commit weights, config and card."""
    from interloom.language_model.storing import ModelCard, StoredModel, store_language_model

    inputs = tuple(request.inputs().values())
    licences = {licence for ref in inputs for licence in store.manifest(ref).licences}
    origin = "random weights" if request.start is None else str(request.start)
    card = ModelCard(
        title="Speech-text language model",
        purpose=f"Continues sequences of text and speech tokens; pre-trained from {origin}.",
        numbers={metric.name: metric.value for metric in metrics},
    )
    return store_language_model(
        store,
        StoredModel(
            weights=trained.weights,
            config=request.config.model,
            patches=request.config.laid_patches,
            layout=layout,
            card=card,
            parents=inputs,
            licences=tuple(sorted(licences)),
            facts={
                "precision": request.config.train.precision,
                "seed": request.draw_seed,
            },
        ),
    )
