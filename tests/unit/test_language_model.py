"""The transformer, its loss, its exchange with Hugging Face, and generation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from interloom.config.language_model import PRESETS, LanguageModelConfig
from interloom.core.errors import ConfigError, DataError
from interloom.language_model.attention import attend
from interloom.language_model.convert import export_hf, hf_config, import_hf
from interloom.language_model.cross_entropy import chunked_cross_entropy
from interloom.language_model.model import Transformer, packed_mask
from interloom.language_model.runtime import LanguageModel
from interloom.language_model.sampling import Sampling, choose
from interloom.language_model.sight import Documents
from interloom.mixture.examples import Example
from interloom.mixture.rows import MemoryRows
from interloom.testing.models import draw_biases
from interloom.training.linear import Linear
from interloom.vocabulary.layout import Marker, VocabularyLayout

LAYOUT = VocabularyLayout(20, 16, "1" * 64, "2" * 64)
TINY = LanguageModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=48, init_std=0.2
)
PLAIN = TINY.model_copy(update={"has_qk_norm": False, "has_tied_embeddings": False})
QWEN2 = PLAIN.model_copy(update={"has_qkv_bias": True})


def _model(config: LanguageModelConfig = TINY, **options: object) -> Transformer:
    model = Transformer(config, LAYOUT.size, **options)  # type: ignore[arg-type]
    model.initialise(torch.Generator().manual_seed(1))
    draw_biases(model, seed=2)
    return model


def _ids(length: int, seed: int = 0) -> NDArray[np.int32]:
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.integers(0, 20, length).astype(np.int32)


def _loss(model: Transformer, rows: MemoryRows) -> tuple[torch.Tensor, torch.Tensor]:
    batch = rows.batch(range(rows.num_rows))
    total, losses = model(
        torch.from_numpy(batch.tokens_BL).long(),
        torch.from_numpy(batch.positions_BL),
        torch.from_numpy(batch.segments_BL),
        torch.from_numpy(batch.is_target_BL),
    )
    return total, losses


def _rows(documents: list[NDArray[np.int32]], row_length: int) -> MemoryRows:
    examples = [("s", Example.after(str(i), ids, 1, "x")) for i, ids in enumerate(documents)]
    return MemoryRows(examples, row_length=row_length, pad=LAYOUT.marker(Marker.PAD))


@pytest.mark.parametrize("config", [TINY, PLAIN], ids=["qk-norm-tied", "plain-untied"])
def test_packed_documents_have_the_losses_and_gradients_they_have_alone(
    config: LanguageModelConfig,
) -> None:
    documents = [_ids(n, seed=n) for n in (9, 7, 5, 3)]
    model = _model(config)

    packed, _ = _loss(model, _rows(documents, 16))
    torch.autograd.backward(packed)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone = sum(_loss(model, _rows([ids], len(ids)))[0] for ids in documents)
    assert isinstance(alone, torch.Tensor)
    torch.autograd.backward(alone)

    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_token_changes_only_what_follows_it_in_its_document() -> None:
    first, second = _ids(8, 1), _ids(6, 2)
    changed = first.copy()
    changed[4] = (changed[4] + 1) % 20
    model = _model()

    _, before = _loss(model, _rows([first, second], 16))
    _, after = _loss(model, _rows([changed, second], 16))

    same = torch.isclose(before, after, rtol=0, atol=1e-6)
    assert same.tolist() == [True] * 3 + [False] * 4 + [True] * 5


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_of_the_loss_give_torchs_loss_and_gradients(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (7,), generator=generator)

    total, losses = chunked_cross_entropy(hidden, weight, targets, chunk)
    torch.autograd.backward(total * 0.5)
    ours = (hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    theirs = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.autograd.backward(theirs.sum() * 0.5)

    torch.testing.assert_close(losses, theirs.detach())
    torch.testing.assert_close(ours, (hidden.grad, weight.grad))


def test_a_second_backward_through_the_loss_is_refused() -> None:
    hidden = torch.randn(3, 5, requires_grad=True)
    total, _ = chunked_cross_entropy(hidden, torch.randn(7, 5), torch.tensor([1, 2, 6]), 2)
    torch.autograd.backward(total, retain_graph=True)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(total)


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=3),
    st.integers(0, 100),
)
def test_attention_by_documents_is_attention_with_their_mask(
    lengths: list[list[int]], seed: int
) -> None:
    longest = max(map(sum, lengths))
    segments = torch.tensor(
        [
            [
                number
                for number, length in enumerate([*row, longest - sum(row)])
                for _ in range(length)
            ]
            for row in lengths
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(len(lengths), 4, longest, 8, generator=generator)
    key, value = torch.randn(2, len(lengths), 2, longest, 8, generator=generator)

    by_documents = attend(query, key, value, Documents.of(segments))
    by_mask = attend(query, key, value, packed_mask(segments))

    torch.testing.assert_close(by_documents, by_mask, rtol=1e-4, atol=1e-5)


def test_another_document_changes_no_bit_of_a_loss() -> None:
    own, other = _ids(9, 1), _ids(30, 2)
    model = _model()

    def of_own(documents: list[NDArray[np.int32]]) -> torch.Tensor:
        """The losses of the shorter document, which stands last in the row."""
        return _loss(model, _rows(documents, 64))[1][-8:]

    before = of_own([own, other])

    assert torch.equal(before, of_own([own, (other + 1) % 20]))
    assert torch.equal(before, of_own([own, np.concatenate([other, _ids(7, 3)])]))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_the_fast_linear_layer_is_torchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator, requires_grad=True)
    layer = Linear(5, 11)
    slope = torch.randn(*shape[:-1], 11, generator=generator)

    torch.autograd.backward(layer(x), slope)
    ours = (x.grad, layer.weight.grad)
    x.grad = layer.weight.grad = None
    torch.autograd.backward(functional.linear(x, layer.weight), slope)

    torch.testing.assert_close(ours, (x.grad, layer.weight.grad))


def test_activation_checkpointing_changes_nothing() -> None:
    rows = _rows([_ids(12)], 12)
    plain, saving = _model(), _model(has_activation_checkpointing=True)

    for model in (plain, saving):
        torch.autograd.backward(_loss(model, rows)[0])

    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("config", [TINY, PLAIN, QWEN2], ids=["qwen3", "llama", "qwen2"])
def test_hugging_face_gives_the_same_logits(config: LanguageModelConfig) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = _model(config)
    body = hf_config(config, LAYOUT.size)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**body))
    missing = theirs.load_state_dict(export_hf(model.state_dict(), config), strict=False)
    ids = torch.from_numpy(_ids(13)).long()[None]

    with torch.no_grad():
        expected = theirs.eval()(ids).logits.log_softmax(-1)
    ours = LanguageModel(model, LAYOUT).log_likelihoods([_ids(13)])[0]

    assert set(missing.missing_keys) <= {"lm_head.weight"}
    assert not missing.unexpected_keys
    picked = expected[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    np.testing.assert_allclose(ours, picked.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, PLAIN, QWEN2], ids=["qwen3", "llama", "qwen2"])
def test_weights_go_to_hugging_face_and_back(config: LanguageModelConfig) -> None:
    weights = _model(config).state_dict()

    back = import_hf(export_hf(weights, config), config)

    assert set(back) == set(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_a_checkpoint_without_a_layer_is_refused() -> None:
    weights = export_hf(_model().state_dict(), TINY)
    more = TINY.model_copy(update={"num_layers": 3})

    with pytest.raises(DataError, match=r"no 'model\.layers\.2\..*as many layers"):
        import_hf(weights, more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "even multiple of num_heads"),
        ({"num_kv_heads": 3}, "must divide num_heads = 4"),
        ({"has_qkv_bias": True}, "no published model has both"),
    ],
)
def test_a_shape_that_is_no_model_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModelConfig.model_validate(TINY.model_dump() | changes)


@pytest.mark.parametrize(
    "config", [TINY, PLAIN, QWEN2, PRESETS["5m"]], ids=["tied", "untied", "biases", "5m"]
)
def test_the_number_of_parameters_is_known_before(config: LanguageModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config, LAYOUT.size)

    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == config.num_parameters(LAYOUT.size)


def test_scores_do_not_hang_on_the_other_rows() -> None:
    model = LanguageModel(_model(), LAYOUT)
    rows = [_ids(n, seed=n) for n in (1, 9, 4, 40)]

    together = model.log_likelihoods(rows)

    assert [len(one) for one in together] == [0, 8, 3, 39]
    for row, scores in zip(rows, together, strict=True):
        np.testing.assert_allclose(scores, model.log_likelihoods([row])[0], rtol=1e-4, atol=1e-5)


def _greedy_without_cache(model: LanguageModel, prompt: NDArray[np.int32], count: int) -> list[int]:
    ids: list[int] = prompt.tolist()
    for _ in range(count):
        tokens = torch.tensor([ids])
        length = len(ids)
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        with torch.no_grad():
            hidden = model.model.hidden(tokens, torch.arange(length)[None], mask)
        ids.append(int((hidden[0, -1] @ model.model.output_weight.T).argmax()))
    return ids[len(prompt) :]


def test_generation_with_the_cache_is_generation_without_it() -> None:
    model = LanguageModel(_model(), LAYOUT)
    prompts = [_ids(n, seed=n) for n in (3, 11, 1, 6)]

    made = model.generate(prompts, Sampling(max_new_tokens=10))

    for prompt, one in zip(prompts, made, strict=True):
        assert one.tolist() == _greedy_without_cache(model, prompt, 10)


def test_a_row_ends_with_its_stop_id_while_others_go_on() -> None:
    model = LanguageModel(_model(), LAYOUT)
    prompts = [_ids(n, seed=n) for n in (3, 11, 1, 6)]
    free = [one.tolist() for one in model.generate(prompts, Sampling(max_new_tokens=10))]
    stop = free[0][2]

    stopped = model.generate(prompts, Sampling(max_new_tokens=10, stop_ids=(stop,)))

    for whole, one in zip(free, stopped, strict=True):
        expected = whole[: whole.index(stop) + 1] if stop in whole else whole
        assert one.tolist() == expected


def _only_speech(generated: NDArray[np.int32]) -> NDArray[np.bool_]:
    return LAYOUT.is_speech(np.arange(LAYOUT.size))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_generated(temperature: float) -> None:
    model = LanguageModel(_model(), LAYOUT)
    sampling = Sampling(max_new_tokens=20, temperature=temperature, seed=4)

    made = model.generate([_ids(5), _ids(3)], sampling, allowed=_only_speech)

    assert all(LAYOUT.is_speech(ids).all() for ids in made)


def test_draws_hang_on_the_seed_and_the_row_alone() -> None:
    model = LanguageModel(_model(), LAYOUT)
    sampling = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95, seed=4)
    prompts = [_ids(5), _ids(9, 1), _ids(5)]

    first, second, again = model.generate(prompts, sampling)
    other = model.generate(prompts, Sampling(12, temperature=1.0, top_p=0.95, seed=5))[0]

    assert model.generate(prompts[:2], sampling)[0].tolist() == first.tolist()
    assert first.tolist() != again.tolist()  # the same prompt in another row
    assert first.tolist() != other.tolist()
    assert len(second) == 12


@given(st.floats(0.05, 1.0), st.integers(0, 50))
def test_top_p_draws_from_the_smallest_set_that_reaches_it(top_p: float, step: int) -> None:
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    sampling = Sampling(1, temperature=1.0, top_p=top_p)

    chosen = choose(np.log(probabilities).astype(np.float32), sampling, 0, step)

    assert probabilities[:chosen].sum() < top_p + 1e-6


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))

    drawn = [choose(logits, Sampling(1, temperature=1.0), 0, step) for step in range(2000)]

    assert np.bincount(drawn) / 2000 == pytest.approx([0.1, 0.6, 0.3], abs=0.04)


@pytest.mark.parametrize(
    "sampling",
    [
        lambda: Sampling(0),
        lambda: Sampling(1, temperature=-1.0),
        lambda: Sampling(1, top_p=0.0),
    ],
)
def test_sampling_out_of_range_is_refused(sampling: Callable[[], Sampling]) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens >= 1, temperature >= 0 and 0 < top_p"):
        sampling()


@pytest.mark.parametrize("length", [0, 4091])
def test_a_prompt_that_leaves_no_room_is_refused(length: int) -> None:
    model = LanguageModel(_model(), LAYOUT)

    with pytest.raises(
        ConfigError, match=f"row 0 has {length} tokens; with 10 new ones .* 1 to 4086"
    ):
        model.generate([_ids(length)], Sampling(max_new_tokens=10))
