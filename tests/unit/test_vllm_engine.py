"""A text-to-token model as vLLM takes it. vLLM itself runs only where it is installed."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.errors import ConfigError, MissingError
from interloom.testing import toy_speech
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token import jobs
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.fitting import make_prompter
from interloom.text_to_token.jobs import Decoded, Job, Sampling, engine_name
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.pieces import read_spoken
from interloom.text_to_token.prompt import Prompt
from interloom.text_to_token.runtime import TextToToken
from interloom.text_to_token.vllm_engine import VllmEngine, write_checkpoint
from interloom.vocabulary.layout import VocabularyLayout
from interloom_flows.recipes import load_recipe

OFFSET, NEAR_TIE = 60, 1e-4
SHAPE = ModelShape(
    num_ids=120,
    num_codes=40,
    width=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=32,
    ffn_size=128,
    rotary_base=10_000.0,
    max_length=256,
)
SHAPES = {
    "llama": SHAPE,
    "qwen2": replace(SHAPE, has_qkv_bias=True),
    "qwen3": replace(SHAPE, has_qk_norm=True),
}


def make_model(shape: ModelShape) -> TextToTokenModel:
    model = TextToTokenModel(shape).eval()
    generator = torch.Generator().manual_seed(5)
    model.initialise(generator)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0.0, 0.3, generator=generator)
    return model


def make_jobs(limit: int = 30) -> list[Job]:
    """Texts of 3 to 11 ids at plain positions, whose codes come next."""
    made = []
    for at in range(12):
        rng = np.random.Generator(np.random.Philox(key=at))
        ids = rng.integers(0, OFFSET, size=3 + at % 9)
        prompt = Prompt(ids, np.arange(len(ids), dtype=np.float32), float(len(ids)))
        made.append(Job(prompt, limit, rng.random(limit + 1)))
    return made


def by_torch(model: TextToTokenModel) -> list[Decoded]:
    return TorchEngine(model, num_slots=4, speech_offset=OFFSET).decode(make_jobs())


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_a_checkpoint_of_the_model_speaks_the_same_codes(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model(SHAPES[family])
    end, codes = SHAPE.num_ids, slice(OFFSET, OFFSET + SHAPE.num_codes)

    write_checkpoint(model, OFFSET, tmp_path)

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for job, ours in zip(make_jobs(), by_torch(model), strict=True):
        read = torch.tensor([[*job.prompt.ids.tolist(), *(ours.codes + OFFSET).tolist()]])
        with torch.no_grad():
            logits = theirs(read).logits[0, len(job.prompt) - 1 :]
        wanted = [*ours.codes.tolist(), *([SHAPE.num_codes] if ours.ended else [])]
        said = torch.cat([logits[:, codes], logits[:, end:]], dim=1)[: len(wanted)]
        best = said.max(dim=1).values
        assert logits.shape[1] == SHAPE.num_ids + 1
        assert (best - said[range(len(wanted)), wanted]).max() < NEAR_TIE


def test_vllm_speaks_the_codes_of_the_own_engine() -> None:
    pytest.importorskip("vllm")
    model = make_model(SHAPES["llama"])
    jobs = [*make_jobs(), make_jobs(limit=300)[0]]
    chance = [replace(job, sampling=Sampling(1.0, 0.9)) for job in make_jobs()]

    engine = VllmEngine(model, num_slots=4, speech_offset=OFFSET)
    made, sampled = engine.decode(jobs), engine.decode(chance)

    equal = [
        one.ended == other.ended and one.codes.tolist() == other.codes.tolist()
        for one, other in zip(made, by_torch(model), strict=False)
    ]
    assert sum(equal) >= len(equal) - 1  # but for a near tie
    assert (made[-1].codes.tolist(), made[-1].ended) == ([], False)  # longer than there is room
    assert [one.codes.tolist() for one in engine.decode(chance)] == [
        one.codes.tolist() for one in sampled
    ]
    assert all(0 <= code < SHAPE.num_codes for one in sampled for code in one.codes)


def test_a_model_of_places_in_time_is_not_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "version", lambda _: "0.32.0")
    rows = [toy_speech.token_row(index, num_words=3) for index in range(9)]
    text = TextTokenizer.train([row["text"] for row in rows], vocab_size=270)
    layout = VocabularyLayout(text.vocab_size, toy_speech.CODEBOOK_SIZE, "a" * 64, "b" * 64)
    prompter = make_prompter(read_spoken(rows), layout, text)

    with pytest.raises(ConfigError, match=r"places in time; train one that begins from a"):
        TextToToken.of(make_model(SHAPE), prompter, config=SynthesisConfig(engine="vllm"))


def test_an_engine_that_is_not_installed_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(jobs, "version", missing)

    assert engine_name("torch") == "paged slots, torch"
    with pytest.raises(MissingError, match=r"not installed here.* pip install 'interloom\[vllm\]'"):
        engine_name("vllm")


@pytest.mark.parametrize(
    "key", ["interleave.synthesis", "dialogues.user", "dialogues.assistant", "evaluate.task_speech"]
)
def test_a_recipe_that_asks_vllm_to_speak_in_time_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\.engine = 'vllm' needs a model that begins"):
        load_recipe("smoke", [f"{key}.engine=vllm"])
