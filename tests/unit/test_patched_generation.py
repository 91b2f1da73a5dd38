"""Growing rows give what the parallel pass gives, token by token."""

import numpy as np
import pytest
import torch

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.building import AnyTransformer, build_model, growing_rows
from interloom.language_model.growing import PaddedRows
from interloom.language_model.model import Transformer, packed_mask
from interloom.language_model.runtime import LanguageModel
from interloom.language_model.sampling import Sampling
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

LAYOUT = VocabularyLayout(20, 12, text_tokenizer="t", tokenizer="s")
SHAPE = LanguageModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=48, max_length=128
)
PATCHES = PatchConfig(
    kind="static", size=3, local_size=16, decoder_layers=2, local_heads=2, local_ffn_size=24
)
CONFIGS = {
    "plain": PatchConfig(),
    "patches of 1": PATCHES.model_copy(update={"size": 1}),
    "patches of 3": PATCHES,
    "narrow windows": PATCHES.model_copy(update={"token_window": 4, "patch_window": 2}),
    "one sub-query": PATCHES.model_copy(update={"sub_queries": 1, "size": 2}),
}


def model_of(config: PatchConfig) -> AnyTransformer:
    model = build_model(SHAPE, config, LAYOUT)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return model.eval()


def random_rows(seed: int, count: int, length: int) -> list[Ids]:
    """Rows of text, markers and runs of speech of any length."""
    rng = np.random.Generator(np.random.Philox(seed))
    rows = []
    for _ in range(count):
        parts: list[Ids] = []
        while sum(map(len, parts)) < length:
            parts.append(rng.integers(0, 20, rng.integers(1, 4)).astype(np.int32))
            parts.append(LAYOUT.wrap_audio(rng.integers(0, 12, rng.integers(1, 9))))
        rows.append(np.concatenate(parts)[:length])
    return rows


def parallel_logits(model: AnyTransformer, row: Ids) -> torch.Tensor:
    batch = PaddedRows.of([row], LAYOUT)
    seen = packed_mask(batch.segments_BT) if isinstance(model, Transformer) else batch.segments_BT
    with torch.inference_mode():
        return (model.hidden(batch.ids_BT, batch.positions_BT, seen) @ model.output_weight.T)[0]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_grows_has_the_logits_of_the_parallel_pass(
    config: PatchConfig, seed: int
) -> None:
    model, rows = model_of(config), random_rows(seed, 4, 40)
    begun = [5, 11, 17, 8]
    prompts = PaddedRows.of([row[:count] for row, count in zip(rows, begun, strict=True)], LAYOUT)

    with torch.inference_mode():
        growing = growing_rows(model, prompts, new_tokens=20)
        steps = [growing.read()]
        for step in range(20):
            ids = [row[count + step] for row, count in zip(rows, begun, strict=True)]
            steps.append(growing.step(torch.tensor(ids)))

    for place, (row, count) in enumerate(zip(rows, begun, strict=True)):
        expected = parallel_logits(model, row)[count - 1 : count + 20]
        got = torch.stack([logits[place] for logits in steps])
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_rows_that_are_kept_go_on_as_before() -> None:
    model, rows = model_of(PATCHES), random_rows(5, 3, 40)
    prompts = PaddedRows.of([row[:9] for row in rows], LAYOUT)

    with torch.inference_mode():
        growing = growing_rows(model, prompts, new_tokens=10)
        growing.read()
        growing.step(torch.tensor([row[9] for row in rows]))
        growing.keep([0, 2])
        got = growing.step(torch.tensor([rows[0][10], rows[2][10]]))

    for logits, row in zip(got, (rows[0], rows[2]), strict=True):
        torch.testing.assert_close(logits, parallel_logits(model, row[:11])[-1], rtol=0, atol=2e-4)


def test_a_patched_model_scores_and_continues_as_a_plain_one_does() -> None:
    model = LanguageModel(model_of(PATCHES), LAYOUT)
    prompts = random_rows(2, 3, 14)
    end = LAYOUT.marker(Marker.AUDIO_END)

    made = model.generate(prompts, Sampling(max_new_tokens=12, stop_ids=(end,)))
    scores = model.log_likelihoods(
        [np.concatenate([row, more]) for row, more in zip(prompts, made, strict=True)]
    )

    for prompt, more, score in zip(prompts, made, scores, strict=True):
        logits = parallel_logits(model.model, np.concatenate([prompt, more]))
        best = logits.argmax(dim=-1).numpy()
        assert more.tolist() == best[len(prompt) - 1 : -1].tolist()
        assert len(score) == len(prompt) + len(more) - 1
