from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.text_to_token import SIZES, SynthesisConfig, TextToTokenConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.workspace import Workspace
from interloom.testing import toy_speech
from interloom.testing.engine import PlainEngine
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.fitting import make_model, make_prompter
from interloom.text_to_token.guards import (
    has_loop,
    longest,
    refuse_codes,
    refuse_text,
    word_error_rates,
)
from interloom.text_to_token.jobs import Job, Sampling
from interloom.text_to_token.ledger import Ledger
from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.pages import PAGE
from interloom.text_to_token.pieces import Pieces, read_spoken
from interloom.text_to_token.prompt import Prompter
from interloom.text_to_token.runtime import TextToToken, need_tokenizer
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.text_to_token.stepping import PREFILL_ROWS, Stepper
from interloom.text_to_token.task import TextToTokenTask, collate
from interloom.training.loop import train
from interloom.vocabulary.layout import Marker, VocabularyLayout

ROWS = [toy_speech.token_row(index, num_words=2 + index % 7) for index in range(200)]
SPOKEN = read_spoken(ROWS)
TOKENIZER = TextTokenizer.train([row["text"] for row in ROWS], vocab_size=280)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, "a" * 64, "b" * 64)
PROMPTER = make_prompter(SPOKEN, LAYOUT, TOKENIZER)
CONFIG = TextToTokenConfig(
    width=64,
    num_layers=2,
    num_heads=2,
    dropout=0.0,
    train=TrainConfig(num_steps=100, learning_rate=5e-3, warmup_steps=20, weight_decay=0.01),
)
SYNTHESIS = SynthesisConfig(num_slots=8, max_tokens_per_word=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def trained() -> TextToTokenModel:
    import tempfile

    model = make_model(PROMPTER, CONFIG, seed=0)
    task = TextToTokenTask(model, Pieces(SPOKEN, PROMPTER, CONFIG, seed=0), PROMPTER)
    with tempfile.TemporaryDirectory() as folder:
        train(task, CONFIG.train, engine=PlainEngine, work=Workspace(Path(folder)), seed=0)
    return model


def requests(count: int) -> list[SpanRequest]:
    return [
        SpanRequest(f"span-{at}", toy_speech.sentence(5000 + at, num_words=1 + at % 7))
        for at in range(count)
    ]


def synthesise(spans: list[SpanRequest], config: SynthesisConfig = SYNTHESIS) -> list[SpanResult]:
    return TextToToken.of(trained(), PROMPTER, config=config).synthesise(spans)


def test_unseen_spans_of_any_length_are_spoken_right() -> None:
    spans = requests(40)

    said = [toy_speech.read(result.codes.tolist()) for result in synthesise(spans)]

    right = sum(one == span.text for one, span in zip(said, spans, strict=True))
    assert right >= 36


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_span_is_spoken_alike_alone_and_in_a_crowd(temperature: float) -> None:
    config = SYNTHESIS.model_copy(update={"temperature": temperature})
    crowd = synthesise(requests(30), config)

    alone = [synthesise([span], config)[0] for span in requests(30)[::3]]

    for one, other in zip(alone, crowd[::3], strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)


def test_the_order_of_the_requests_changes_nothing() -> None:
    spans = requests(20)
    forward = {result.span_id: result.codes.tolist() for result in synthesise(spans)}

    backward = {result.span_id: result.codes.tolist() for result in synthesise(spans[::-1])}

    assert forward == backward


def engine(model: TextToTokenModel, num_slots: int = 4) -> TorchEngine:
    return TorchEngine(model, num_slots=num_slots, speech_offset=LAYOUT.speech_offset)


def test_refilled_slots_give_what_plain_greedy_decoding_gives() -> None:
    model = trained()
    prompts = [PROMPTER.prompt(PROMPTER.text_ids(s.text), "speaker-0") for s in requests(12)]
    jobs = [Job(prompt, 60, np.zeros(61)) for prompt in prompts]

    decoded = engine(model).decode(jobs)

    for job, one in zip(jobs, decoded, strict=True):
        assert one.codes.tolist() == plain_greedy(model, job)


@cache
def untrained() -> TextToTokenModel:
    """It seldom ends, so that spans take several chunks."""
    model = make_model(PROMPTER, CONFIG.model_copy(update={"num_layers": 1}), seed=2)
    with torch.no_grad():
        model.head.weight[-1] *= 0.5
    return model.eval()


def mixed_job(index: int) -> Job:
    """Short and long, greedy and drawn."""
    rng = np.random.Generator(np.random.Philox(key=index))
    ids = rng.integers(TOKENIZER.vocab_size, size=1 + index * 7 % 23).tolist()
    limit = 1 + index * 37 % (4 * PAGE)
    sampling = Sampling(temperature=[0.0, 1.0, 0.7][index % 3], top_p=[0.9, 1.0][index % 2])
    prompt = PROMPTER.prompt(ids, f"speaker-{index % 2}")
    return Job(prompt, limit, rng.random(limit + 1), sampling)


@cache
def alone(index: int) -> tuple[list[int], bool]:
    [one] = engine(untrained()).decode([mixed_job(index)])
    return one.codes.tolist(), one.ended


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=9, unique=True))
def test_codes_depend_on_no_neighbour_no_order_and_no_slot(indices: list[int]) -> None:
    shared = engine(untrained())
    shared.decode([mixed_job(19), mixed_job(3)])  # what the cache held before does not matter

    crowd = shared.decode([mixed_job(index) for index in indices])

    assert [(one.codes.tolist(), one.ended) for one in crowd] == [alone(at) for at in indices]


