import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.text.speakable import has_letter, speakable, symbol_share
from interloom.text.words import find_words, word_equivalents


def words_of(text: str) -> list[str]:
    words = find_words(text)
    data = text.encode()
    return [data[a:b].decode() for a, b in zip(words.start, words.stop, strict=True)]


def test_words_stand_between_white_space_with_their_punctuation() -> None:
    assert words_of("  The cat,\n sat. ") == ["The", "cat,", "sat."]


def test_offsets_count_bytes_not_characters() -> None:
    words = find_words("né à")

    assert words.start.tolist() == [0, 4]
    assert words.stop.tolist() == [3, 6]
    assert words.num_bytes == 6


def test_a_script_without_spaces_has_a_word_for_each_character() -> None:
    assert words_of("我爱你。ok 好") == ["我", "爱", "你。", "ok", "好"]


@given(st.text())
def test_words_are_all_that_is_not_white_space_in_order(text: str) -> None:
    words = find_words(text)

    assert "".join(words_of(text)) == "".join(text.split())
    assert (words.start[1:] >= words.stop[:-1]).all()
    assert words.num_bytes == len(text.encode())


def test_thai_and_khmer_are_cut_between_clusters() -> None:
    assert words_of("\u0e01\u0e34\u0e19\u0e40\u0e01") == ["\u0e01\u0e34", "\u0e19", "\u0e40\u0e01"]
    assert words_of("\u1781\u17d2\u1789\u17bb\u17c6") == ["\u1781\u17d2", "\u1789\u17bb\u17c6"]


def test_characters_of_spaceless_scripts_are_parts_of_words() -> None:
    assert find_words("one two").units_per_word == 1
    assert find_words("\u6211\u7231\u4f60").units_per_word == pytest.approx(1.6)
    assert find_words("\u0e01\u0e34\u0e19").units_per_word == pytest.approx(3)
    assert find_words("\u6211 caf\u00e9").units_per_word == pytest.approx(2 / (1 / 1.6 + 1))
    assert find_words(" \u200b ").units_per_word == 1
    assert find_words("").units_per_word == 1


def test_a_long_run_of_letters_takes_the_time_of_several_words() -> None:
    assert word_equivalents("cat") == 1
    assert word_equivalents("x" * 36) == 3


def test_numbers_are_spelled_out_and_spaces_made_plain() -> None:
    assert speakable("  7 cats,\n1,250 dogs ") == "seven cats, one thousand two hundred fifty dogs"
    assert speakable("1999 cats") == "one thousand nine hundred ninety nine cats"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("in 1999.", "in nineteen ninety nine."),
        ("since 1905", "since nineteen oh five"),
        ("in 2024", "in twenty twenty four"),
        ("in 2007", "in two thousand seven"),
        ("the 21st of May", "the twenty first of May"),
        ("3.14", "three point one four"),
        ("$3.50 and $1", "three dollars fifty cents and one dollar"),
        ("\u00a32 million", "two million pounds"),
        ("at 7:05, 7:30 and 12:00", "at seven oh five, seven thirty and twelve o'clock"),
        ("50% of it", "fifty percent of it"),
        ("Dr. Jones and Mrs Hill", "doctor Jones and missus Hill"),
        ("St. John lives in Main St.", "saint John lives in Main street"),
        ("cats, e.g. lions, etc.", "cats, for example lions, et cetera"),
        ("No. 5 & No. 6", "number five and number six"),
        ("no. It is", "no. It is"),
        ("x\u00b2", "xtwo"),
        ("\u0663 cats", "three cats"),
        ("1" * 40, " ".join(["one"] * 40)),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_what_is_written_short_is_said_in_full(written: str, said: str) -> None:
    assert speakable(written) == said


def test_a_number_that_begins_with_zero_is_read_digit_by_digit() -> None:
    assert speakable("007") == "zero zero seven"
    assert speakable("0") == "zero"
    assert speakable("1234567890123").startswith("one two three four five six")


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_a_spelled_number_has_no_digit_left(number: int) -> None:
    assert not any(character.isdigit() for character in speakable(str(number)))


def test_code_has_more_symbols_than_prose() -> None:
    assert symbol_share('"Well," he said - at last!') == 0
    assert symbol_share("if (a[i] += {x: $y}) <b>") > 0.2
    assert symbol_share("  ") == 1


def test_punctuation_alone_has_nothing_to_say() -> None:
    assert not has_letter("... --- !!")
    assert has_letter("é")
