"""Train a tokenizer, measure it, store it."""

from dataclasses import dataclass

import torch

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.core.artifacts import ArtifactRef, parse_ref
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.gate import CheckResult
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.speech_tokenizer.artifact import ModelFiles, load_model, save_model
from interloom.speech_tokenizer.features import Corpus, read_features
from interloom.speech_tokenizer.health import health_of, judged
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.speech_tokenizer.scoring import held_out_metrics
from interloom.speech_tokenizer.task import TokenizerTask
from interloom.speech_tokenizer.weights import load_whisper
from interloom.text.bpe import load_text_tokenizer
from interloom.training.loop import train


@dataclass(frozen=True, slots=True)
class TokenizerInputs:
    """The artifacts that a tokenizer is trained from."""

    speech: ArtifactRef
    text_tokenizer: ArtifactRef


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """The stored tokenizer, what was measured, and the verdicts on its codebook."""

    ref: ArtifactRef
    metrics: tuple[Metric, ...]
    checks: tuple[CheckResult, ...]


def train_and_save(
    config: TokenizerConfig,
    inputs: TokenizerInputs,
    *,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
    seed: int,
) -> TrainedTokenizer:
    """Train on the ``train`` split from the newest checkpoint in ``work``, measure on ``heldout``.

    Raises:
        DataError: A split has no transcribed speech, or the weights to start from do not fit.
        MissingError: The store lacks the artifact to start from.
    """
    text_tokenizer = load_text_tokenizer(store, inputs.text_tokenizer)
    corpus = Corpus(inputs.speech, "train", config.encoder, text_tokenizer)
    features = read_features(corpus, work.folder / "features", store=store, progress=work.progress)
    torch.manual_seed(seed)
    model = TokenizerModel(config, text_tokenizer.vocab_size)
    model.encoder.codebook.seed.fill_(seed)
    if config.start_from is not None:
        load_whisper(model, load_model(store, parse_ref(config.start_from)).model.state_dict())
    task = TokenizerTask(model, features, config, seed=seed)
    trained = train(task, config.training, engine=engine, work=work, seed=seed)
    model.load_state_dict(trained.weights)
    model.requires_grad_(requires_grad=False).eval()
    health = health_of(model.encoder.codebook, task.code_counts())
    tokenizer = SpeechTokenizer(config, text_tokenizer, model)
    metrics = (
        *held_out_metrics(tokenizer, inputs.speech, store=store, progress=work.progress),
        *health.metrics(),
    )
    files = ModelFiles(
        config=config,
        weights=trained.weights,
        text_vocab_size=text_tokenizer.vocab_size,
        speech=inputs.speech,
        text_tokenizer=inputs.text_tokenizer,
        seed=seed,
    )
    ref = save_model(files, metrics, store=store)
    return TrainedTokenizer(ref, (*metrics, *trained.curves), tuple(judged(health, config.health)))