def plain_greedy(model: TextToTokenModel, job: Job) -> list[int]:
    """The whole sequence is computed anew for each code."""
    ids, places = job.prompt.ids.tolist(), job.prompt.places.tolist()
    codes: list[int] = []
    while len(codes) < job.limit:
        wanted = torch.zeros(1, len(ids), dtype=torch.bool)
        wanted[0, -1] = True
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.tensor([places]), wanted)
        best = int(logits.argmax())
        if best == LAYOUT.codebook_size:
            break
        places.append(float(len(codes)))
        codes.append(best)
        ids.append(best + LAYOUT.speech_offset)
    return codes


def test_prefill_and_steps_give_the_logits_of_the_whole() -> None:
    model = make_model(PROMPTER, CONFIG, seed=3).eval()
    batch = collate([Pieces(SPOKEN, PROMPTER, CONFIG, seed=0).batch(0)[0]], PROMPTER)
    length, start = batch.ids.shape[1], 4
    whole = model(batch.ids, batch.places, torch.ones(1, length, dtype=torch.bool))
    stepper = Stepper(model, num_slots=2, num_positions=length)
    ids, places = batch.ids.numpy(), batch.places.numpy()
    rows = PREFILL_ROWS

    read = stepper.prefill(
        ids[:, :start].repeat(rows, 0), places[:, :start].repeat(rows, 0), np.full(rows, start - 1)
    )

    torch.testing.assert_close(read.logits[3], whole[start - 1], rtol=1e-4, atol=1e-4)
    stepper.place(read, 5, slot=1, length=start)
    for at in range(start, length):
        step = stepper.step(ids[0, [at, at]], places[0, [at, at]], np.array([0, at]))
        torch.testing.assert_close(step[1], whole[at], rtol=1e-4, atol=1e-4)


def test_only_codes_and_the_end_are_targets() -> None:
    example = Pieces(SPOKEN, PROMPTER, CONFIG, seed=0).batch(0)[0]

    batch = collate([example], PROMPTER)

    assert batch.targets.tolist() == [*example.codes.tolist(), LAYOUT.codebook_size]
    first = int(batch.wanted[0].nonzero()[0])
    assert batch.ids[0, first] == LAYOUT.marker(Marker.AUDIO_BEGIN)
    assert batch.wanted.sum() == len(example.codes) + 1


def test_padding_does_not_change_the_loss_of_a_row() -> None:
    model = make_model(PROMPTER, CONFIG, seed=1).eval()
    batch = sorted(Pieces(SPOKEN, PROMPTER, CONFIG, seed=0).batch(3), key=len)
    short, long = batch[0], batch[-1]

    alone = collate([short], PROMPTER)
    beside = collate([long, short], PROMPTER)

    torch.testing.assert_close(
        model(alone.ids, alone.places, alone.wanted),
        model(beside.ids, beside.places, beside.wanted)[len(long.codes) + 1 :],
    )


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    one, other = (Pieces(SPOKEN, PROMPTER, CONFIG, seed=4) for _ in range(2))
    one.batch(40)  # what was asked before does not matter

    for index in (0, 17, 40):
        for a, b in zip(one.batch(index), other.batch(index), strict=True):
            np.testing.assert_array_equal(a.prompt.ids, b.prompt.ids)
            np.testing.assert_array_equal(a.codes, b.codes)


