"""Text models to start from: taken in, refused, extended."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.training import TrainConfig
from interloom.core.errors import DataError, MissingError
from interloom.language_model.bases import extended, import_base, start_from_base
from interloom.language_model.convert import export_hf, hf_config
from interloom.language_model.model import Transformer
from interloom.language_model.runtime import load_language_model
from interloom.ports.workspace import Workspace
from interloom.stages.pretrain import PretrainRequest, pretrain
from interloom.testing.engine import PlainEngine
from interloom.testing.models import draw_biases
from interloom.testing.rows import store_counting_rows
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import VocabularyLayout
from interloom_flows.cli.application import run_command
from interloom_flows.recipes import load_recipe

SHAPE = LanguageModelConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    ffn_size=48,
    has_qk_norm=False,
    has_tied_embeddings=False,
    init_std=0.2,
)
QWEN2 = SHAPE.model_copy(update={"has_qkv_bias": True})
QWEN3 = SHAPE.model_copy(update={"has_qk_norm": True, "has_tied_embeddings": True})
TEXT = TextTokenizer.train(["the fox sees the owl"] * 4, vocab_size=270)
PADDED = 320  # rows of the base's table; its tokenizer has fewer ids


def _folder(tmp_path: Path, shape: LanguageModelConfig = SHAPE, **changes: Any) -> Path:
    """A checkpoint as transformers writes it."""
    folder = tmp_path / "base"
    folder.mkdir()
    model = Transformer(shape, PADDED)
    model.initialise(torch.Generator().manual_seed(1))
    draw_biases(model, seed=2)
    save_file(export_hf(model.state_dict(), shape), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(shape, PADDED) | changes))
    TEXT.save(folder / "tokenizer.json")
    return folder


def _layout(text_tokenizer: str) -> VocabularyLayout:
    return VocabularyLayout(TEXT.vocab_size, 16, text_tokenizer, "2" * 64)


@pytest.mark.parametrize("shape", [SHAPE, QWEN2, QWEN3], ids=["llama", "qwen2", "qwen3"])
def test_an_extended_base_scores_text_as_transformers_does(
    shape: LanguageModelConfig, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    store, folder = MemoryStore(), _folder(tmp_path, shape)
    base = import_base(folder, licence="MIT", store=store)
    layout = _layout(base.text_tokenizer.id)
    model = Transformer(base.shape, layout.size)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([TEXT.encode("the fox sees the owl")])

    start_from_base(model, base.shape, layout, base.ref, store=store, generator=torch.Generator())

    length = ids.shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden = model.hidden(ids, torch.arange(length)[None], mask)
        ours = (hidden @ model.output_weight.T)[..., : TEXT.vocab_size]
        expected = theirs(ids).logits[..., : TEXT.vocab_size]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert base.num_parameters == sum(p.numel() for p in theirs.parameters())


def test_new_rows_stand_around_the_mean_and_padding_is_left_behind() -> None:
    layout = VocabularyLayout(200, 500, "1" * 64, "2" * 64)
    table = torch.randn(260, 64, generator=torch.Generator().manual_seed(0))
    table[200:] = 1000  # what pads the table beyond the tokenizer

    rows = extended(table.bfloat16(), layout, torch.Generator().manual_seed(1))

    text = table[:200].bfloat16().float()
    assert rows.shape == (layout.size, 64)
    assert torch.equal(rows[:200], text)
    new = rows[200:]
    assert (new.mean(dim=0) - text.mean(dim=0)).abs().max() < 0.03
    spread = float(new.std(dim=0).mean() / text.std(dim=0).mean())
    assert spread == pytest.approx(0.1, rel=0.1)
    again = extended(table.bfloat16(), layout, torch.Generator().manual_seed(1))
    assert torch.equal(rows, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "a checkpoint of 'gpt2' cannot be a base; expected llama, qwen2"),
        ({"attention_bias": True}, "attention_bias = True, only False can be a base"),
        ({"use_sliding_window": True}, "use_sliding_window = True, only False"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu', only 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type = 'yarn', only 'default'"),
        ({"head_dim": 16}, "head_dim = 16, only 8"),
        ({"num_hidden_layers": 3}, r"no 'model\.layers\.2\."),
    ],
)
def test_a_base_of_another_architecture_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        import_base(_folder(tmp_path, **changes), licence="MIT", store=MemoryStore())


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    small = Transformer(SHAPE, 260).state_dict()
    save_file(export_hf(small, SHAPE), folder / "model.safetensors")

    with pytest.raises(DataError, match="260 rows of embeddings and a tokenizer of 269 ids"):
        import_base(folder, licence="MIT", store=MemoryStore())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_a_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / name).unlink()

    with pytest.raises(MissingError, match=r"there is no .*|holds no \*\.safetensors"):
        import_base(folder, licence="MIT", store=MemoryStore())


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "config.json").write_text("{")

    with pytest.raises(DataError, match=r"config\.json is not JSON"):
        import_base(folder, licence="MIT", store=MemoryStore())


def test_a_config_that_leaves_something_out_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    body = json.loads((folder / "config.json").read_text())
    del body["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(body))

    with pytest.raises(DataError, match=r"config\.json does not say its 'intermediate_size'"):
        import_base(folder, licence="MIT", store=MemoryStore())


def test_weights_that_were_cut_off_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"model\.safetensors cannot be read, fetch it again"):
        import_base(folder, licence="MIT", store=MemoryStore())


def test_a_recipe_of_another_shape_or_tokenizer_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    base = import_base(_folder(tmp_path), licence="MIT", store=store)
    layout = _layout(base.text_tokenizer.id)
    wide = base.shape.model_copy(update={"ffn_size": 64, "num_layers": 3})

    with pytest.raises(DataError, match="it has num_layers 2, not 3; ffn_size 48, not 64"):
        start_from_base(
            Transformer(wide, layout.size),
            wide,
            layout,
            base.ref,
            store=store,
            generator=torch.Generator(),
        )
    with pytest.raises(DataError, match=r"set ingest\.text_tokenizer to text_tokenizer:"):
        start_from_base(
            Transformer(SHAPE, layout.size),
            base.shape,
            _layout("9" * 64),
            base.ref,
            store=store,
            generator=torch.Generator(),
        )


def test_pretraining_starts_from_a_base(tmp_path: Path) -> None:
    store = MemoryStore()
    base = import_base(_folder(tmp_path), licence="MIT", store=store)
    layout = _layout(base.text_tokenizer.id)
    still = TrainConfig(num_steps=2, learning_rate=1e-9, checkpoint_every_steps=9)
    request = PretrainRequest(
        rows=store_counting_rows(store, tmp_path, layout=layout),
        start=base.ref,
        config=PretrainConfig(model=base.shape, train=still, rows_per_batch=2),
        seed=5,
    )

    made = pretrain(request, store=store, work=Workspace(tmp_path), engine=PlainEngine).model

    weights = load_language_model(store, made).model.state_dict()
    first = Transformer(SHAPE, PADDED)
    first.initialise(torch.Generator().manual_seed(1))
    draw_biases(first, seed=2)
    for name, value in first.state_dict().items():
        held = weights[name]
        own = slice(0, TEXT.vocab_size) if name in {"embedding.weight", "head.weight"} else ...
        torch.testing.assert_close(held[own], value[own], msg=name)
    assert len(weights["embedding.weight"]) == layout.size
    assert "MIT" in store.manifest(made).licences


def test_the_verb_says_how_a_recipe_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "home"))
    folder = _folder(tmp_path)

    assert run_command(["ingest", "base", str(folder), "--name", "small"]) == 0

    said = capsys.readouterr().out.splitlines()
    settings = [shlex.split(line)[1] for line in said if line.startswith("--set ")]
    recipe = load_recipe("starter", settings)
    assert "small@1" in said[0]
    assert recipe.pretrain.start == "small"
    assert recipe.pretrain.model == import_base(folder, licence="x", store=MemoryStore()).shape
    assert recipe.ingest.text_vocab_size == TEXT.vocab_size
    assert recipe.ingest.text_tokenizer is not None
