import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from interloom.core.errors import DataError
from interloom.text import memo
from interloom.text.bpe import TextTokenizer
from interloom.text.memo import WordMemo, can_be_cut

TEXTS = ["the cat sat on the mat, and the dog's hat.\n\nIt rained  a lot\tthen"] * 4
TOKENIZER = TextTokenizer.train(TEXTS, vocab_size=320)
SPACES = st.sampled_from([" ", "  ", "\n", "\n ", " \n", "\t", "\x1c", "\x85", "\xa0", "\u2003"])
WORDS = st.sampled_from(
    ["the", "cat", "'s", "12", "!?", "\u4f60", "\u0e01\u0e34", "\u200b", "e\u0301"]
)
TANGLED = st.lists(st.one_of(SPACES, WORDS)).map("".join)


@given(st.lists(st.one_of(st.text(), TANGLED), max_size=4))
@example(["a   b", "\n  b", "a \x1c b", "!\x1c!", " ", "", "a\n"])
def test_the_ids_are_those_of_the_tokenizer(texts: list[str]) -> None:
    ids, counts = TOKENIZER.encode_flat(texts)

    assert [
        ids[stop - n : stop].tolist() for n, stop in zip(counts, counts.cumsum(), strict=True)
    ] == (TOKENIZER.encode_batch(texts))


@given(st.text())
def test_bytes_come_back_exactly(text: str) -> None:
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(text)) == text.encode()


def test_an_id_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="5000 is no id of the text tokenizer"):
        TOKENIZER.decode_bytes([1, 5000])


def test_what_is_forgotten_is_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_MAX_PIECES", 3)
    small = WordMemo(TOKENIZER._tokenizer)

    for text in ("the cat sat", "on the mat", "the cat sat on the mat and a dog"):
        ids, _ = small.encode([text])
        assert ids.tolist() == TOKENIZER.encode(text)
        assert len(small._ids) <= 3


def test_a_tokenizer_of_another_make_is_not_cut() -> None:
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert can_be_cut(plain)

    folding = Tokenizer(models.BPE())
    folding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folding.normalizer = normalizers.Lowercase()
    assert not can_be_cut(folding)


def test_a_tokenizer_of_another_make_encodes_and_decodes_all_the_same() -> None:
    words = Tokenizer(models.WordLevel({"the": 0, "cat": 1}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece()
    other = TextTokenizer(words)

    ids, counts = other.encode_flat(["the cat", "cat"])

    assert (ids.tolist(), counts.tolist()) == ([0, 1, 1], [2, 1])
    assert other.decode_bytes([0, 1]) == b"the cat"