def test_an_epoch_holds_every_utterance_once_when_none_is_cut() -> None:
    config = CONFIG.model_copy(
        update={"piece_share": 0.0, "spliced_share": 0.0, "rows_per_batch": 7}
    )
    pieces = Pieces(SPOKEN, PROMPTER, config, seed=0)

    drawn = [e.codes.tolist() for at in range(pieces.batches_per_epoch) for e in pieces.batch(at)]

    assert sorted(drawn) == sorted(row["codes"] for row in ROWS)


@pytest.mark.parametrize("kind", ["piece_share", "spliced_share"])
def test_pieces_hold_the_codes_of_their_words(kind: str) -> None:
    shares = {"piece_share": 0.0, "spliced_share": 0.0} | {kind: 1.0}
    config = CONFIG.model_copy(update=shares | {"mean_piece_words": 4.0})
    pieces = Pieces(SPOKEN, PROMPTER, config, seed=0)

    for example in pieces.batch(0) + pieces.batch(1):
        text = TOKENIZER.decode(example.prompt.ids[1:-1].tolist())
        assert example.codes.tolist() == toy_speech.speak(text)


def test_a_spliced_passage_is_of_one_speaker_and_as_long_as_asked() -> None:
    shares = {"piece_share": 0.0, "spliced_share": 1.0, "mean_piece_words": 1.0}
    pieces = Pieces(SPOKEN, PROMPTER, CONFIG.model_copy(update=shares), seed=0)

    for example in pieces.batch(0):
        assert len(TOKENIZER.decode(example.prompt.ids[1:-1].tolist()).split()) == 1


def test_rests_around_an_utterance_are_in_no_piece() -> None:
    rest = [9] * 4
    row = toy_speech.token_row(5, num_words=3)
    words = [word | {"start": word["start"] + 4, "stop": word["stop"] + 4} for word in row["words"]]
    rested = row | {"codes": [*rest, *row["codes"], *rest], "words": words}
    shares = {"piece_share": 0.0, "spliced_share": 1.0}

    pieces = Pieces(read_spoken([rested]), PROMPTER, CONFIG.model_copy(update=shares), seed=0)

    for at in range(8):
        [example] = pieces.batch(at)
        text = TOKENIZER.decode(example.prompt.ids[1:-1].tolist())
        assert example.codes.tolist() == toy_speech.speak(text)


def test_words_that_do_not_match_the_text_leave_only_the_whole() -> None:
    row = ROWS[3] | {"words": ROWS[3]["words"][:-1]}

    [spoken] = read_spoken([row])

    assert len(spoken.word_bytes) == 0


def test_text_stands_where_it_is_expected_to_be_said() -> None:
    prompter = replace(PROMPTER, frames_per_byte=2.0)

    prompt = prompter.prompt(prompter.text_ids("ab bad"), "speaker-1")

    assert TOKENIZER.decode(prompt.ids[1:-1].tolist()) == " ab bad"
    assert prompt.ids[0] == LAYOUT.size + 1
    assert prompt.places[0] == prompt.places[-1] == -1
    assert prompt.places[1] == 0
    assert 2.0 * len(" ab") in prompt.places


def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(ConfigError, match="no voice 'bob'; this model speaks as speaker-0"):
        PROMPTER.voice_id("bob")


def test_codes_of_another_codebook_are_refused() -> None:
    small = replace(LAYOUT, codebook_size=4)

    with pytest.raises(DataError, match=r"speech codes must lie in \[0, 4\)"):
        make_prompter(SPOKEN, small, TOKENIZER)


def test_a_span_is_spoken_by_the_voice_that_it_names() -> None:
    speaker = TextToToken.of(make_model(PROMPTER, CONFIG, seed=0), PROMPTER, config=SYNTHESIS)
    named = [SpanRequest("a", "bad cab", voice=voice) for voice in PROMPTER.voices]

    read = [speaker._job(first_try(one)).prompt.ids[0] for one in named]

    assert len(named) > 1
    assert read == [PROMPTER.voice_id(voice) for voice in PROMPTER.voices]
    with pytest.raises(ConfigError, match="no voice 'nobody'; this model speaks as"):
        speaker.synthesise([SpanRequest("a", "bad cab", voice="nobody")])


