import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interloom.audio.files import read_audio
from interloom.config.dialogue import (
    AnswerConfig,
    CopyConfig,
    DialogueConfig,
    SftConfig,
)
from interloom.config.evaluation import EvaluationConfig, SpokenTasksConfig
from interloom.config.text_to_token import SynthesisConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.corpora.tables import read_table
from interloom.dialogue.chat import Chatbot, Question, Talk, load_chatbot
from interloom.dialogue.tables import DROPPED_TABLE, SPOKEN_TABLE
from interloom.evaluation.asking import chosen_voices, load_takes, read_asked
from interloom.evaluation.cloze_tasks import texts_of
from interloom.evaluation.spoken import speak_texts
from interloom.ports.workspace import Workspace
from interloom.stages.build_dialogues import (
    BuildDialoguesRequest,
    BuildDialoguesResult,
    build_dialogues,
)
from interloom.stages.evaluate import EvaluateRequest, EvaluateResult, evaluate
from interloom.stages.sft import SftRequest, SftResult, sft
from interloom.stages.speak_tasks import SpeakTasksRequest, SpeakTasksResult, speak_tasks
from interloom.testing.engine import PlainEngine
from interloom.testing.store import MemoryStore
from interloom.testing.tiny_chain import LICENCE, TinyChain, build_tiny_chain
from interloom.text.normalise import NORMALISER
from interloom.text_to_token.runtime import load_text_to_token

UNJUDGED = SynthesisConfig(judged_share=0.0, max_attempts=8)
DIALOGUES = DialogueConfig(user=UNJUDGED, assistant=UNJUDGED)
SFT = SftConfig(
    copies=CopyConfig(text=1, speech=2, both=1, speech_only=1),
    train=TrainConfig(num_steps=8, learning_rate=3e-3, log_every_steps=4, checkpoint_every_steps=3),
)
ANSWERS = AnswerConfig(max_new_tokens=30)
EVALUATION = EvaluationConfig(
    max_utterances=3,
    max_decoded=2,
    max_texts=3,
    max_transcribed=3,
    max_transcript_text=12,
    num_resamples=50,
    answer=ANSWERS,
    task_speech=UNJUDGED,
)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def chain(store: MemoryStore) -> TinyChain:
    return build_tiny_chain(store)


@pytest.fixture(scope="module")
def spoken(
    store: MemoryStore, chain: TinyChain, tmp_path_factory: pytest.TempPathFactory
) -> BuildDialoguesResult:
    return build_dialogues(
        _dialogues_request(chain), store=store, work=Workspace(tmp_path_factory.mktemp("d"))
    )


@pytest.fixture(scope="module")
def tuned(
    store: MemoryStore,
    chain: TinyChain,
    spoken: BuildDialoguesResult,
    tmp_path_factory: pytest.TempPathFactory,
) -> SftResult:
    request = SftRequest(
        model=chain.model, spoken_dialogues=spoken.spoken_dialogues, config=SFT, seed=4
    )
    return sft(
        request, store=store, work=Workspace(tmp_path_factory.mktemp("s")), engine=PlainEngine
    )


@pytest.fixture(scope="module")
def chatbot(store: MemoryStore, chain: TinyChain, tuned: SftResult) -> Chatbot:
    return load_chatbot(store, tuned.chat_model, chain.decoder, ANSWERS)


def _dialogues_request(
    chain: TinyChain, config: DialogueConfig = DIALOGUES
) -> BuildDialoguesRequest:
    return BuildDialoguesRequest(
        dialogues=chain.dialogues,
        text_to_token=chain.text_to_token,
        tokenizer=chain.tokenizer,
        text_tokenizer=chain.text_tokenizer,
        config=config,
        seed=2,
    )


