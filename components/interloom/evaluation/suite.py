"""The whole evaluation of one chain of models, part by part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from interloom.audio.files import read_audio
from interloom.core.artifacts import ArtifactRef
from interloom.corpora.tables import read_table
from interloom.dialogue.chat import Chatbot
from interloom.evaluation.asking import Asked, SpokenTasks, read_asked
from interloom.evaluation.chat_tasks import (
    Interview,
    interview,
    measure_chat,
    measure_right,
    spoken_questions,
    typed_questions,
)
from interloom.evaluation.choice import ChosenSet, choose
from interloom.evaluation.cloze_tasks import Reader, measure_cloze
from interloom.evaluation.measures import Findings, Judging, merged
from interloom.evaluation.questions import OneModality, Oral, measure_questions
from interloom.evaluation.report import Sound
from interloom.evaluation.round_trips import (
    Recording,
    measure_decoder,
    measure_text_to_token,
    measure_tokenizer,
)
from interloom.evaluation.spoken import Codes
from interloom.evaluation.transcribing import measure_transcription
from interloom.language_model.runtime import LanguageModel
from interloom.language_model.sampling import Sampling
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.speech_decoder.runtime import SpeechDecoder
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.runtime import TextToToken
from interloom.text_to_token.spans import SpanRequest
from interloom.vocabulary.layout import Ids


@dataclass(frozen=True, slots=True)
class TaskSets:
    """What is measured on: the fixed choice from each held-out table.

    ``recordings`` are the sound of ``decoded``.
    """

    utterances: ChosenSet
    texts: ChosenSet
    decoded: ChosenSet
    recordings: tuple[Recording, ...]
    transcribed: ChosenSet
    asked: Asked


@dataclass(frozen=True, slots=True)
class Chain:
    """The models that are measured.

    ``tuned`` is what the chatbot is made of, which answers once with text beside its speech, once
    without.
    """

    text: TextTokenizer
    tokenizer: SpeechTokenizer
    decoder: SpeechDecoder
    text_to_token: TextToToken
    base: LanguageModel
    tuned: LanguageModel
    chatbot: Chatbot
    wordless_chatbot: Chatbot


def task_sets(
    store: ArtifactStore,
    *,
    speech: ArtifactRef,
    tokens: ArtifactRef,
    tasks: ArtifactRef,
    judging: Judging,
) -> TaskSets:
    """Read and choose."""
    config, seed = judging.config, judging.seed
    columns = ["id", "speaker", "text", "codes"]
    heldout = list(read_table(store, tokens, "tokens", split="heldout", columns=columns))
    decoded = choose("decoded", heldout, config.max_decoded, seed=seed)
    return TaskSets(
        utterances=choose("utterances", heldout, config.max_utterances, seed=seed),
        texts=choose("texts", heldout, config.max_texts, seed=seed),
        decoded=decoded,
        recordings=tuple(_recordings(store, speech, decoded)),
        transcribed=choose("transcribed", heldout, config.max_transcribed, seed=seed),
        asked=read_asked(store, tasks, config, seed=seed),
    )


def _recordings(
    store: ArtifactStore, speech: ArtifactRef, chosen: ChosenSet
) -> Iterator[Recording]:
    """The chosen utterances with their sound."""
    wanted = {row["id"]: row for row in chosen.items}
    for row in read_table(store, speech, "utterances", split="heldout", columns=["id", "audio"]):
        if row["id"] in wanted:
            known = wanted[row["id"]]
            codes = np.array(known["codes"], np.int32)
            yield Recording(known["text"], codes, known["speaker"], read_audio(row["audio"]))


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """What the evaluation found, and what there is to listen to."""

    findings: Findings
    sounds: tuple[Sound, ...]


def evaluate_chain(
    chain: Chain, sets: TaskSets, spoken: SpokenTasks, judging: Judging, *, progress: Progress
) -> Evaluated:
    """Measure everything. Equal models and sets give equal findings."""
    parts = [
        measure_tokenizer(sets.utterances, chain.tokenizer, judging),
        measure_text_to_token(sets.texts, chain.text_to_token, chain.tokenizer, judging),
        measure_decoder(sets.decoded, sets.recordings, chain.decoder, chain.tokenizer, judging),
    ]
    progress.update(1, 5, "speech models measured")
    reader = Reader(chain.base, chain.base.layout, chain.text, spoken.takes)
    parts += [measure_cloze(group, reader, judging) for group in sets.asked.every_cloze]
    progress.update(2, 5, "story cloze scored")
    if sets.transcribed.items:
        parts.append(measure_transcription(sets.transcribed, chain.tuned, chain.text, judging))
    parts.append(measure_questions(sets.asked.questions, _oral(chain, spoken), judging))
    progress.update(3, 5, "base model asked")
    chats = sets.asked.chats
    aloud = spoken_questions(chats, spoken.questions)
    talked = interview(aloud, chain.chatbot, chain.tokenizer, seed=judging.seed)
    parts += [measure_chat(chats, talked, judging), *_other_ways(chain, chats, spoken, judging)]
    progress.update(4, 5, "chatbot asked")
    return Evaluated(merged(parts), tuple(_sounds(chain, sets, talked)))


def _other_ways(
    chain: Chain, chats: ChosenSet, spoken: SpokenTasks, judging: Judging
) -> Iterator[Findings]:
    """The same questions typed, and answered by speech alone."""
    typed = typed_questions(chats)
    aloud = spoken_questions(chats, spoken.questions)
    for name, asked, bot in (
        ("chat/typed/right", typed, chain.chatbot),
        ("chat/speech_only/right", aloud, chain.wordless_chatbot),
    ):
        talked = interview(asked, bot, chain.tokenizer, seed=judging.seed)
        yield measure_right(name, chats, talked, judging)


def _oral(chain: Chain, spoken: SpokenTasks) -> Oral:
    """The base model, asked greedily."""

    def generate(prompts: Sequence[Ids], answer: OneModality, max_new_tokens: int) -> list[Ids]:
        sampling = Sampling(max_new_tokens=max_new_tokens, stop_ids=answer.stop_ids)
        return chain.base.generate(prompts, sampling, allowed=answer.allowed)

    return Oral(generate, chain.base.layout, chain.text, chain.tokenizer.read, spoken.questions)


def _sounds(chain: Chain, sets: TaskSets, talked: Interview) -> Iterator[Sound]:
    """One of each kind: the first of its set, and of the answers the first right one."""
    if sets.recordings:
        yield from _reconstruction(chain, sets.recordings[0])
    if sets.texts.items:
        text = sets.texts.items[0]["text"]
        span = chain.text_to_token.synthesise([SpanRequest("example", text)])[0]
        title = "a held-out text, spoken by the text-to-token model and the decoder"
        yield _decoded(chain, "synthesised_span.wav", title, text, span.codes)
    if talked.asked.rows:
        yield from _talk(chain, talked)


def _reconstruction(chain: Chain, recording: Recording) -> Iterator[Sound]:
    """A recording, and what codes and decoder leave of it."""
    heard = chain.tokenizer.read([recording.codes])[0]
    title = "a held-out recording"
    yield Sound("recording.wav", title, recording.text, heard, recording.waveform, 16_000)
    title = "the same, tokenised and decoded"
    yield _decoded(chain, "reconstruction.wav", title, recording.text, recording.codes)


def _talk(chain: Chain, talked: Interview) -> Iterator[Sound]:
    """A question to the chatbot and its answer."""
    place = next((index for index, right in enumerate(talked.is_right) if right), 0)
    question, answer = talked.asked.questions[place], talked.answers[place]
    title = "a question to the chatbot, spoken by the text-to-token model and the decoder"
    yield _decoded(chain, "chat_question.wav", title, question.text, question.codes)
    title = "the chatbot's answer"
    yield _decoded(chain, "chat_answer.wav", title, answer.text, answer.codes)


def _decoded(chain: Chain, file: str, title: str, text: str, codes: Codes) -> Sound:
    """Codes as sound, with what is heard in that sound."""
    waveform = chain.decoder.decode(codes)
    heard = chain.tokenizer.read(chain.tokenizer.encode([waveform]))[0]
    return Sound(file, title, text, heard, waveform, chain.decoder.sample_rate_hz)
