from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.speech_tokenizer import AugmentConfig, EncoderConfig, TokenizerConfig
from interloom.core.errors import DataError
from interloom.speech_tokenizer.batches import UNKNOWN, augment, collate, passages_of
from interloom.speech_tokenizer.features import Features
from interloom.speech_tokenizer.sampling import BatchPlan, Drawn, SourcePlan

PER_TOKEN = 8
QUIET = AugmentConfig(spliced=0.0, spliced_first=0)


def _features(codes: list[int], words: int = 2, num_supervised: int = 99) -> Features:
    """Frame f of utterance n is n + f / 1000; each has ``words`` words with one label each."""
    frames = np.array(codes) * PER_TOKEN
    mel = np.concatenate([row + np.arange(count) / 1000 for row, count in enumerate(frames)])
    cuts = np.concatenate([np.linspace(0, count, words + 1).astype(np.int64) for count in frames])
    return Features(
        mel_FM=np.repeat(mel[:, None], 4, 1).astype(np.float16),
        first_frame_N=np.cumsum(frames) - frames,
        num_codes_N=np.array(codes),
        is_pseudo_N=np.arange(len(codes)) >= num_supervised,
        labels_L=np.arange(words * len(codes), dtype=np.int32),
        frames_L2=np.concatenate(
            [np.stack([edges[:-1], edges[1:]], 1) for edges in cuts.reshape(-1, words + 1)]
        ).astype(np.int32),
        first_label_N=words * np.arange(len(codes) + 1),
        cut_frame_C=cuts,
        cut_label_C=np.tile(np.arange(words + 1), len(codes)),
        first_cut_N=(words + 1) * np.arange(len(codes) + 1),
        max_frames=400,
    )


def _drawn(features: Features, *rows: int) -> Drawn:
    """A batch of some utterances."""
    return Drawn(np.array(rows), np.arange(len(features)))