def test_every_dialogue_is_spoken_or_dropped_with_its_reason(
    store: MemoryStore, spoken: BuildDialoguesResult
) -> None:
    kept = list(read_table(store, spoken.spoken_dialogues, SPOKEN_TABLE))
    dropped = list(read_table(store, spoken.spoken_dialogues, DROPPED_TABLE))

    assert spoken.num_dialogues == len(kept) > 0
    assert len(kept) + len(dropped) == 10
    assert sum(spoken.dropped.values()) == len(dropped)
    assert all(turn["codes"] for row in kept for turn in row["turns"])
    assert spoken.metric("synthesis/attempts") >= spoken.metric("synthesis/accepted") > 0
    assert spoken.metric("telemetry/synthesis/cpu_s") > 0
    assert store.manifest(spoken.spoken_dialogues).licences == (LICENCE,)


def test_dialogues_that_nobody_understands_are_refused(
    store: MemoryStore, chain: TinyChain, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none of the dialogues of dialogue_corpus:.*misread"):
        build_dialogues(
            _dialogues_request(chain, DialogueConfig()), store=store, work=Workspace(tmp_path)
        )


def test_fine_tuning_learns_and_stores_a_chat_model(store: MemoryStore, tuned: SftResult) -> None:
    curve = [one.value for one in tuned.metrics if one.name == "train/loss" and one.step]

    assert tuned.chat_model.kind is ArtifactKind.CHAT_MODEL
    assert curve[-1] < curve[0]
    assert tuned.metric("sft/epochs/speech") == 2 * tuned.metric("sft/epochs/text")
    assert {"train/loss/source/text", "train/loss/source/speech_only"} <= {
        one.name for one in tuned.metrics
    }


def test_utterances_are_learnt_to_be_written_down_if_they_are_named(
    store: MemoryStore,
    chain: TinyChain,
    spoken: BuildDialoguesResult,
    aloud: ArtifactRef,
    tmp_path: Path,
) -> None:
    none = CopyConfig(text=0, speech=0, speech_only=0, utterances=2)
    config = SFT.model_copy(update={"copies": none})
    request = SftRequest(
        model=chain.model, spoken_dialogues=spoken.spoken_dialogues, config=config, seed=4
    )

    def tune(asked: SftRequest) -> SftResult:
        return sft(asked, store=store, work=Workspace(tmp_path), engine=PlainEngine)

    with pytest.raises(ConfigError, match=r"sft\.copies\.utterances asks for utterances"):
        tune(request)
    made = tune(request.model_copy(update={"tokens": chain.tokens}))
    result = _evaluate(store, chain, made.chat_model, aloud, tmp_path)

    assert made.num_examples == 8  # half of the eight utterances, twice
    assert "train/loss/source/utterances" in {one.name for one in made.metrics}
    assert result.metric("transcription/wer/n") == result.metric("transcription/ended/n") == 3


def test_codes_of_another_tokenizer_are_refused(
    store: MemoryStore, chain: TinyChain, tmp_path: Path
) -> None:
    with store.draft(ArtifactKind.SPOKEN_DIALOGUES) as draft:
        with draft.shard("x") as shard:
            shard.path.write_text("")
        other = draft.commit(facts={"tokenizer": "f" * 64})

    with pytest.raises(DataError, match="holds codes of tokenizer ffffffffffff, language_model:"):
        sft(
            SftRequest(model=chain.model, spoken_dialogues=other, config=SFT),
            store=store,
            work=Workspace(tmp_path),
            engine=PlainEngine,
        )


def test_a_typed_question_gets_an_answer_in_words_and_sound(chatbot: Chatbot) -> None:
    answer = chatbot.answer((), Question("what is it"), seed=1)

    assert answer.text
    assert len(answer.codes)
    assert len(answer.waveform) == 1280 * len(answer.codes)
    assert answer.sample_rate_hz == 16_000


def test_a_spoken_question_is_heard_and_the_history_changes_the_answer(chatbot: Chatbot) -> None:
    question = chatbot.hear(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32))
    first = chatbot.answer((), question, seed=1)
    again = chatbot.answer((), question, seed=1)
    later = chatbot.answer((Talk(Question("what is it"), first),), question, seed=1)

    assert len(question.codes) == 13
    assert np.array_equal(first.codes, again.codes)
    assert (first.text, first.codes.tolist()) != (later.text, later.codes.tolist())


