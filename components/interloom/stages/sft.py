"""Stage: a pre-trained language model becomes a spoken chatbot."""

from typing import TYPE_CHECKING, Literal

from interloom.config.dialogue import SftConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.dialogue.examples import ChatRows
    from interloom.training.loop import Trained
    from interloom.vocabulary.layout import VocabularyLayout


class SftRequest(StageRequest):
    """All that the chatbot depends on."""

    model: ArtifactRef
    spoken_dialogues: ArtifactRef
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
        DataError: The dialogues were spoken with the codes of another tokenizer, or none fits.
    """
    from interloom.language_model.runtime import load_language_model
    from interloom.language_model.task import LanguageModelTask
    from interloom.training.loop import train

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
    return SftResult(
        chat_model=_store(request, store, trained),
        num_examples=data.num_examples,
        num_too_long=data.num_too_long,
        metrics=(*trained.curves, *_passes(config, data)),
    )


def _chat_rows(request: SftRequest, store: ArtifactStore, layout: "VocabularyLayout") -> "ChatRows":
    """The dialogues for training as packed rows of the model's own vocabulary."""
    from interloom.corpora.tables import read_table
    from interloom.dialogue.examples import chat_rows
    from interloom.dialogue.tables import SPOKEN_TABLE
    from interloom.text.bpe import load_text_tokenizer

    spoken_by = store.manifest(request.spoken_dialogues).facts.get("tokenizer")
    if spoken_by != layout.tokenizer:
        raise DataError(
            f"{request.spoken_dialogues} holds codes of tokenizer {str(spoken_by)[:12]}, "
            f"{request.model} knows those of {layout.tokenizer[:12]}; build the dialogues anew"
        )
    text_ref = ArtifactRef(ArtifactKind.TEXT_TOKENIZER, layout.text_tokenizer)
    return chat_rows(
        read_table(store, request.spoken_dialogues, SPOKEN_TABLE, split="train"),
        request.config,
        text=load_text_tokenizer(store, text_ref),
        layout=layout,
        seed=request.seed,
    )


def _passes(config: SftConfig, data: "ChatRows") -> tuple[Metric, ...]:
    """How often the dialogues were gone through, and how often each copy was seen for it."""
    train = config.train
    rows_seen = (
        train.num_steps * train.gradient_accumulation * train.num_ranks * config.rows_per_batch
    )
    passes = rows_seen / data.rows.num_rows
    copies = config.copies.model_dump(exclude={"typed_user_share"})
    return (
        Metric("sft/examples", float(data.num_examples)),
        Metric("sft/rows", float(data.rows.num_rows)),
        *(Metric(f"sft/epochs/{name}", passes * count) for name, count in copies.items() if count),
    )


def _store(request: SftRequest, store: ArtifactStore, trained: "Trained") -> ArtifactRef:
    """Weights, and the base model's own description."""
    from safetensors.torch import save_file

    from interloom.language_model.runtime import CONFIG, WEIGHTS

    described = store.manifest(request.model).shard(CONFIG)
    with store.draft(ArtifactKind.CHAT_MODEL) as draft:
        with draft.shard(WEIGHTS) as shard:
            save_file({name: one.contiguous() for name, one in trained.weights.items()}, shard.path)
        with draft.shard(CONFIG) as shard:
            shard.path.write_bytes(store.local_path(described).read_bytes())
        return draft.commit(
            parents=tuple(request.inputs().values()),
            licences=store.manifest(request.spoken_dialogues).licences
            + store.manifest(request.model).licences,
            facts={
                "base_model": request.model.id,
                "seed": request.seed,
                "template": request.config.template.model_dump(),
            },
        )
