"""Train a text-to-token model on a table of speech tokens, and store it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from interloom.config.text_to_token import TextToTokenConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import Split, read_table
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.text.speakable import speakable
from interloom.text_to_token.base import Base, read_base
from interloom.text_to_token.files import save_model
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.pieces import Pieces, Spoken, read_spoken
from interloom.text_to_token.prompt import InputIds, Prompter
from interloom.text_to_token.task import TextToTokenTask
from interloom.training.loop import train
from interloom.vocabulary.layout import VocabularyLayout

_COLUMNS = ("text", "codes", "speaker", "words")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is learned from: a table of speech tokens, and the ids that its codes and texts get."""

    tokens: ArtifactRef
    layout: VocabularyLayout

    @property
    def text_tokenizer(self) -> ArtifactRef:
        """The text tokenizer that the layout names."""
        return ArtifactRef(ArtifactKind.TEXT_TOKENIZER, self.layout.text_tokenizer)

    @property
    def parents(self) -> tuple[ArtifactRef, ...]:
        """What the model is made from."""
        speech = ArtifactRef(ArtifactKind.TOKENIZER_MODEL, self.layout.tokenizer)
        return (self.tokens, self.text_tokenizer, speech)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The stored model, with its curves and its held-out likelihood."""

    ref: ArtifactRef
    metrics: tuple[Metric, ...]


def fit(
    inputs: Inputs,
    config: TextToTokenConfig,
    *,
    seed: int,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
) -> Fitted:
    """Train on the ``train`` split, measure on ``heldout``, store the model.

    Raises:
        DataError: No utterance has text and codes, or a code is outside the layout's codebook.
    """
    layout = inputs.layout
    spoken = _read(store, inputs.tokens, "train")
    if not spoken:
        raise DataError(
            f"no utterance of {inputs.tokens} has both text and codes, so there is nothing to "
            "learn to speak from; give transcribed speech to tokenize_speech"
        )
    base = read_base(config.base) if config.base else None
    prompter = _prompter(spoken, inputs, store, base)
    model = make_model(prompter, config, seed=seed, base=base)
    spoken, left_out = _that_fit(spoken, prompter, config.max_positions)
    task = TextToTokenTask(model, Pieces(spoken, prompter, config, seed=seed), prompter)
    trained = train(task, config.train, engine=engine, work=work, seed=seed)
    model.load_state_dict(dict(trained.weights))
    heldout = [
        one for one in _read(store, inputs.tokens, "heldout") if one.speaker in prompter.voices
    ]
    whole = config.model_copy(update={"piece_share": 0.0, "spliced_share": 0.0})
    measured = _measure(model, Pieces(heldout, prompter, whole, seed=seed), prompter)
    with store.draft(ArtifactKind.TEXT_TO_TOKEN_MODEL) as draft:
        card = {
            "config": config.model_dump(mode="json"),
            "metrics": {metric.name: metric.value for metric in measured},
            "purpose": "Speaks short stretches of text as speech codes, to make interleaved data.",
            "left_out_utterances": left_out,
            "training_codes": sum(len(one.codes) for one in spoken),
            "training_utterances": len(spoken),
            "voices": list(prompter.voices),
        }
        save_model(draft, model, prompter, card)
        ref = draft.commit(
            parents=inputs.parents,
            licences=store.manifest(inputs.tokens).licences,
            facts={"seed": seed, "tokenizer": layout.tokenizer, "vocabulary": layout.digest},
        )
    counted = Metric("text_to_token/left_out", float(left_out))
    return Fitted(ref, (*trained.curves, *measured, counted))


def make_model(
    prompter: Prompter, config: TextToTokenConfig, *, seed: int, base: Base | None = None
) -> TextToTokenModel:
    """A new model for these prompts, from nothing or from a base."""
    codes, size = prompter.layout.codebook_size, config.model_size
    shape = ModelShape(
        num_ids=prompter.ids.size,
        num_codes=codes,
        width=size.width,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        num_kv_heads=size.num_kv_heads,
        head_width=size.width // size.num_heads,
        ffn_size=size.ffn_size,
        dropout=config.dropout,
    )
    if base is not None:
        shape = base.shape(prompter.ids, codes, config.dropout)
    model = TextToTokenModel(shape)
    model.initialise(torch.Generator().manual_seed(seed))
    if base is not None:
        base.pour_into(model)
    return model


def _prompter(
    spoken: Sequence[Spoken], inputs: Inputs, store: ArtifactStore, base: Base | None
) -> Prompter:
    """In the ids of the layout, or in those of a base."""
    if base is None:
        text_tokenizer = load_text_tokenizer(store, inputs.text_tokenizer)
        return make_prompter(spoken, inputs.layout, text_tokenizer)
    prompter = make_prompter(spoken, inputs.layout, base.text_tokenizer)
    ids = InputIds.of_base(base.num_text_ids, inputs.layout.codebook_size, len(prompter.voices))
    return replace(prompter, ids=ids, frames_per_byte=None, spoken_ids=None)


def _that_fit(
    spoken: Sequence[Spoken], prompter: Prompter, max_positions: int
) -> tuple[list[Spoken], int]:
    """Utterances that are short enough with their text, and how many are not.

    Raises:
        DataError: All are too long.
    """
    kept = [
        one
        for one in spoken
        if len(prompter.text_ids(one.text)) + 2 + len(one.codes) <= max_positions
    ]
    if not kept:
        raise DataError(
            f"all {len(spoken)} utterances are longer than text_to_token.max_positions = "
            f"{max_positions} with their text; raise it, or cut the recordings"
        )
    return kept, len(spoken) - len(kept)


def _read(store: ArtifactStore, tokens: ArtifactRef, split: Split) -> list[Spoken]:
    """The utterances of a split that can be learned from."""
    return read_spoken(read_table(store, tokens, "tokens", split=split, columns=_COLUMNS))


@torch.no_grad()
def _measure(model: TextToTokenModel, pieces: Pieces, prompter: Prompter) -> tuple[Metric, ...]:
    """Mean negative log-likelihood of held-out codes, in nats; nothing if there are none."""
    model.eval()
    task = TextToTokenTask(model, pieces, prompter)
    losses = [task.loss(model, index) for index in range(pieces.batches_per_epoch)]
    count = sum(float(loss.sums["nll/weight"]) for loss in losses)
    if not count:
        return ()
    total = sum(float(loss.sums["nll"]) for loss in losses)
    return (Metric("text_to_token/heldout_nll", total / count),)


def make_prompter(
    spoken: Sequence[Spoken], layout: VocabularyLayout, text_tokenizer: TextTokenizer
) -> Prompter:
    """The voices, pace and vocabulary of a training set.

    Raises:
        DataError: A code lies outside the codebook.
    """
    for one in spoken:
        layout.speech_ids(one.codes)
    num_bytes = sum(len(f" {speakable(one.text)}".encode()) for one in spoken)
    voices = tuple(sorted({one.speaker for one in spoken}))
    said = text_tokenizer.encode_batch([f" {speakable(one.text)}" for one in spoken])
    ids = {number for one in said for number in one}
    return Prompter(
        layout=layout,
        ids=InputIds.of_layout(layout, len(voices)),
        voices=voices,
        frames_per_byte=sum(len(one.codes) for one in spoken) / num_bytes,
        spoken_ids=frozenset(ids),
        text_tokenizer=text_tokenizer,
    )
