"""A text-to-token model that begins from a language model in Hugging Face's layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from interloom.config.text_to_token import BaseConfig, TextToTokenConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.corpora.tables import SPEECH_TOKENS, write_table
from interloom.ports.workspace import Workspace
from interloom.testing import toy_speech
from interloom.testing.engine import PlainEngine
from interloom.testing.store import MemoryStore, stand_in
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.base import digest_of, read_base
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.fitting import Inputs, fit, make_model, make_prompter
from interloom.text_to_token.jobs import Job
from interloom.text_to_token.pieces import read_spoken
from interloom.text_to_token.prompt import InputIds
from interloom.text_to_token.runtime import load_text_to_token
from interloom.text_to_token.spans import SpanRequest
from interloom.vocabulary.layout import VocabularyLayout

ROWS = [toy_speech.token_row(index, num_words=2 + index % 4) for index in range(40)]
TOKENIZER = TextTokenizer.train([row["text"] for row in ROWS], vocab_size=270)
PADDED = 320  # rows of the base's embedding, more than the tokenizer has ids
SHARED: dict[str, Any] = {
    "vocab_size": PADDED,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHARED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHARED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHARED, head_dim=16)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def save_base(folder: Path, family: str) -> tuple[Any, BaseConfig]:
    """Random weights, norms and biases included; the digest of what was saved."""
    torch.manual_seed(1)
    theirs = FAMILIES[family]().eval()
    for name, value in theirs.named_parameters():
        if value.dim() == 1:
            torch.nn.init.normal_(value, mean=float("norm" in name), std=0.3)
    theirs.save_pretrained(folder)
    TOKENIZER.save(folder / "tokenizer.json")
    return theirs, base_config(folder)


def base_config(folder: Path) -> BaseConfig:
    weights = sorted(folder.glob("*.safetensors"))
    files = [folder / "config.json", folder / "tokenizer.json", *weights]
    return BaseConfig(folder=str(folder), sha256=digest_of(files))


def layout() -> VocabularyLayout:
    kinds = (ArtifactKind.TEXT_TOKENIZER, ArtifactKind.TOKENIZER_MODEL)
    text, speech = (stand_in(MemoryStore(), kind).id for kind in kinds)
    return VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, text, speech)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_that_begins_from_a_base_reads_text_as_the_base_does(
    family: str, tmp_path: Path
) -> None:
    theirs, config = save_base(tmp_path, family)
    base = read_base(config)
    ids = InputIds.of_base(base.num_text_ids, toy_speech.CODEBOOK_SIZE, 2)
    prompter = make_prompter(read_spoken(ROWS), layout(), TOKENIZER)
    prompter = type(prompter)(
        layout=prompter.layout,
        ids=ids,
        voices=prompter.voices,
        frames_per_byte=None,
        spoken_ids=None,
        text_tokenizer=base.text_tokenizer,
    )
    ours = make_model(prompter, TextToTokenConfig(dropout=0.0), seed=0, base=base).eval()
    read = torch.tensor([TOKENIZER.encode("bad cab fade deaf")])

    with torch.no_grad():
        places = torch.arange(read.shape[1], dtype=torch.float32)[None]
        logits = ours(read, places, torch.ones_like(read, dtype=torch.bool))
        hidden = theirs.model(input_ids=read).last_hidden_state[0]
        expected = hidden @ ours.head.weight.T
        prompt = prompter.prompt(TOKENIZER.encode(" bad cab"), "speaker-1")
        whole = ours(
            torch.from_numpy(prompt.ids)[None],
            torch.from_numpy(prompt.places)[None],
            torch.ones(1, len(prompt), dtype=torch.bool),
        )
    [made] = TorchEngine(ours, num_slots=2, speech_offset=ids.speech_offset).decode(
        [Job(prompt, 3, torch.zeros(4).double().numpy())]
    )

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert made.codes[:1].tolist() == [int(whole[-1, :-1].argmax())]
    assert prompt.ids[0] == PADDED + 1 + toy_speech.CODEBOOK_SIZE + 1
    assert prompt.first_place == len(prompt)


def test_a_model_from_a_base_is_trained_stored_and_loaded(tmp_path: Path) -> None:
    _, base = save_base(tmp_path / "base", "qwen3")
    store = MemoryStore()
    stand_in(store, ArtifactKind.TEXT_TOKENIZER)
    tokenizer = stand_in(store, ArtifactKind.TOKENIZER_MODEL)
    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, [*ROWS, *held_out()])
        tokens = draft.commit(facts={"tokenizer": tokenizer.id})
    config = TextToTokenConfig(base=base, train=TrainConfig(num_steps=2, learning_rate=1e-3))

    fitted = fit(
        Inputs(tokens, layout()),
        config,
        seed=0,
        store=store,
        work=Workspace(tmp_path),
        engine=PlainEngine,
    )
    speaker = load_text_to_token(store, fitted.ref)
    [result] = speaker.synthesise([SpanRequest("a", "bad cab")])

    assert speaker.prompter.frames_per_byte is None
    assert speaker.prompter.can_say(TOKENIZER.encode("what nobody has said: zebra"))
    assert speaker.prompter.text_tokenizer.encode("bad cab") == TOKENIZER.encode("bad cab")
    assert result.attempts > 0


def held_out() -> list[dict[str, Any]]:
    return [toy_speech.token_row(100, split="heldout")]


def test_utterances_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    store = MemoryStore()
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            TOKENIZER.save(shard.path)
        text = draft.commit()
    tokenizer = stand_in(store, ArtifactKind.TOKENIZER_MODEL)
    rows = [*ROWS, toy_speech.token_row(50, num_words=90)]
    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, rows)
        tokens = draft.commit(facts={"tokenizer": tokenizer.id})
    named = VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, text.id, tokenizer.id)
    config = TextToTokenConfig(
        width=16,
        num_heads=2,
        num_layers=1,
        max_positions=200,
        train=TrainConfig(num_steps=1, learning_rate=1e-3),
    )

    def run(config: TextToTokenConfig, folder: str) -> ArtifactRef:
        work = Workspace(tmp_path / folder)
        work.folder.mkdir()
        inputs = Inputs(tokens, named)
        return fit(inputs, config, seed=0, store=store, work=work, engine=PlainEngine).ref

    card = json.loads(
        store.local_path(store.manifest(run(config, "a")).shard("card.json")).read_text()
    )

    assert (card["training_utterances"], card["left_out_utterances"]) == (40, 1)
    with pytest.raises(DataError, match=r"all 41 utterances are longer than .*max_positions = 5"):
        run(config.model_copy(update={"max_positions": 5}), "b")


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    save_base(tmp_path, "llama")

    with pytest.raises(DataError, match=f"expected text_to_token.base.sha256 = {'0' * 64}, got"):
        read_base(BaseConfig(folder=str(tmp_path)))


def test_a_base_that_the_arithmetic_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_base(tmp_path, "llama")
    body = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "gpt2"}, "a checkpoint of 'gpt2' cannot be a base; expected llama"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope type = 'llama3', only 'default'"),
        ({"mlp_bias": True}, "mlp_bias = True, only False"),
        ({"attention_bias": True}, "attention_bias = True, only False"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(body | change))
        with pytest.raises(DataError, match=message):
            read_base(base_config(tmp_path))


def test_a_base_with_missing_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"there is no .*config\.json; a base is a folder"):
        read_base(BaseConfig(folder=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    with pytest.raises(MissingError, match=r"holds no \*\.safetensors"):
        read_base(BaseConfig(folder=str(tmp_path)))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    _, config = save_base(tmp_path, "llama")
    body = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(body | {"num_hidden_layers": 3}))
    base = read_base(base_config(tmp_path))
    prompter = make_prompter(read_spoken(ROWS), layout(), TOKENIZER)

    with pytest.raises(DataError, match=r"has no 'model\.layers\.2\.input_layernorm\.weight'"):
        make_model(prompter, TextToTokenConfig(), seed=0, base=base)
    assert config.sha256 != base_config(tmp_path).sha256