def test_a_silent_recording_is_no_question(chatbot: Chatbot) -> None:
    with pytest.raises(ConfigError, match="a spoken question needs sound, got 0 samples"):
        chatbot.hear(np.zeros(0, np.float32))


def test_what_is_too_long_is_refused_and_an_old_history_is_left_out(chatbot: Chatbot) -> None:
    answer = chatbot.answer((), Question("what is it"), seed=1)
    long_history = [Talk(Question("what is it"), answer)] * 60

    assert chatbot.answer(long_history, Question("what is it"), seed=1).codes.size
    with pytest.raises(ConfigError, match=r"the question takes \d+ tokens, the model has room for"):
        chatbot.answer((), Question("what is it " * 200), seed=1)


def test_an_answer_without_text_says_what_is_heard_in_it(
    store: MemoryStore, chain: TinyChain, tuned: SftResult
) -> None:
    config = AnswerConfig(is_text_guided=False, max_new_tokens=20)
    bot = load_chatbot(store, tuned.chat_model, chain.decoder, config)

    answer = bot.answer((), Question("what is it"), seed=1)

    assert 1 <= len(answer.codes) <= 20


def chain_with(chain: TinyChain, name: str, ref: ArtifactRef) -> TinyChain:
    return replace(chain, **{name: ref})  # type: ignore[arg-type]  # the name is of a reference


def _spoken_tasks(
    store: MemoryStore, chain: TinyChain, config: EvaluationConfig, folder: Path
) -> SpeakTasksResult:
    request = SpeakTasksRequest(
        tasks=chain.tasks,
        text_to_token=chain.text_to_token,
        tokenizer=chain.tokenizer,
        config=config.part(SpokenTasksConfig),
        seed=6,
    )
    return speak_tasks(request, store=store, work=Workspace(folder))


@pytest.fixture(scope="module")
def aloud(
    store: MemoryStore, chain: TinyChain, tmp_path_factory: pytest.TempPathFactory
) -> ArtifactRef:
    return _spoken_tasks(store, chain, EVALUATION, tmp_path_factory.mktemp("tasks")).spoken_tasks


def _evaluate(
    store: MemoryStore,
    chain: TinyChain,
    chat_model: ArtifactRef,
    aloud: ArtifactRef,
    folder: Path,
) -> EvaluateResult:
    request = EvaluateRequest(
        speech=chain.speech,
        tokens=chain.tokens,
        tasks=chain.tasks,
        spoken_tasks=aloud,
        tokenizer=chain.tokenizer,
        decoder=chain.decoder,
        text_to_token=chain.text_to_token,
        model=chain.model,
        chat_model=chat_model,
        text_tokenizer=chain.text_tokenizer,
        config=EVALUATION,
        seed=6,
    )
    return evaluate(request, store=store, work=Workspace(folder))


def test_the_report_holds_every_number_with_its_interval_and_sounds_to_hear(
    store: MemoryStore, chain: TinyChain, tuned: SftResult, aloud: ArtifactRef, tmp_path: Path
) -> None:
    result = _evaluate(store, chain, tuned.chat_model, aloud, tmp_path)
    manifest = store.manifest(result.evaluation)
    report = json.loads(store.local_path(manifest.shard("report.json")).read_text())
    examples = json.loads(store.local_path(manifest.shard("examples.json")).read_text())

    for name in (
        "tokenizer/wer",
        "text_to_token/round_trip_wer",
        "decoder/round_trip_wer",
        "decoder/duration_error",
        "decoder/mcd13_dtw_db",
        "cloze/S->S/story",
        "cloze/T->T/woven",
        "endings/S->S",
        "endings/T->T",
        "questions/S->T",
        "chat/right",
        "chat/typed/right",
        "chat/speech_only/right",
        "chat/answer_wer",
        "chat/heard_answer_wer",
    ):
        measured = report["measures"][name]
        assert measured["low"] <= measured["value"] <= measured["high"], name
        assert result.metric(name) == measured["value"]
    assert result.metric("cloze/S->S/story/n") <= 3
    assert report["normaliser"] == NORMALISER
    assert report["sets"]["utterances"]["n"] == 3
    assert {one["path"] for one in examples} >= {"reconstruction.wav", "chat_answer.wav"}
    for one in examples:
        sound = read_audio(store.local_path(manifest.shard(one["path"])))
        assert one["seconds"] == pytest.approx(len(sound) / 16_000, abs=0.01)


