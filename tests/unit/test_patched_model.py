"""The latent speech-text transformer: who sees whom, and what it comes to at patches of one."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.model import Transformer
from interloom.language_model.operations import patch_work
from interloom.language_model.patches.model import (
    CrossAttention,
    PatchedTransformer,
    own_crossing,
    own_mask,
    patch_mask,
    seen_crossing,
    seen_mask,
    window_mask,
)
from interloom.language_model.patches.sizes import PatchWork, forward_flops, num_parameters
from interloom.language_model.sight import Crossing, Ranked
from interloom.mixture.batches import RowBatch

TEXT, CODES = 20, 12
SHAPE = LanguageModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=48, has_qk_norm=False
)
PATCHES = PatchConfig(
    kind="static", size=3, local_size=16, decoder_layers=2, local_heads=2, local_ffn_size=24
)


def model_of(config: PatchConfig, *, seed: int = 0) -> PatchedTransformer:
    model = PatchedTransformer(SHAPE, config, TEXT + CODES, speech_offset=TEXT)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)  # so that each token that is seen matters
    return model.eval()


def random_row(seed: int, length: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, places and documents of a row of modality runs of random length."""
    generator = torch.Generator().manual_seed(seed)
    is_speech = torch.rand(1, length, generator=generator) < 0.75
    text = torch.randint(0, TEXT, (1, length), generator=generator)
    codes = torch.randint(TEXT, TEXT + CODES, (1, length), generator=generator)
    segments = (torch.rand(1, length, generator=generator) < 0.15).long().cumsum(dim=1)
    places = torch.arange(length)[None]
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    positions = places - torch.where(begins, places, 0).cummax(dim=1).values
    return torch.where(is_speech, codes, text), positions, segments


def logits_of(model: PatchedTransformer, row: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model.hidden(*row) @ model.output_weight.T


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_no_logit_changes_with_a_later_token_whatever_its_modality(size: int, seed: int) -> None:
    model = model_of(PATCHES.model_copy(update={"size": size}))
    tokens, positions, segments = random_row(seed)
    before = logits_of(model, (tokens, positions, segments))

    for place in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + TEXT) % (TEXT + CODES)
        after = logits_of(model, (changed, positions, segments))
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-5)
        assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize("seed", range(4))
def test_no_logit_changes_with_another_document(seed: int) -> None:
    model = model_of(PATCHES)
    tokens, positions, segments = random_row(seed)
    before = logits_of(model, (tokens, positions, segments))

    for document in range(int(segments.max()) + 1):
        own = segments == document
        changed = torch.where(own, tokens, (tokens + 7) % (TEXT + CODES))
        after = logits_of(model, (changed, positions, segments))
        torch.testing.assert_close(after[own], before[own], rtol=0, atol=1e-5)


def test_a_token_sees_the_patches_before_its_own() -> None:
    """Through the global model alone: the local models see one token."""
    model = model_of(PATCHES.model_copy(update={"token_window": 1}))
    tokens = torch.randint(TEXT, TEXT + CODES, (1, 9), generator=torch.Generator().manual_seed(1))
    row = (tokens, torch.arange(9)[None], torch.zeros(1, 9, dtype=torch.long))
    before = logits_of(model, row)

    changed = tokens.clone()
    changed[0, 0] = TEXT + (changed[0, 0] - TEXT + 1) % CODES
    after = logits_of(model, (changed, *row[1:]))

    differs = (after - before).abs().amax(dim=-1)[0] > 1e-4
    assert differs.tolist() == [True, False, *7 * [True]]


