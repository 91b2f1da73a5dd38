import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig
from interloom.speech_tokenizer.carried import CarriedEncoder
from interloom.speech_tokenizer.encoder import Encoder
from interloom.speech_tokenizer.layers import block_causal_mask
from interloom.speech_tokenizer.pieces import num_tokens, padded_length, pieces_of

SMALL = EncoderConfig(
    d_model=16,
    num_heads=2,
    ffn_dim=32,
    num_layers=3,
    pool_after_layer=1,
    quantize_after_layer=2,
    block_frames=8,
    max_frames=80,
    bucket_tokens=4,
)


def _encoder(config: EncoderConfig = SMALL) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config, QuantizerConfig(codebook_size=32), 0.0).eval()


def _mel(rows: int, codes: int, config: EncoderConfig = SMALL) -> torch.Tensor:
    frames = codes * 2 * config.pool_kernel
    generator = torch.Generator().manual_seed(codes)
    return torch.randn(rows, frames, config.num_mel_bins, generator=generator)


def test_padding_and_batch_neighbours_do_not_reach_a_rows_vectors() -> None:
    encoder, mel = _encoder(), _mel(3, 8)
    num_codes = torch.tensor([5, 8, 3])
    changed = mel.clone()
    changed[0, 5 * 8 :] = 7.0
    changed[1] = 0.0

    before, after = encoder.below(mel, num_codes), encoder.below(changed, num_codes)

    assert torch.equal(before[0, :5], after[0, :5])
    assert torch.equal(before[2, :3], after[2, :3])


def test_vectors_see_no_later_block() -> None:
    encoder, mel = _encoder(), _mel(1, 8)
    changed = mel.clone()
    changed[:, 4 * 8 :] = 3.0  # blocks of 8 frames are 2 codes long

    before = encoder.below(mel, torch.tensor([8]))
    after = encoder.below(changed, torch.tensor([8]))

    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_states_of_codes_are_those_of_the_quantised_audio() -> None:
    encoder, mel, num_codes = _encoder(), _mel(2, 6), torch.tensor([6, 4])
    encoder.codebook.is_ready.fill_(value=True)

    encoded = encoder(mel, num_codes)
    codes = encoder.codebook.nearest(encoder.below(mel, num_codes).flatten(0, 1)).reshape(2, 6)
    states = encoder.states_of(codes, num_codes)

    for row, length in enumerate(num_codes.tolist()):
        torch.testing.assert_close(encoded.states_BCD[row, :length], states[row, :length])


@pytest.mark.parametrize("kernel", [1, 2, 4, 8])
def test_the_pool_gives_50_25_12_and_6_codes_a_second(kernel: int) -> None:
    config = SMALL.model_copy(update={"pool_kernel": kernel})
    encoder = _encoder(config)

    vectors = encoder.below(_mel(1, 5, config), torch.tensor([5]))

    assert vectors.shape == (1, 5, 16)
    assert config.samples_per_token * 50 == 16_000 * kernel


def test_the_block_causal_mask_of_six_positions_in_blocks_of_two() -> None:
    mask = block_causal_mask(6, 2)

    assert mask is not None
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]


@given(st.integers(0, 200_000), st.sampled_from([8, None, 80]))
@settings(deadline=None)
def test_pieces_give_every_code_of_a_recording_once(num_samples: int, block: int | None) -> None:
    config = SMALL.model_copy(update={"block_frames": block})

    pieces = pieces_of(num_samples, config)

    assert sum(piece.num_tokens for piece in pieces) == num_tokens(num_samples, config)
    assert [piece.start_token for piece in pieces] == list(
        np.cumsum([0, *(piece.num_tokens for piece in pieces)])[: len(pieces)]
    )
    assert all(piece.heard_tokens <= config.max_tokens for piece in pieces)
    assert all(piece.context_tokens == config.context_frames // 4 > 0 for piece in pieces[1:])


@pytest.mark.parametrize(("num_samples", "codes"), [(1, 1), (1280, 1), (1281, 2), (2560, 2)])
def test_codes_are_counted_from_samples(num_samples: int, codes: int) -> None:
    assert num_tokens(num_samples, SMALL) == codes


def test_further_pieces_hear_a_fifth_of_the_table_again() -> None:
    pieces = pieces_of(50 * 1280, SMALL)  # max_tokens is 20, a fifth of it two blocks

    assert [(one.start_token, one.num_tokens, one.context_tokens) for one in pieces] == [
        (0, 20, 0),
        (20, 16, 4),
        (36, 14, 4),
    ]


def test_last_blocks_are_padded_to_their_bucket_or_the_block() -> None:
    config = SMALL.model_copy(update={"block_frames": 40})

    assert [padded_length(tokens, config) for tokens in (1, 4, 5, 9)] == [4, 4, 8, 10]


@pytest.mark.parametrize("pool_after_layer", [0, 1, 2])
@pytest.mark.parametrize(("window", "reach"), [(12, 4), (None, None)])
def test_blocks_with_carried_state_are_the_whole_utterance_at_once(
    window: int | None, reach: int | None, pool_after_layer: int
) -> None:
    config = SMALL.model_copy(
        update={
            "window_frames": window,
            "relative_reach": reach,
            "pool_after_layer": pool_after_layer,
        }
    )
    encoder, mel = _encoder(config), _mel(2, 7, config).numpy()
    whole = encoder.below(torch.from_numpy(mel), torch.tensor([7, 7]))

    carried = CarriedEncoder(encoder)
    state, parts = carried.start(2), []
    for start, count in ((0, 2), (2, 2), (4, 2), (6, 1)):
        block = mel[:, start * 8 : (start + count) * 8]
        vectors, state = carried.step(state, block, np.array([count, count]))
        parts.append(vectors)

    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 130}, "num_heads must divide d_model = 130"),
        ({"pool_after_layer": 4}, "pool_after_layer <= quantize_after_layer"),
        ({"max_frames": 2}, "max_frames must be at least pool_kernel = 4"),
        ({"block_frames": 99}, "must divide block_frames"),
        ({"pool_kernel": 3}, "Input should be 1, 2, 4 or 8"),
    ],
)
def test_an_encoder_whose_parts_do_not_fit_is_refused(
    changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(**changes)  # type: ignore[arg-type]