def test_a_text_that_cannot_be_said_is_refused_at_once() -> None:
    results = synthesise([SpanRequest("a", "!!!"), SpanRequest("b", "zebra"), requests(1)[0]])

    assert [result.reason for result in results] == ["unpronounceable", "unpronounceable", ""]
    assert [result.attempts for result in results] == [0, 0, 1]
    assert len(results[0].codes) == 0


def test_a_refused_span_is_tried_again_and_then_stays_text() -> None:
    config = SYNTHESIS.model_copy(update={"max_tokens": 2, "max_attempts": 3})

    [result] = synthesise([SpanRequest("a", "decade face")], config)

    assert (result.accepted, result.reason, result.attempts) == (False, "no end", 3)
    assert result.refusals == ("no end", "no end", "no end")


def test_another_attempt_draws_other_numbers() -> None:
    spans = [SpanRequest(f"{at}", "bad cab fade", attempt=at % 2) for at in range(2)]
    model = make_model(PROMPTER, CONFIG, seed=0)
    config = SYNTHESIS.model_copy(update={"max_attempts": 1, "min_tokens_per_word": 0.0})
    speaker = TextToToken.of(model, PROMPTER, config=config)

    jobs = [speaker._job(one) for one in map(first_try, spans)]

    assert not np.array_equal(jobs[0].draws, jobs[1].draws)


def first_try(span: SpanRequest):  # type: ignore[no-untyped-def]
    from interloom.text_to_token.runtime import _Try

    return _Try(0, span, tuple(PROMPTER.text_ids(span.text)), span.attempt)


def test_a_span_that_is_misread_is_refused() -> None:
    config = SYNTHESIS.model_copy(update={"judged_share": 1.0, "max_attempts": 2})
    deaf = TextToToken.of(
        trained(), PROMPTER, config=config, judge=lambda codes: ["something else"] * len(codes)
    )
    hears = TextToToken.of(
        trained(),
        PROMPTER,
        config=config,
        judge=lambda codes: [toy_speech.read(one.tolist()) for one in codes],
    )

    refused = deaf.synthesise(requests(3))
    spoken = hears.synthesise(requests(3))

    assert [result.reason for result in refused] == ["misread"] * 3
    assert [result.refusals for result in refused] == [("misread", "misread")] * 3
    assert all((result.error_rate or 0.0) >= 1.0 for result in refused)
    assert all(result.accepted and result.error_rate == 0.0 for result in spoken)
    assert deaf.ledger.refusals == {"misread": 6}
    assert (deaf.ledger.read_back, deaf.ledger.retries) == (6, 3)


@pytest.mark.parametrize(
    ("codes", "is_loop"),
    [
        ([1] * 16, True),
        ([1, 2, 3] * 6, True),
        ([1] * 15, False),
        (list(range(40)), False),
        ([9, *([4, 5] * 8)], True),
        ([], False),
        ([1, 2, 3, 4, 5] * 8, False),
    ],
)
def test_a_repeated_cycle_is_a_loop(codes: list[int], is_loop: bool) -> None:  # noqa: FBT001
    assert has_loop(np.array(codes, np.int32), run=16, period=4) == is_loop


@pytest.mark.parametrize(
    ("num_codes", "ended", "reason"),
    [
        (20, True, None),
        (20, False, "no end"),
        (1, True, "too short"),
        (0, True, "too short"),
        (38, True, None),
        (39, True, "too long"),
    ],
)
def test_each_guard_has_its_reason(
    num_codes: int,
    ended: bool,  # noqa: FBT001
    reason: str | None,
) -> None:
    config = SynthesisConfig(slack_tokens=2)
    codes = np.arange(num_codes, dtype=np.int32)

    assert refuse_codes("four words are here", codes, ended=ended, config=config) == reason


def test_the_limit_grows_with_the_words_up_to_thirty_seconds() -> None:
    assert longest("one two", SynthesisConfig()) == 2 * 9 + 6
    assert longest("word " * 100, SynthesisConfig()) == 375


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{x: [1, 2]} += <b>;", "unpronounceable"),
        ("...", "unpronounceable"),
        ("", "unpronounceable"),
        ("\U0001f600 \U0001f44d\U0001f3fd", "unpronounceable"),
        ("\u200b\u200f\u2066", "unpronounceable"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "unpronounceable"),
        ("word " * 300, "text too long"),
        ("x" * 10_000_000, "text too long"),
        ("7" * 400, "text too long"),
        ("1234567890" * 4, None),
        ("It's 12 o'clock!", None),
        ("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", None),
    ],
)
def test_a_text_that_no_voice_can_say_is_not_tried(text: str, reason: str | None) -> None:
    assert refuse_text(text, SynthesisConfig()) == reason


