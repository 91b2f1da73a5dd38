"""Stage: a pre-trained language model becomes a spoken chatbot."""

from typing import TYPE_CHECKING, Any, Literal

from interloom.config.dialogue import SftConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.dialogue.examples import ChatRows
    from interloom.language_model.runtime import LanguageModel
    from interloom.training.loop import Trained
    from interloom.vocabulary.layout import VocabularyLayout


class SftRequest(StageRequest):
    """All that the chatbot depends on; ``tokens`` if it writes down utterances, too."""

    model: ArtifactRef
    spoken_dialogues: ArtifactRef
    tokens: ArtifactRef | None = None
    config: SftConfig = SftConfig()
    seed: int = 0
    version: Literal[1] = 1


class SftResult(StageResult):
    """The chatbot's weights."""

    chat_model: ArtifactRef
    num_examples: int
    num_too_long: int


def sft(
    request: SftRequest, *, store: ArtifactStore, work: Workspace, engine: EngineBuilder
) -> SftResult:
    """Train the base model on every copy of the spoken dialogues for training.

    Raises:
        ConfigError: Utterances are asked for, and the request names none.
        DataError: What is spoken has the codes of another tokenizer, or none fits.
    """
    from interloom.language_model.runtime import load_language_model
    from interloom.language_model.task import LanguageModelTask
    from interloom.training.loop import train
    from interloom.training.ranks import commit_once

    config = request.config
    base = load_language_model(store, request.model)
    data = _chat_rows(request, store, base.layout)
    task = LanguageModelTask(
        base.model.train(),
        data.rows,
        base.layout,
        rows_per_batch=config.rows_per_batch,
        batches_per_step=config.train.gradient_accumulation * config.train.num_ranks,
        seed=request.seed,
    )
    trained = train(task, config.train, engine=engine, work=work, seed=request.seed)
    metrics = _metrics(config, data, trained)
    chat_model = commit_once(
        ArtifactKind.CHAT_MODEL, lambda: _store(request, store, base, trained, metrics)
    )
    return SftResult(
        chat_model=chat_model,
        num_examples=data.num_examples,
        num_too_long=data.num_too_long,
        metrics=metrics + trained.curves + trained.telemetry,
    )


def _chat_rows(request: SftRequest, store: ArtifactStore, layout: "VocabularyLayout") -> "ChatRows":
    """What there is for training as packed rows of the model's own vocabulary."""
    from interloom.corpora.tables import read_table
    from interloom.dialogue.examples import chat_rows
    from interloom.dialogue.tables import SPOKEN_TABLE
    from interloom.text.bpe import load_text_tokenizer

    for ref in (request.spoken_dialogues, request.tokens):
        spoken_by = layout.tokenizer if ref is None else store.manifest(ref).facts.get("tokenizer")
        if spoken_by != layout.tokenizer:
            raise DataError(
                f"{ref} holds codes of tokenizer {str(spoken_by)[:12]}, {request.model} knows "
                f"those of {layout.tokenizer[:12]}; make them anew"
            )
    text_ref = ArtifactRef(ArtifactKind.TEXT_TOKENIZER, layout.text_tokenizer)
    return chat_rows(
        read_table(store, request.spoken_dialogues, SPOKEN_TABLE, split="train"),
        request.config,
        text=load_text_tokenizer(store, text_ref),
        layout=layout,
        seed=request.seed,
        utterances=_utterances(request, store),
    )


def _utterances(request: SftRequest, store: ArtifactStore) -> "list[dict[str, Any]]":
    """The transcribed utterances for training, if they are asked for."""
    from interloom.corpora.tables import read_table

    if not request.config.copies.utterances:
        return []
    if request.tokens is None:
        raise ConfigError(
            "sft.copies.utterances asks for utterances, but the request names no tokens; name the "
            "speech tokens of the corpus"
        )
    columns = ("id", "text", "codes", "licence")
    rows = read_table(store, request.tokens, "tokens", split="train", columns=columns)
    return [row for row in rows if row["text"]]


def _metrics(config: SftConfig, data: "ChatRows", trained: "Trained") -> tuple[Metric, ...]:
    """The last losses, and how often each copy was seen."""
    train = config.train
    num_rows = (
        train.num_steps * train.gradient_accumulation * train.num_ranks * config.rows_per_batch
    )
    passes = num_rows / data.rows.num_rows
    copies = config.copies.model_dump(exclude={"typed_user_share"})
    last = {point.name: point.value for point in trained.curves if "loss" in point.name}
    numbers = {
        "examples": float(data.num_examples),
        "too_long": float(data.num_too_long),
        "rows": float(data.rows.num_rows),
    }
    numbers |= {f"epochs/{name}": passes * count for name, count in copies.items() if count}
    numbers |= {name.removeprefix("train/"): value for name, value in last.items()}
    return tuple(Metric(f"sft/{name}", value) for name, value in numbers.items())


def _store(
    request: SftRequest,
    store: ArtifactStore,
    base: "LanguageModel",
    trained: "Trained",
    metrics: tuple[Metric, ...],
) -> ArtifactRef:
    """Commit weights, config and card."""
    from interloom.language_model.storing import ModelCard, StoredModel, store_language_model

    inputs = tuple(request.inputs().values())
    licences = {licence for ref in inputs for licence in store.manifest(ref).licences}
    card = ModelCard(
        title="Spoken chatbot",
        purpose="Answers spoken and typed questions in text and speech, or in speech alone.",
        numbers={metric.name: metric.value for metric in metrics},
    )
    model = StoredModel(
        weights=trained.weights,
        config=base.model.config,
        patches=base.patches,
        layout=base.layout,
        card=card,
        parents=inputs,
        licences=tuple(sorted(licences)),
        facts={
            "base_model": request.model.id,
            "precision": request.config.train.precision,
            "seed": request.seed,
            "template": request.config.template.model_dump(),
        },
    )
    return store_language_model(store, model, ArtifactKind.CHAT_MODEL)
