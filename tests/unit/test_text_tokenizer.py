from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.core.errors import DataError
from interloom.text.bpe import TextTokenizer

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog"] * 4
TOKENIZER = TextTokenizer.train(TEXTS, vocab_size=300)


@given(st.text())
def test_any_text_comes_back_whole(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        TextTokenizer.train(TEXTS, vocab_size=300).save(tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_batch_is_encoded_as_its_texts_alone() -> None:
    assert TOKENIZER.encode_batch(["the cat", "a dog"]) == [
        TOKENIZER.encode("the cat"),
        TOKENIZER.encode("a dog"),
    ]


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(DataError, match="is not a tokenizer"):
        TextTokenizer.load(tmp_path / "tokenizer.json")