def _plan(features: Features, pseudo_share: float | None, *, max_codes: int) -> SourcePlan:
    """Batches of few codes."""
    config = TokenizerConfig(
        encoder=EncoderConfig(bucket_tokens=4),
        batch_frames=PER_TOKEN * max_codes,
        pseudo_share=pseudo_share,
    )
    return SourcePlan(features, config, seed=5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_an_epoch_has_each_utterance_once(codes: list[int], epoch: int) -> None:
    plan = BatchPlan(np.array(codes), bucket=4, max_codes=80, seed=3)

    first = epoch * plan.num_batches
    rows = [row for index in range(plan.num_batches) for row in plan.rows(first + index)]

    assert sorted(rows) == list(range(len(codes)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_a_padded_batch_is_no_larger_than_asked(codes: list[int]) -> None:
    plan = BatchPlan(np.array(codes), bucket=4, max_codes=80, seed=3)

    for index in range(plan.num_batches):
        rows = plan.rows(index)
        longest = max(-(-codes[row] // 4) * 4 for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= 80


def test_epochs_differ_and_a_batch_is_a_function_of_its_index() -> None:
    codes = np.full(40, 8)
    one, other = (BatchPlan(codes, bucket=4, max_codes=80, seed=3) for _ in range(2))

    assert one.rows(5).tolist() == other.rows(5).tolist()
    assert one.rows(0).tolist() != one.rows(one.num_batches).tolist()


def test_a_batch_is_padded_with_zeros() -> None:
    features = _features([2, 1])

    batch = collate([features.whole(0), features.whole(1)], frames_per_token=PER_TOKEN)

    assert batch.mel_BFM.shape == (2, 16, 4)
    assert batch.num_codes_B.tolist() == [2, 1]
    assert batch.mel_BFM[1, 7, 0] == pytest.approx(1.007, abs=1e-3)
    assert batch.mel_BFM[1, 8:].any() is np.False_
    assert batch.labels_BL.tolist() == [[0, 1], [2, 3]]
    assert batch.label_at_BT.tolist() == [[0, 1], [3, UNKNOWN]]


def test_each_place_of_the_head_is_told_what_is_said_there() -> None:
    features = _features([2, 1])

    batch = collate([features.whole(0), features.whole(1)], frames_per_token=PER_TOKEN, places=4)

    assert batch.label_at_BT.tolist() == [[0] * 4 + [1] * 4, [2, 2, 3, 3] + [UNKNOWN] * 4]


def test_spliced_rows_are_runs_of_words_with_their_labels() -> None:
    features = _features([4, 4, 4])  # words are 16 frames long, labels 2 n and 2 n + 1
    config = AugmentConfig(spliced=1.0, spliced_words=1, spliced_frames=32)

    passages = passages_of(features, _drawn(features, 0, 1), config, seed=1, index=2)

    assert len(passages) == 2
    for passage in passages:
        assert 16 <= len(passage.mel_FM) <= 32
        assert len(passage.mel_FM) == 16 * len(passage.labels_L)
        assert passage.frames_L2[:, 0].tolist() == list(range(0, len(passage.mel_FM), 16))
        for place, label in enumerate(passage.labels_L.tolist()):
            heard = float(passage.mel_FM[16 * place, 0])
            assert heard == pytest.approx(label // 2 + 0.016 * (label % 2), abs=2e-3)


def test_the_first_batches_are_all_spliced() -> None:
    features = _features([4, 4, 4])
    drawn = _drawn(features, 0, 1)
    config = AugmentConfig(spliced=0.0, spliced_first=2, spliced_frames=16)

    lengths = [
        len(passages_of(features, drawn, config, seed=1, index=index)[0].mel_FM)
        for index in range(3)
    ]

    assert max(lengths[:2]) <= 32
    assert lengths[2] == 32
    assert len(passages_of(features, drawn, config, seed=1, index=0)) == 4


@given(st.integers(0, 500), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_passages_are_played_at_other_speeds_with_their_labels(index: int, codes: int) -> None:
    features = _features([codes, 3, 3])
    config = QUIET.model_copy(update={"sped": 1.0, "speed": 0.25})

    (one,) = passages_of(features, _drawn(features, 0), config, seed=1, index=index)
    (again,) = passages_of(features, _drawn(features, 0), config, seed=1, index=index)

    np.testing.assert_array_equal(one.mel_FM, again.mel_FM)
    frames = len(one.mel_FM)
    assert 8 * codes / 1.25 - 1 <= frames <= 8 * codes * 1.25 + 1
    assert frames <= features.max_frames
    assert one.labels_L.tolist() == [0, 1]
    assert one.frames_L2[0, 0] == 0
    assert abs(int(one.frames_L2[1, 0]) - frames / 2) <= 1
    assert abs(int(one.frames_L2[1, 1]) - frames) <= 1


def test_a_drawn_vocal_tract_moves_bins_and_leaves_the_pace() -> None:
    plain = _features([20])
    tilted = np.linspace(-1, 1, plain.mel_FM.shape[1], dtype=np.float16)
    features = replace(plain, mel_FM=plain.mel_FM + tilted)
    config = QUIET.model_copy(update={"sped": 1.0, "speed": 0.0, "tract": 0.25})

    (one,) = passages_of(features, _drawn(features, 0), config, seed=1, index=0)

    whole = features.whole(0)
    assert one.mel_FM.shape == whole.mel_FM.shape
    assert not np.array_equal(one.mel_FM, whole.mel_FM)
    np.testing.assert_array_equal(one.frames_L2, whole.frames_L2)


def test_half_of_the_passages_are_left_as_they_are_if_half_are_asked_for() -> None:
    features = _features([20])
    config = QUIET.model_copy(update={"sped": 0.5})
    drawn = _drawn(features, 0)

    kept = [
        len(passages_of(features, drawn, config, seed=3, index=index)[0].mel_FM) == 160
        for index in range(60)
    ]

    assert 20 <= sum(kept) <= 40


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.25, 0.5, 0.75, 0.9]))
@settings(deadline=None, max_examples=30)
def test_batches_of_labels_by_machine_keep_their_share(
    written: int, labelled: int, share: float
) -> None:
    features = _features([3] * (written + labelled), num_supervised=written)
    plan = _plan(features, share, max_codes=8)

    drawn = [plan.batch(index) for index in range(40)]

    is_pseudo = [bool(features.is_pseudo_N[one.rows].all()) for one in drawn]
    for one, pseudo in zip(drawn, is_pseudo, strict=True):
        assert set(features.is_pseudo_N[one.rows]) == {pseudo}
        assert (features.is_pseudo_N[one.pool_P] == pseudo).all()
    for count in range(1, 41):
        assert abs(sum(is_pseudo[:count]) - count * share) <= 0.5


def test_any_batch_can_be_asked_for_first() -> None:
    features = _features([3] * 12, num_supervised=5)
    plans = [_plan(features, 0.75, max_codes=8) for _ in range(2)]
    in_order = [plans[0].batch(index).rows.tolist() for index in range(30)]

    assert plans[1].batch(29).rows.tolist() == in_order[29]
    assert plans[1].batch(7).rows.tolist() == in_order[7]


def test_without_a_share_all_utterances_are_one_source() -> None:
    features = _features([3] * 12, num_supervised=5)

    drawn = _plan(features, None, max_codes=80).batch(0)

    assert sorted(drawn.rows) == list(range(12)) == drawn.pool_P.tolist()


@pytest.mark.parametrize("num_supervised", [0, 4])
def test_a_share_needs_both_sorts_of_labels(num_supervised: int) -> None:
    features = _features([3] * 4, num_supervised=num_supervised)

    with pytest.raises(DataError, match=r"pseudo_share is 0\.75, but [04] of 4 utterances"):
        _plan(features, 0.75, max_codes=8)


def test_augmentation_is_a_function_of_seed_and_index_and_spares_the_padding() -> None:
    features = _features([2, 4])
    passages = passages_of(features, _drawn(features, 0, 1), QUIET, seed=1, index=0)

    made = []
    for index in (7, 7, 8):
        batch = collate(passages, frames_per_token=PER_TOKEN)
        augment(batch, AugmentConfig(), seed=1, index=index, frames_per_token=PER_TOKEN)
        made.append(batch.mel_BFM)

    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert not made[0][0, 16:].any()


def test_background_noise_covers_what_is_quiet_and_spares_what_is_loud() -> None:
    features = _features([4])
    config = AugmentConfig(
        num_time_masks=0, num_bin_masks=0, noise=0, gain=0, colour=0, background=1, smoothed=0
    )
    batch = collate([features.whole(0)], frames_per_token=PER_TOKEN)
    batch.mel_BFM[0, :16] -= 2.5  # below the floor
    before = batch.mel_BFM.copy()

    augment(batch, config, seed=1, index=0, frames_per_token=PER_TOKEN)

    assert (batch.mel_BFM[0, :16] > before[0, :16] + 0.1).all()
    np.testing.assert_allclose(batch.mel_BFM[0, 16:], before[0, 16:], atol=0.1)
