"""Words and silences as patches: from the times of words to the patches of training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.core.errors import ConfigError, DataError
from interloom.language_model.patches.choosing import RowCutter
from interloom.language_model.patches.cutting import Patches, cut
from interloom.language_model.patches.model import PatchedTransformer
from interloom.mixture.alignment import (
    Begin,
    Begins,
    PieceAligner,
    WordAligner,
    begins_of,
    from_nibbles,
    to_nibbles,
)
from interloom.mixture.batches import RowBatch
from interloom.mixture.rows import load_rows
from interloom.mixture.sources import interleaved_examples, speak_examples, speech_examples
from interloom.testing.rows import LAYOUT, store_counting_rows
from interloom.testing.store import MemoryStore
from interloom_flows.recipes import load_recipe

W, S, U, N = Begin.WORD, Begin.SILENCE, Begin.UNKNOWN, Begin.NOTHING
CURRICULUM = PatchConfig(kind="curriculum", size=2, aligned_rows=20, static_from_row=60)


def words(*spans: tuple[int, int]) -> list[dict[str, int]]:
    return [{"start": start, "stop": stop} for start, stop in spans]


def lengths(
    speech: Sequence[int], begins: Sequence[int], size: int = 2, *, merges_silence: bool = False
) -> list[int]:
    """Of the patches of one row of one document."""
    is_speech = np.array([speech], np.bool_)
    held = np.array([begins], np.uint8)
    cuts = cut(
        is_speech, np.zeros((1, len(speech)), np.int32), size, held, merges_silence=merges_silence
    )
    made: list[int] = cuts.lengths_M.tolist()
    return made


def test_words_begin_where_they_start_and_silence_where_they_stop() -> None:
    # codes        0  1  2  3  4  5  6  7
    # said         .  so so .  long....  .
    begins = begins_of("u", words((1, 3), (4, 7)), 8, is_complete=True)

    assert begins.tolist() == [S, W, N, S, W, N, N, S]


def test_what_lies_between_words_that_were_not_all_found_is_unknown() -> None:
    begins = begins_of("u", words((1, 3), (3, 5)), 7, is_complete=False)

    assert begins.tolist() == [U, W, N, W, N, U, N]


def test_words_that_share_a_code_part_where_the_later_one_starts() -> None:
    begins = begins_of("u", words((0, 3), (2, 5), (2, 4)), 5, is_complete=True)

    assert begins.tolist() == [W, N, W, N, S]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 2), (3, 9)], r"utterance 'u': its words lie in codes \[0, 9\), it has 8"),
        ([(-1, 2)], r"lie in codes \[-1, 2\)"),
        ([(3, 5), (1, 2)], "utterance 'u': its words are not in order; align it again"),
    ],
)
def test_an_alignment_that_does_not_fit_is_refused(
    spans: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        begins_of("u", words(*spans), 8, is_complete=True)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.data())
def test_a_nibble_holds_what_begins(values: list[int], data: st.DataObject) -> None:
    begins = np.array(values, np.uint8)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))

    assert from_nibbles(to_nibbles(begins), start, stop).tolist() == values[start:stop]


def test_words_and_silences_are_patches_of_any_length() -> None:
    speech, begins = [0, 1, 1, 1, 1, 1, 1, 0], [N, S, W, N, N, S, N, N]

    assert lengths(speech, begins) == [1, 1, 3, 2, 1]
    assert lengths(speech, begins, merges_silence=True) == [1, 6, 1]


def test_a_silence_belongs_to_the_word_before_it() -> None:
    assert lengths([1] * 7, [W, N, S, N, W, S, W], merges_silence=True) == [4, 2, 1]


def test_speech_without_alignment_and_unknown_speech_are_cut_statically() -> None:
    assert lengths([1, 1, 1, 1, 1, 0, 1, 1, 1], [N] * 5 + [N, W, N, N]) == [2, 2, 1, 1, 3]
    assert lengths([1] * 8, [U, N, N, W, N, N, U, N]) == [2, 1, 3, 2]


RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=8)


@settings(deadline=None)
@given(RUNS, st.integers(1, 4), st.sampled_from(["separate", "merged"]), st.integers(0, 2**32))
def test_aligned_patches_cover_the_tokens_and_cross_nothing(
    runs: list[tuple[bool, int]], size: int, silence: str, seed: int
) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    is_speech = np.concatenate([[speech] * count for speech, count in runs]).astype(bool)[None]
    segments = np.sort(rng.integers(0, 3, is_speech.shape))
    begins = random_begins(is_speech, segments, rng)

    cuts = cut(is_speech, segments, size, begins, merges_silence=silence == "merged")

    patches = np.repeat(np.arange(len(cuts.lengths_M)), cuts.lengths_M)
    assert len(patches) == is_speech.size
    same = np.diff(patches) == 0
    assert not (same & (np.diff(segments[0]) != 0)).any()
    assert not (same & (is_speech[0, 1:] != is_speech[0, :-1])).any()
    assert not (same & ~is_speech[0, 1:]).any()


def random_begins(
    is_speech: NDArray[np.bool_], segments: NDArray[np.int64], rng: np.random.Generator
) -> Begins:
    """A random alignment of each run of speech; of some, none."""
    starts = is_speech.copy()
    same = segments[:, 1:] == segments[:, :-1]
    starts[:, 1:] &= ~(is_speech[:, :-1] & same)
    number = np.cumsum(starts, axis=1)
    known = rng.random(number.max() + 1) < 0.7
    begins = np.where(is_speech & (rng.random(is_speech.shape) < 0.4), W, N)
    begins = np.where(starts, W, begins)
    return np.where(known[number], begins, N).astype(np.uint8)


@pytest.mark.parametrize("seed", range(2))
def test_no_logit_of_aligned_patches_changes_with_a_later_token_or_another_document(
    seed: int,
) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    shape = LanguageModelConfig(
        hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=24, init_std=0.3
    )
    config = PatchConfig(kind="aligned", local_size=8, local_heads=2, local_ffn_size=16)
    model = PatchedTransformer(shape, config, 32, speech_offset=20).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    is_speech = rng.random((1, 24)) < 0.8
    segments = np.sort(rng.integers(0, 3, (1, 24)))
    begins = random_begins(is_speech, segments, rng)
    patches = Patches.of(cut(is_speech, segments, 2, begins), segments)
    tokens = torch.from_numpy(np.where(is_speech, 20 + rng.integers(0, 12, (1, 24)), 3))
    positions, documents = torch.arange(24)[None], torch.from_numpy(segments)

    with torch.inference_mode():
        before = model.hidden(tokens, positions, documents, patches)
        for place in range(1, 24):
            changed = tokens.clone()
            changed[0, place] = (changed[0, place] + 5) % 32
            after = model.hidden(changed, positions, documents, patches)
            others = documents[0] != documents[0, place]
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-5)
            torch.testing.assert_close(after[:, others], before[:, others], rtol=0, atol=1e-5)
            assert not torch.equal(after[:, place], before[:, place])


def batch_of(num_rows: int, *, is_known: bool = True) -> RowBatch:
    """Rows of four documents of five codes each, a word in every three."""
    shape = (num_rows, 20)
    segments = np.broadcast_to(np.repeat(np.arange(4), 5), shape).astype(np.int32)
    zeros = np.zeros(shape, np.int32)
    begins = np.broadcast_to(np.tile([W, N, N, W, N], 4), shape).astype(np.uint8)
    return RowBatch(
        np.full(shape, 30, np.int32),
        segments,
        zeros,
        zeros > 0,
        zeros,
        begins if is_known else None,
    )


def test_a_curriculum_goes_from_words_to_static_cuts_by_the_row_alone() -> None:
    cutter = RowCutter(CURRICULUM, 20, seed=3)

    cuts = [cutter.cut(batch_of(20), first) for first in (0, 20, 40, 60)]

    aligned = [made.counts["patches/aligned"] / 400 for made in cuts]
    assert aligned[0] == 1.0
    assert 0.6 < aligned[1] < 0.95
    assert 0.05 < aligned[2] < 0.4
    assert aligned[3] == 0.0
    alone = [cutter.cut(batch_of(1), row).patches.number_BT[0] for row in range(20, 40)]
    assert torch.equal(torch.stack(alone), cuts[1].patches.number_BT)


def test_thirds_are_counted_out_over_the_rows_of_a_training() -> None:
    laid = PatchConfig(kind="curriculum").over(90)

    assert (laid.aligned_rows, laid.static_from_row) == (30, 60)
    assert [laid.share_aligned(row) for row in (0, 30, 45, 60, 89)] == [1, 1, 0.5, 0, 0]
    assert PatchConfig(kind="mixed", aligned_share=0.3).over(9).share_aligned(5) == 0.3


def test_documents_are_mixed_by_seed() -> None:
    mixed = PatchConfig(kind="mixed")
    one, same, other = (
        RowCutter(mixed, 20, seed=seed).cut(batch_of(30), 0).patches.number_BT for seed in (1, 1, 2)
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_speech_without_alignment_is_static_and_counted() -> None:
    aligned = RowCutter(PatchConfig(kind="aligned"), 20, seed=0)
    static = RowCutter(PatchConfig(kind="static"), 20, seed=0)

    made, plain = aligned.cut(batch_of(2, is_known=False), 0), static.cut(batch_of(2), 0)

    assert torch.equal(made.patches.number_BT, plain.patches.number_BT)
    assert made.counts["patches/unaligned"] == made.counts["patches/unaligned/weight"] == 8
    assert plain.counts["patches/unaligned/weight"] == 0
    assert plain.counts["patches/partial"] / plain.counts["patches/partial/weight"] == 1 / 3


def test_times_of_words_reach_the_tokens_of_an_example() -> None:
    row = {"id": "u", "licence": "CC0-1.0", "text": "so long", "codes": [1, 2, 3, 4]}
    timed = row | {"words": words((0, 1), (2, 4))}

    (speech,), (spoken,) = (
        list(speech_examples([timed], LAYOUT, KNOWN)),
        list(speak_examples([timed], LAYOUT, _Letters(), KNOWN)),  # type: ignore[arg-type]
    )

    assert speech.begins_T is not None
    assert speech.begins_T.tolist() == [N, W, S, W, N, N]
    assert spoken.begins_T is not None
    assert spoken.begins_T[-6:].tolist() == speech.begins_T.tolist()
    assert not spoken.begins_T[:-6].any()
    assert next(speech_examples([row], LAYOUT)).begins_T is None
    (bare,) = speech_examples([row | {"words": []}], LAYOUT, KNOWN)
    assert bare.begins_T is not None
    assert not bare.begins_T.any()


KNOWN = WordAligner(lambda _codes, _words: pytest.fail("the times are known"))


class _Letters:
    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) % 20 for letter in text] for text in texts]


def test_the_words_of_a_spoken_span_are_found_in_its_codes() -> None:
    ids = np.concatenate([[1, 2], LAYOUT.wrap_audio(np.arange(5)), [3]])
    span = {
        "span_id": "d/1-3",
        "byte_start": 2,
        "byte_stop": 8,
        "id_start": 2,
        "id_stop": 9,
        "num_codes": 5,
    }
    row = {"id": "d", "ids": ids, "text": "It is so long.", "spans": [span], "licence": "CC0-1.0"}
    asked = []

    def find(codes: NDArray[np.int32], said: Sequence[str]) -> list[dict[str, int]]:
        asked.append((codes.tolist(), said))
        return words((0, 2), (2, 4))

    (example,) = interleaved_examples([row], LAYOUT, WordAligner(find))

    assert asked == [([0, 1, 2, 3, 4], ["is", "so"])]
    assert example.begins_T is not None
    assert example.begins_T.tolist() == [N, N, N, W, N, W, N, S, N, N, N]


def test_the_text_tokens_of_words_are_patches_and_what_lies_between_is_silence() -> None:
    # codes        0  1  2  3  4  5  6
    # said         .  fox....  s lee p  .
    said = [words((1, 3)), words((3, 4), (4, 5), (4, 6))]
    aligner = PieceAligner(lambda _codes, _words: said)

    begins = aligner.begins("u", np.arange(7, dtype=np.int32), "fox sleep", words((0, 7)))

    assert begins.tolist() == [S, W, N, W, W, N, S]


def test_beside_a_word_that_was_not_found_nothing_is_silence() -> None:
    aligner = PieceAligner(lambda _codes, _words: [words((0, 1), (1, 2)), []])

    assert aligner.begins("u", np.arange(4, dtype=np.int32), "so long").tolist() == [W, W, U, N]


def test_rows_carry_what_begins_only_if_somebody_asked(tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    aligned = store_counting_rows(store, tmp_path / "a", is_aligned=True)
    plain = store_counting_rows(store, tmp_path / "b")

    rows = load_rows(store, aligned)
    batch, bare = rows.batch(range(rows.num_rows)), load_rows(store, plain).batch([0])

    assert bare.begins_BL is None
    assert {shard.path for shard in store.manifest(aligned).shards} - {
        shard.path for shard in store.manifest(plain).shards
    } == {"rows-00000/begins.bin", "heldout/rows-00000/begins.bin"}
    assert batch.begins_BL is not None
    is_speech = batch.tokens_BL >= LAYOUT.speech_offset
    before = np.roll(is_speech, 1, axis=1)
    assert (batch.begins_BL[is_speech & ~before] == W).all()
    assert not batch.begins_BL[~is_speech].any()


def test_patches_at_words_need_rows_that_know_them() -> None:
    with pytest.raises(ConfigError, match=r"cuts at words; set mixture\.alignment = 'words'"):
        load_recipe("starter", ["pretrain.patches.kind=aligned"])

    both = ["pretrain.patches.kind=mixed", "mixture.alignment=words"]
    assert load_recipe("starter", both).pretrain.patches.uses_alignment


def test_a_curriculum_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="static_from_row must be at least aligned_rows = 9"):
        PatchConfig(kind="curriculum", aligned_rows=9, static_from_row=8)