def test_a_text_without_end_is_not_tried_whatever_the_pace() -> None:
    config = SynthesisConfig(min_tokens_per_word=0)

    assert refuse_text("word " * 2_000_000, config) == "text too long"


def test_a_number_of_forty_digits_may_take_the_time_of_forty_words() -> None:
    assert longest("9" * 40, SynthesisConfig()) == 40 * 9 + 6


def test_word_error_rates_are_of_normal_forms() -> None:
    assert word_error_rates(["The cat, sat.", "a b"], ["the cat sat", "a c"]) == [0.0, 0.5]


def test_no_request_gives_no_result() -> None:
    assert synthesise([]) == []


def test_configuration_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="width must be a multiple of 2"):
        TextToTokenConfig(width=100, num_heads=3)
    with pytest.raises(ValueError, match="piece_share and spliced_share must sum to at most 1"):
        TextToTokenConfig(piece_share=0.6, spliced_share=0.6)
    with pytest.raises(ValueError, match="min_tokens_per_word must be under"):
        SynthesisConfig(min_tokens_per_word=9, max_tokens_per_word=9)


def test_a_prompter_knows_which_texts_it_can_say() -> None:
    assert isinstance(PROMPTER, Prompter)
    assert PROMPTER.can_say(PROMPTER.text_ids("bad cab"))
    assert not PROMPTER.can_say(PROMPTER.text_ids("zzz"))
    assert (PROMPTER.unsaid("bad zzz cab"), PROMPTER.unsaid("bad cab")) == ("zzz", "")


def test_a_word_that_was_never_spoken_is_named() -> None:
    [refused] = synthesise([SpanRequest("a", "bad zzz cab")])

    assert (refused.reason, refused.explanation) == ("unpronounceable", "unpronounceable ('zzz')")


def test_the_ledger_adds_up_what_was_tried_and_what_was_kept() -> None:
    speaker = TextToToken.of(trained(), PROMPTER, config=SYNTHESIS)

    results = speaker.synthesise([*requests(3), SpanRequest("no", "!!!")])
    speaker.synthesise(requests(1))

    ledger = speaker.ledger
    codes = sum(len(result.codes) for result in results) + len(results[0].codes)
    assert (ledger.spans, ledger.accepted, ledger.attempts) == (5, 4, 4)
    assert (ledger.accepted_tokens, ledger.drawn_tokens) == (codes, codes)
    assert ledger.refusals == {"unpronounceable": 1}
    named = {metric.name: metric.value for metric in ledger.metrics("synthesis")}
    assert named["synthesis/drawn_per_accepted_token"] == 1
    assert named["synthesis/refused/unpronounceable"] == 1
    assert named["telemetry/synthesis/cpu_ms_per_accepted_token"] > 0


def test_a_model_of_another_speech_tokenizer_is_refused() -> None:
    speaker = TextToToken.of(trained(), PROMPTER, config=SYNTHESIS)
    model = ArtifactRef(ArtifactKind.TEXT_TO_TOKEN_MODEL, "d" * 64)

    need_tokenizer(speaker, model, ArtifactRef(ArtifactKind.TOKENIZER_MODEL, LAYOUT.tokenizer))
    with pytest.raises(DataError, match="was trained with speech tokenizer bbbbbbbbbbbb, but"):
        need_tokenizer(speaker, model, ArtifactRef(ArtifactKind.TOKENIZER_MODEL, "c" * 64))


def test_a_ledger_without_speech_has_no_cost_a_token() -> None:
    assert not any("per_accepted" in metric.name for metric in Ledger(spans=2).metrics("x"))


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_named_size_has_about_as_many_weights_as_its_name_says(name: str) -> None:
    size, number = SIZES[name], float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
    shared = size.num_kv_heads / size.num_heads

    attention = 2 * size.width**2 * (1 + shared)
    weights = size.num_layers * (attention + 3 * size.width * size.ffn_size)

    assert 0.7 < weights / number < 1.3
    assert size.width % (2 * size.num_heads) == size.num_heads % size.num_kv_heads == 0


def test_a_recipe_may_name_a_size() -> None:
    config = TextToTokenConfig(size="5m")

    shape = make_model(PROMPTER, config, seed=0).shape

    assert (shape.width, shape.num_layers, shape.ffn_size) == (256, 6, 688)
