import numpy as np
import pytest

from interloom.core.errors import DataError
from interloom.vocabulary.layout import Marker, VocabularyLayout

LAYOUT = VocabularyLayout(
    text_vocab_size=500, codebook_size=64, text_tokenizer="t" * 64, tokenizer="s" * 64
)


def test_text_comes_first_then_markers_then_speech() -> None:
    assert LAYOUT.marker(Marker.PAD) == 500
    assert LAYOUT.speech_offset == 500 + len(Marker)
    assert LAYOUT.size == LAYOUT.speech_offset + 64


def test_audio_is_wrapped_in_its_markers() -> None:
    ids = LAYOUT.wrap_audio(np.array([0, 63]))

    assert ids.tolist() == [
        LAYOUT.marker(Marker.AUDIO_BEGIN),
        LAYOUT.speech_offset,
        LAYOUT.size - 1,
        LAYOUT.marker(Marker.AUDIO_END),
    ]
    assert LAYOUT.codes(ids[1:-1]).tolist() == [0, 63]


def test_each_id_has_one_kind() -> None:
    ids = np.arange(LAYOUT.size)

    assert int(LAYOUT.is_text(ids).sum()) == 500
    assert int(LAYOUT.is_speech(ids).sum()) == 64
    assert not bool((LAYOUT.is_text(ids) & LAYOUT.is_speech(ids)).any())


@pytest.mark.parametrize("code", [-1, 64])
def test_a_code_outside_the_codebook_is_refused(code: int) -> None:
    with pytest.raises(DataError, match=r"must lie in \[0, 64\)"):
        LAYOUT.speech_ids(np.array([code]))


def test_a_layout_survives_a_dictionary() -> None:
    again = VocabularyLayout.from_dict(LAYOUT.to_dict())

    assert again == LAYOUT
    assert again.digest == LAYOUT.digest


def test_another_codebook_is_another_vocabulary() -> None:
    other = VocabularyLayout(500, 128, "t" * 64, "s" * 64)

    with pytest.raises(DataError, match="corpus x was made with vocabulary"):
        LAYOUT.require(other.digest, holder="corpus x")


def test_unknown_markers_are_refused() -> None:
    body = LAYOUT.to_dict() | {"markers": ["<|pad|>"]}

    with pytest.raises(DataError, match="the layout has markers"):
        VocabularyLayout.from_dict(body)
