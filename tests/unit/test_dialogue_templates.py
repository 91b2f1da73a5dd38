import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.config.dialogue import AnswerConfig, CopyConfig, StreamTemplate
from interloom.core.errors import DataError
from interloom.dialogue.grammar import AnswerGrammar
from interloom.dialogue.template import (
    Copy,
    Exchange,
    Said,
    chat_example,
    parse_stream,
    prompt_ids,
    speech_outlasts_text,
    stream_ids,
)
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

LAYOUT = VocabularyLayout(50, 20, text_tokenizer="t", tokenizer="s")
TEMPLATE = StreamTemplate()
SMALL = StreamTemplate(text_chunk=2, speech_chunk=3)

TEXTS = st.lists(st.integers(0, 49), max_size=60).map(tuple)
CODES = st.lists(st.integers(0, 19), max_size=120).map(tuple)
SAID = st.builds(Said, TEXTS, CODES)
TEMPLATES = st.builds(
    StreamTemplate, text_chunk=st.integers(1, 15), speech_chunk=st.integers(1, 30)
)
EXCHANGES = st.builds(Exchange, SAID, SAID, is_typed=st.booleans())


def _kinds(ids: Ids) -> str:
    names = {LAYOUT.marker(marker): f"<{marker.name.lower()}>" for marker in Marker}
    return "".join(
        names.get(int(one), "t" if LAYOUT.is_text(np.array([one]))[0] else "s") for one in ids
    )


def test_text_and_speech_alternate_until_the_text_is_used_up() -> None:
    said = Said(tuple(range(5)), tuple(range(12)))

    ids = stream_ids(said, SMALL, LAYOUT)

    assert _kinds(ids) == "ttsssttssstssssss"


def test_the_chunks_of_glm_4_voice_are_the_default() -> None:
    ids = stream_ids(Said((1,) * 14, (2,) * 60), TEMPLATE, LAYOUT)

    assert _kinds(ids) == "t" * 13 + "s" * 26 + "t" + "s" * 34


@given(SAID, TEMPLATES)
def test_an_answer_is_read_back_as_it_was_built(said: Said, template: StreamTemplate) -> None:
    assert parse_stream(stream_ids(said, template, LAYOUT), LAYOUT) == said


def test_an_answer_with_a_foreign_marker_is_refused() -> None:
    ids = np.array([1, LAYOUT.marker(Marker.TTS)], np.int32)

    with pytest.raises(DataError, match="token 1 of an answer is 55, expected text, speech"):
        parse_stream(ids, LAYOUT)


def test_the_text_copy_learns_the_text_of_the_answer_alone() -> None:
    exchange = Exchange(Said((9, 9), (5,)), Said((1, 2, 3), (4,) * 5))

    example = chat_example([exchange], Copy.TEXT, SMALL, LAYOUT)

    assert _kinds(example.ids) == (
        "<user><audio_begin>s<audio_end><assistant><text_guided>ttssstss<user>"
    )
    assert "".join("^" if one else "." for one in example.is_learnt) == "......^^...^..."


def test_the_speech_copy_learns_the_speech_of_the_answer_and_its_end() -> None:
    exchange = Exchange(Said((9, 9), (5,)), Said((1, 2, 3), (4,) * 5), is_typed=True)

    example = chat_example([exchange], Copy.SPEECH, SMALL, LAYOUT)

    assert _kinds(example.ids) == "<user>tt<assistant><text_guided>ttssstss<user>"
    assert "".join("^" if one else "." for one in example.is_learnt) == ".......^^^.^^^"


def test_the_speech_only_copy_shows_no_text_of_the_answer() -> None:
    exchange = Exchange(Said((9, 9), (5,)), Said((1, 2, 3), (4,) * 2))

    example = chat_example([exchange, exchange], Copy.SPEECH_ONLY, SMALL, LAYOUT)

    one = "<user><audio_begin>s<audio_end><assistant><speech_only><audio_begin>ss<audio_end>"
    assert _kinds(example.ids) == one + one + "<user>"
    learnt = ".......^^^"
    assert "".join("^" if x else "." for x in example.is_learnt) == learnt + "^" + learnt[1:] + "^"


