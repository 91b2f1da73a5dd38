"""Stage: everything that is measured of a chain of models, with intervals."""

from typing import TYPE_CHECKING, Literal

from interloom.config.evaluation import EvaluationConfig, SpokenTasksConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.evaluation.suite import Chain


class EvaluateRequest(StageRequest):
    """All that the report depends on."""

    speech: ArtifactRef
    tokens: ArtifactRef
    tasks: ArtifactRef
    spoken_tasks: ArtifactRef
    tokenizer: ArtifactRef
    decoder: ArtifactRef
    text_to_token: ArtifactRef
    model: ArtifactRef
    chat_model: ArtifactRef
    text_tokenizer: ArtifactRef
    config: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    version: Literal[1] = 1


class EvaluateResult(StageResult):
    """The report: ``report.json``, ``examples.json`` and the WAV files they name."""

    evaluation: ArtifactRef


def evaluate(request: EvaluateRequest, *, store: ArtifactStore, work: Workspace) -> EvaluateResult:
    """Measure every model of the chain on held-out data, by the chain's own reading head.

    Raises:
        DataError: A model or the tokens were made with another tokenizer, or other tasks were
            spoken; says which.
    """
    _need_one_chain(request, store)
    _need_these_tasks(request, store)
    from interloom.evaluation.asking import load_takes
    from interloom.evaluation.measures import Judging
    from interloom.evaluation.report import write_report
    from interloom.evaluation.suite import evaluate_chain, task_sets

    judging = Judging(request.config, request.seed)
    sets = task_sets(
        store, speech=request.speech, tokens=request.tokens, tasks=request.tasks, judging=judging
    )
    spoken = load_takes(store, request.spoken_tasks)
    done = evaluate_chain(_chain(request, store), sets, spoken, judging, progress=work.progress)
    models = {name: ref.id for name, ref in request.inputs().items() if ref.kind.is_model}
    with store.draft(ArtifactKind.EVALUATION) as draft:
        write_report(draft, done.findings, request.config, models, done.sounds)
        ref = draft.commit(
            parents=tuple(request.inputs().values()),
            licences=store.manifest(request.speech).licences,
            facts={"seed": request.seed, **models},
        )
    metrics = tuple(metric for one in done.findings.measures for metric in one.to_metrics())
    return EvaluateResult(evaluation=ref, metrics=metrics)


def _need_one_chain(request: EvaluateRequest, store: ArtifactStore) -> None:
    """Refuse codes of another speech tokenizer, and models with another joint vocabulary."""
    from interloom.text.bpe import load_text_tokenizer
    from interloom.vocabulary.layout import VocabularyLayout

    spoken = request.spoken_tasks
    for ref in (request.tokens, request.decoder, request.text_to_token, spoken):
        held = store.manifest(ref).facts["tokenizer"]
        if held != request.tokenizer.id:
            raise DataError(
                f"{ref} was made with speech tokenizer {held[:12]}, the evaluation is for "
                f"{request.tokenizer.id[:12]}: its codes do not mean the same; give the tokenizer "
                "that it was made with, or make it again with this one"
            )
    layout = VocabularyLayout(
        text_vocab_size=load_text_tokenizer(store, request.text_tokenizer).vocab_size,
        codebook_size=store.manifest(request.tokens).facts["codebook_size"],
        text_tokenizer=request.text_tokenizer.id,
        tokenizer=request.tokenizer.id,
    )
    for ref in (request.model, request.chat_model):
        facts = store.manifest(ref).facts
        layout.require(facts.get("plain_vocabulary", facts["vocabulary"]), holder=str(ref))


def _need_these_tasks(request: EvaluateRequest, store: ArtifactStore) -> None:
    """Refuse what was spoken of other tasks, or of another choice among them."""
    facts = store.manifest(request.spoken_tasks).facts
    asked = request.config.part(SpokenTasksConfig).model_dump(mode="json")
    wanted = {
        "tasks": request.tasks.id,
        "text_to_token": request.text_to_token.id,
        "asked": asked,
        "seed": request.seed,
    }
    other = [name for name, value in wanted.items() if facts[name] != value]
    if other:
        raise DataError(
            f"{request.spoken_tasks} was spoken with another {', '.join(other)} than this "
            "evaluation asks for; speak the tasks again with these settings (stage speak_tasks)"
        )


def _chain(request: EvaluateRequest, store: ArtifactStore) -> "Chain":
    """Load all models."""
    from interloom.dialogue.chat import Chatbot
    from interloom.evaluation.suite import Chain
    from interloom.language_model.runtime import load_language_model
    from interloom.speech_decoder.runtime import load_speech_decoder
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer
    from interloom.text.bpe import load_text_tokenizer
    from interloom.text_to_token.runtime import load_text_to_token

    text = load_text_tokenizer(store, request.text_tokenizer)
    tokenizer = load_speech_tokenizer(store, request.tokenizer)
    decoder = load_speech_decoder(store, request.decoder)
    chat = load_language_model(store, request.chat_model)
    answer = request.config.answer
    wordless = answer.model_copy(update={"is_text_guided": False})
    return Chain(
        text=text,
        tokenizer=tokenizer,
        decoder=decoder,
        text_to_token=load_text_to_token(store, request.text_to_token, seed=request.seed),
        base=load_language_model(store, request.model),
        tuned=chat,
        chatbot=Chatbot(chat, text, tokenizer, decoder, answer),
        wordless_chatbot=Chatbot(chat, text, tokenizer, decoder, wordless),
    )