def test_the_windows_limit_what_is_seen() -> None:
    config = PATCHES.model_copy(update={"token_window": 2, "patch_window": 1, "encoder_layers": 0})
    model = model_of(config.model_copy(update={"decoder_layers": 1}))
    model.blocks = torch.nn.ModuleList()
    tokens = torch.randint(TEXT, TEXT + CODES, (1, 12), generator=torch.Generator().manual_seed(1))
    row = (tokens, torch.arange(12)[None], torch.zeros(1, 12, dtype=torch.long))
    before = logits_of(model, row)

    changed = tokens.clone()
    changed[0, 0] = TEXT + (changed[0, 0] - TEXT + 1) % CODES
    after = logits_of(model, (changed, *row[1:]))

    differs = (after - before).abs().amax(dim=-1)[0] > 1e-5
    assert differs.tolist() == [*6 * [True], *6 * [False]]


def test_a_document_that_begins_with_speech_has_finite_losses() -> None:
    model = model_of(PATCHES)
    tokens = torch.full((1, 6), TEXT)
    is_target = torch.arange(6)[None] > 0

    total, losses = model(tokens, torch.arange(6)[None], torch.zeros(1, 6), is_target)

    assert torch.isfinite(total)
    assert len(losses) == 5


def test_patches_of_one_with_empty_local_models_give_the_loss_of_the_plain_model() -> None:
    """The identity: the local width holds the embedding and, beside it, the global state.

    The encoder has no block, the decoder one whose branches are zero, each token sees the patch
    that it completes alone, and matrices carry both halves through. Embeddings are small beside
    the global state, so that the last norm is that of the plain model.
    """
    width, small = SHAPE.hidden_size, 1e-4
    exact = {"has_tied_embeddings": False, "norm_epsilon": 1e-12}
    shape = SHAPE.model_copy(update=exact)
    plain = Transformer(shape, TEXT + CODES)
    plain.initialise(torch.Generator().manual_seed(0))
    config = PatchConfig(
        kind="static",
        size=1,
        local_size=2 * width,
        encoder_layers=0,
        decoder_layers=1,
        local_heads=1,
        local_ffn_size=8,
        patch_window=1,
        sub_queries=1,
    )
    patched = PatchedTransformer(shape, config, TEXT + CODES, speech_offset=TEXT)
    none, one = torch.zeros(width, width), torch.eye(width)
    patched.blocks.load_state_dict(plain.blocks.state_dict())
    weights = patched.state_dict()
    with torch.no_grad():
        for parameter in (*patched.encoder.parameters(), *patched.decoder.parameters()):
            if parameter.dim() == 2:
                parameter.zero_()
        weights["encoder.embedding.weight"][:, :width] = small * plain.embedding.weight
        weights["encoder.expand.weight"].copy_(torch.eye(2 * width))
        weights["encoder.widen.weight"].copy_(torch.cat([one / small, none], dim=1))
        weights["decoder.narrow.weight"].copy_(torch.cat([none, one]))
        weights["decoder.crosses.0.key_value.weight"][2 * width :] = torch.eye(2 * width)
        weights["decoder.crosses.0.out.weight"].copy_(torch.eye(2 * width))
        weights["head.weight"][:, width:] = plain.output_weight * plain.norm.weight * 0.5**0.5
    tokens, positions, segments = random_row(3)
    is_target = positions > 0

    expected, _ = plain(tokens, positions, segments, is_target)
    got, _ = patched(tokens, positions, segments, is_target)

    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


def test_the_published_quirk_doubles_the_residual_of_the_cross_attentions() -> None:
    states, numbers = torch.randn(1, 4, 16), torch.zeros(1, 4, dtype=torch.long)
    sight = Crossing.of(Ranked(numbers, numbers - 1), Ranked(numbers, numbers), 1)
    once, twice = (
        CrossAttention(PATCHES.model_copy(update={"doubles_residual": doubles}), 1e-5)
        for doubles in (False, True)
    )

    torch.testing.assert_close(once(states, states, sight), states)
    torch.testing.assert_close(twice(states, states, sight), 2 * states)


PAPER = LanguageModelConfig(
    hidden_size=2048,
    num_layers=25,
    num_heads=16,
    num_kv_heads=16,
    ffn_size=5632,
    has_qk_norm=False,
    has_tied_embeddings=False,
)
PAPER_PATCHES = PatchConfig(
    kind="static",
    size=4,
    local_size=1024,
    encoder_layers=1,
    decoder_layers=9,
    local_heads=16,
    local_ffn_size=2816,
)
PAPER_VOCABULARY = 32_508