@pytest.mark.parametrize(
    ("name", "fact", "message"),
    [
        ("tokens", "tokenizer", "speech_tokens.* was made with speech tokenizer ffff"),
        ("decoder", "tokenizer", "decoder_model.* was made with speech tokenizer ffff"),
        ("text_to_token", "tokenizer", "text_to_token_model.* was made with speech tokenizer ffff"),
        ("model", "vocabulary", "language_model.* was made with vocabulary ffff"),
    ],
)
def test_what_was_made_with_another_tokenizer_is_not_evaluated(
    store: MemoryStore,
    chain: TinyChain,
    tuned: SftResult,
    aloud: ArtifactRef,
    tmp_path: Path,
    name: str,
    fact: str,
    message: str,
) -> None:
    held = store.manifest(getattr(chain, name))
    with store.draft(held.kind) as draft:
        with draft.shard("card.json") as shard:
            shard.path.write_text("{}")
        other = draft.commit(facts={**held.facts, fact: "f" * 64})

    with pytest.raises(DataError, match=message):
        _evaluate(store, chain_with(chain, name, other), tuned.chat_model, aloud, tmp_path)


def test_the_same_chain_gives_the_same_report(
    store: MemoryStore, chain: TinyChain, tuned: SftResult, aloud: ArtifactRef, tmp_path: Path
) -> None:
    first = _evaluate(store, chain, tuned.chat_model, aloud, tmp_path)
    again = _evaluate(store, chain, tuned.chat_model, aloud, tmp_path)

    assert first == again


def test_every_text_of_the_tasks_is_spoken_in_every_voice_that_can_say_it(
    store: MemoryStore, chain: TinyChain, aloud: ArtifactRef
) -> None:
    asked = read_asked(store, chain.tasks, EVALUATION, seed=6)
    speaker = load_text_to_token(store, chain.text_to_token, config=UNJUDGED, seed=6)
    voices = chosen_voices(speaker.voices, EVALUATION, seed=6)
    told = {text for group in asked.every_cloze for text in texts_of(group.items)}

    spoken = load_takes(store, aloud)

    assert store.manifest(aloud).facts["voices"] == voices
    for voice, take in zip(voices, spoken.takes, strict=True):
        said = speak_texts(told, speaker, voice=voice)
        assert {text: codes.tolist() for text, codes in take.items()} == {
            text: codes.tolist() for text, codes in said.items()
        }
    assert spoken.questions.keys() <= {row["question"] for row in asked.questions.items}


def test_how_answers_are_measured_makes_no_other_speech(
    store: MemoryStore, chain: TinyChain, aloud: ArtifactRef, tmp_path: Path
) -> None:
    measured = EVALUATION.model_copy(update={"confidence": 0.9, "max_transcribed": 0})
    fewer = EVALUATION.model_copy(update={"cloze_voices": 1, "max_questions": 1})

    assert _spoken_tasks(store, chain, measured, tmp_path).spoken_tasks == aloud
    assert _spoken_tasks(store, chain, fewer, tmp_path).spoken_tasks != aloud


def test_an_evaluation_refuses_what_was_spoken_with_other_settings(
    store: MemoryStore, chain: TinyChain, tuned: SftResult, tmp_path: Path
) -> None:
    fewer = EVALUATION.model_copy(update={"cloze_voices": 1})
    once = _spoken_tasks(store, chain, fewer, tmp_path).spoken_tasks

    with pytest.raises(DataError, match=r"spoken_tasks.* was spoken with another asked than this"):
        _evaluate(store, chain, tuned.chat_model, once, tmp_path)