@given(st.lists(EXCHANGES, min_size=1, max_size=3), TEMPLATES)
def test_text_and_speech_copies_share_ids_and_learn_disjoint_parts(
    exchanges: list[Exchange], template: StreamTemplate
) -> None:
    text = chat_example(exchanges, Copy.TEXT, template, LAYOUT)
    speech = chat_example(exchanges, Copy.SPEECH, template, LAYOUT)
    both = chat_example(exchanges, Copy.BOTH, template, LAYOUT)

    assert np.array_equal(text.ids, speech.ids)
    assert np.array_equal(text.ids, both.ids)
    assert np.array_equal(text.is_learnt | speech.is_learnt, both.is_learnt)
    assert not (text.is_learnt & speech.is_learnt).any()
    assert text.is_learnt.sum() == sum(len(one.assistant.text_ids) for one in exchanges)
    num_codes = sum(len(one.assistant.codes) for one in exchanges)
    assert speech.is_learnt.sum() == num_codes + len(exchanges)  # and one end for each answer


@given(st.lists(EXCHANGES, max_size=2), SAID, SAID, st.sampled_from([Copy.TEXT, Copy.SPEECH_ONLY]))
def test_a_prompt_is_how_training_examples_begin(
    history: list[Exchange], question: Said, answer: Said, copy: Copy
) -> None:
    is_text_guided = copy is Copy.TEXT
    config = AnswerConfig(is_text_guided=is_text_guided)
    now = Exchange(question, answer, is_typed=not question.codes)

    prompt = prompt_ids(history, question, config, LAYOUT)
    example = chat_example([*history, now], copy, TEMPLATE, LAYOUT)

    assert np.array_equal(example.ids[: len(prompt)], prompt)


@given(TEXTS.filter(len), CODES.filter(len), TEMPLATES)
def test_the_grammar_lets_through_every_answer_whose_speech_outlasts_its_text(
    text: tuple[int, ...], codes: tuple[int, ...], template: StreamTemplate
) -> None:
    grammar = AnswerGrammar(LAYOUT, AnswerConfig(template=template))
    ids = np.append(stream_ids(Said(text, codes), template, LAYOUT), grammar.end_id)

    passes = all(grammar.allowed(ids[:index])[ids[index]] for index in range(len(ids)))

    assert passes == speech_outlasts_text(len(text), len(codes), template)


@given(
    st.integers(0, 2**32 - 1), TEMPLATES, st.sampled_from([Marker.TEXT_GUIDED, Marker.SPEECH_ONLY])
)
def test_whatever_the_grammar_lets_through_has_speech_and_can_be_read(
    seed: int, template: StreamTemplate, mode: Marker
) -> None:
    is_text_guided = mode is Marker.TEXT_GUIDED
    config = AnswerConfig(template=template, is_text_guided=is_text_guided)
    grammar, rng = AnswerGrammar(LAYOUT, config), np.random.default_rng(seed)
    ids = np.zeros(0, np.int32)
    while len(ids) < 150 and grammar.end_id not in ids:
        ids = np.append(ids, rng.choice(np.flatnonzero(grammar.allowed(ids)))).astype(np.int32)

    said = parse_stream(ids, LAYOUT)

    if grammar.end_id in ids:
        assert said.codes
        assert bool(said.text_ids) == is_text_guided
    if is_text_guided and grammar.end_id in ids:
        assert np.array_equal(stream_ids(said, template, LAYOUT), ids[:-1])


def test_copies_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="speech_only, transcribe, utterances must be above 0"):
        CopyConfig(text=0, speech=0, speech_only=0)
