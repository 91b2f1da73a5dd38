"""Every model of the chain, tiny and untrained, with corpora to match: for tests of stages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interloom.audio.files import encode_flac
from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.config.speech_decoder import DecoderConfig, MelRegressorConfig, VocoderConfig
from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig, TokenizerConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.tables import (
    CLOZE,
    DIALOGUES,
    ENDINGS,
    QUESTIONS,
    SPEECH_TOKENS,
    UTTERANCES,
    write_table,
)
from interloom.language_model.model import Transformer
from interloom.language_model.storing import ModelCard, StoredModel, store_language_model
from interloom.ports.store import ArtifactStore
from interloom.speech_decoder.model import DecoderSpec, build_networks, save_decoder
from interloom.speech_tokenizer.artifact import ModelFiles
from interloom.speech_tokenizer.artifact import save_model as save_tokenizer
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.text.bpe import FILE, TextTokenizer
from interloom.text_to_token.files import save_model as save_text_to_token
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import InputIds, Prompter
from interloom.vocabulary.layout import VocabularyLayout

NUM_CODES = 24
VOICES = ("anna", "bert")
TEXTS = ("what is it", "it is a dog", "a cat sits", "where is the dog", "the dog is here")
LICENCE = "CC0-1.0"


@dataclass(frozen=True, slots=True)
class TinyChain:
    """References by the names that requests have."""

    speech: ArtifactRef
    tokens: ArtifactRef
    tasks: ArtifactRef
    dialogues: ArtifactRef
    text_tokenizer: ArtifactRef
    tokenizer: ArtifactRef
    decoder: ArtifactRef
    text_to_token: ArtifactRef
    model: ArtifactRef
    layout: VocabularyLayout


def build_tiny_chain(store: ArtifactStore) -> TinyChain:
    """Untrained models do nothing well: what is tested is that the parts fit."""
    torch.manual_seed(0)
    text = TextTokenizer.train(TEXTS, vocab_size=270)
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard(FILE) as shard:
            text.save(shard.path)
        text_ref = draft.commit()
    speech = _table(store, ArtifactKind.SPEECH_CORPUS, {"utterances": (UTTERANCES, _utterances())})
    tokenizer = _tokenizer(store, text, speech, text_ref)
    layout = VocabularyLayout(
        text.vocab_size, NUM_CODES, text_tokenizer=text_ref.id, tokenizer=tokenizer.id
    )
    return TinyChain(
        speech=speech,
        tokens=_table(
            store,
            ArtifactKind.SPEECH_TOKENS,
            {"tokens": (SPEECH_TOKENS, _tokens())},
            {"codebook_size": NUM_CODES, "tokenizer": tokenizer.id},
        ),
        tasks=_table(
            store,
            ArtifactKind.TASKS,
            {
                "cloze": (CLOZE, _cloze()),
                "endings": (ENDINGS, _endings()),
                "questions": (QUESTIONS, _questions()),
            },
        ),
        dialogues=_table(
            store, ArtifactKind.DIALOGUE_CORPUS, {"dialogues": (DIALOGUES, _dialogues())}
        ),
        text_tokenizer=text_ref,
        tokenizer=tokenizer,
        decoder=_decoder(store, tokenizer),
        text_to_token=_text_to_token(store, text, layout),
        model=_language_model(store, layout),
        layout=layout,
    )


def _table(
    store: ArtifactStore,
    kind: ArtifactKind,
    tables: dict[str, Any],
    facts: dict[str, Any] | None = None,
) -> ArtifactRef:
    with store.draft(kind) as draft:
        for name, (schema, rows) in tables.items():
            write_table(draft, name, schema, rows)
        return draft.commit(licences=(LICENCE,), facts=facts or {})


def _utterances() -> Iterator[dict[str, Any]]:
    for row in _tokens():
        seconds = np.arange(row["num_samples"]) / 16_000
        tone = (0.3 * np.sin(2 * np.pi * 220 * seconds)).astype(np.float32)
        kept = {key: value for key, value in row.items() if key != "codes"}
        yield {**kept, "audio": encode_flac(tone)}


def _tokens() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    for index in range(8):
        num_codes = int(rng.integers(8, 14))
        yield {
            "id": f"u{index}",
            "split": "heldout" if index % 2 else "train",
            "speaker": ("anna", "bert", "carl")[index % 3],
            "text": TEXTS[index % len(TEXTS)],
            "codes": rng.integers(NUM_CODES, size=num_codes).tolist(),
            "num_samples": num_codes * 1280 - 100,
            "words": [],
            "source": "tiny",
            "licence": LICENCE,
            "facts": [],
        }


def _cloze() -> Iterator[dict[str, Any]]:
    for index in range(6):
        yield {
            "id": f"c{index}",
            "split": "heldout",
            "group": "story" if index < 3 else "woven",
            "context": TEXTS[index % 5],
            "right": TEXTS[(index + 1) % 5],
            "wrong": TEXTS[(index + 2) % 5],
        }


def _endings() -> Iterator[dict[str, Any]]:
    for index, text in enumerate(TEXTS):
        others = [other for other in TEXTS if other != text]
        yield {
            "id": f"e{index}",
            "split": "heldout",
            "context": text,
            "right": others[0],
            "wrong": others[1:],
        }


def _questions() -> Iterator[dict[str, Any]]:
    for index, text in enumerate(TEXTS):
        yield {
            "id": f"q{index}",
            "split": "heldout",
            "group": "woven",
            "question": text,
            "answers": ["dog"],
        }


def _dialogues() -> Iterator[dict[str, Any]]:
    for index in range(10):
        turns = [
            {"role": ("user", "assistant")[turn % 2], "text": TEXTS[(index + turn) % 5]}
            for turn in range(2 + 2 * (index % 2))
        ]
        yield {
            "id": f"d{index}",
            "split": "heldout" if index == 9 else "train",
            "turns": turns,
            "source": "tiny",
            "licence": LICENCE,
        }


def _tokenizer(
    store: ArtifactStore, text: TextTokenizer, speech: ArtifactRef, text_ref: ArtifactRef
) -> ArtifactRef:
    config = TokenizerConfig(
        encoder=EncoderConfig(
            d_model=16,
            num_heads=2,
            ffn_dim=16,
            num_layers=3,
            pool_after_layer=1,
            quantize_after_layer=2,
        ),
        quantizer=QuantizerConfig(codebook_size=NUM_CODES),
        decoder_layers=1,
    )
    model = TokenizerModel(config, text.vocab_size)
    model.encoder.codebook.is_ready.fill_(value=True)  # random codes are codes
    weights = model.state_dict()
    files = ModelFiles(config, weights, text.vocab_size, speech, text_ref, seed=0)
    return save_tokenizer(files, (), store=store)


def _decoder(store: ArtifactStore, tokenizer: ArtifactRef) -> ArtifactRef:
    spec = DecoderSpec(
        config=DecoderConfig(
            regressor=MelRegressorConfig(
                token_width=8, num_token_layers=1, frame_width=8, num_frame_layers=1
            ),
            vocoder=VocoderConfig(width=8, num_layers=1),
        ),
        codebook_size=NUM_CODES,
        samples_per_token=1280,
        speakers=VOICES,
        voice="anna",
        tokenizer=tokenizer.id,
    )
    with store.draft(ArtifactKind.DECODER_MODEL) as draft:
        save_decoder(draft, spec, build_networks(spec, seed=1))
        return draft.commit(facts={"tokenizer": tokenizer.id})


def _text_to_token(
    store: ArtifactStore, text: TextTokenizer, layout: VocabularyLayout
) -> ArtifactRef:
    prompter = Prompter(
        layout=layout,
        ids=InputIds.of_layout(layout, len(VOICES)),
        voices=VOICES,
        frames_per_byte=0.7,
        spoken_ids=frozenset(range(text.vocab_size)),
        text_tokenizer=text,
    )
    shape = ModelShape(
        num_ids=prompter.ids.size,
        num_codes=NUM_CODES,
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        ffn_size=48,
    )
    model = TextToTokenModel(shape)
    with store.draft(ArtifactKind.TEXT_TO_TOKEN_MODEL) as draft:
        save_text_to_token(draft, model, prompter, {})
        return draft.commit(facts={"tokenizer": layout.tokenizer, "vocabulary": layout.digest})


def _language_model(store: ArtifactStore, layout: VocabularyLayout) -> ArtifactRef:
    config = LanguageModelConfig(
        hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=16, max_length=512
    )
    model = Transformer(config, layout.size)
    model.initialise(torch.Generator().manual_seed(3))
    return store_language_model(
        store,
        StoredModel(
            weights=model.state_dict(),
            config=config,
            patches=PatchConfig(),
            layout=layout,
            card=ModelCard("tiny", "Nothing.", {}),
            parents=(),
            licences=(LICENCE,),
            facts={},
        ),
    )