def test_the_paper_s_shape_has_the_paper_s_sizes() -> None:
    sizes = num_parameters(PAPER_PATCHES, PAPER, PAPER_VOCABULARY)

    billions = {name: round(size / 1e9, 2) for name, size in sizes.items()}
    assert billions == {"encoder": 0.05, "global": 1.28, "decoder": 0.19}


@pytest.mark.parametrize("sub_queries", [1, 2])
def test_the_parameters_are_counted_without_a_model(sub_queries: int) -> None:
    config = PATCHES.model_copy(update={"sub_queries": sub_queries})
    counted = sum(num_parameters(config, SHAPE, TEXT + CODES).values())

    assert counted == sum(parameter.numel() for parameter in model_of(config).parameters())


def test_the_operations_are_counted_without_a_model() -> None:
    """One document whose lengths need no padding: 32 tokens of text, then 96 codes."""
    tokens = torch.cat([torch.arange(32) % TEXT, TEXT + torch.arange(96) % CODES])[None]
    positions, segments = torch.arange(128)[None], torch.zeros(1, 128, dtype=torch.long)
    model = model_of(PATCHES)
    num_patches = model.cut(tokens, segments).num_patches
    assert num_patches == 64

    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.inference_mode():
        model.hidden(tokens, positions, segments) @ model.output_weight.T

    work = PatchWork.dense(128, num_patches, sub_queries=PATCHES.sub_queries)
    counted = forward_flops(PATCHES, SHAPE, TEXT + CODES, work)
    assert abs(sum(counted.values()) / counter.get_total_flops() - 1) < 0.02


@pytest.mark.parametrize("window", [2, 512])
def test_blocks_of_documents_show_what_the_masks_show(window: int) -> None:
    """Rows of several documents, of which one is much shorter in patches than the others."""
    config = PATCHES.model_copy(update={"patch_window": window})
    model = model_of(config)
    rows = [random_row(seed, length=80) for seed in range(3)]
    rows.append((torch.full_like(rows[0][0], TEXT), *rows[0][1:]))
    tokens, segments = torch.cat([row[0] for row in rows]), torch.cat([row[2] for row in rows])
    patches = model.cut(tokens, segments)
    states = torch.randn(len(rows), 80, config.local_size)
    entries = torch.randn(len(rows), patches.num_patches * config.sub_queries, config.local_size)

    for queries, keys, crossing, mask in (
        (
            entries,
            states,
            own_crossing(patches, segments, config),
            own_mask(patches, segments, config),
        ),
        (
            states,
            entries,
            seen_crossing(patches, segments, config),
            seen_mask(patches, segments, config),
        ),
    ):
        cross = model.encoder.cross
        with torch.inference_mode():
            found = cross(queries, keys, crossing)
            expected = cross.mixed(queries, *cross.states(keys), mask)
        torch.testing.assert_close(found, expected)


def test_the_pairs_that_are_counted_are_those_that_the_masks_let_through() -> None:
    model = model_of(PATCHES)
    tokens, positions, segments = random_row(4, length=48)
    batch = RowBatch(
        tokens_BL=tokens.numpy(),
        positions_BL=positions.numpy(),
        segments_BL=segments.numpy(),
        is_target_BL=(positions > 0).numpy(),
        sources_BL=segments.numpy(),
    )

    patches = model.cut(tokens, segments)
    work = patch_work(model, batch, patches, tokens.numpy() >= 0)

    assert work.patches == patches.num_patches
    assert work.local_pairs == window_mask(segments, 512).sum()
    assert work.patch_pairs == own_mask(patches, segments, PATCHES).sum()
    assert work.global_pairs == patch_mask(patches).sum()
    assert work.decoder_pairs == seen_mask(patches, segments, PATCHES).sum()
