"""``tokenize``, ``speak`` and ``chat``: the models of a run, in use.

Models are looked up before torch is imported, so that a mistake is told at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom.core.errors import ConfigError, DataError, MissingError
from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interloom.bootstrap import Services
    from interloom.core.artifacts import ArtifactRef
    from interloom.dialogue.chat import Answer, Chatbot, Question, Talk

RunOption = Annotated[
    str, typer.Option("--run", metavar="RUN", help="Whose models: a run, a recipe's name, or last.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The WAV file to write.")]


def tokenize(
    file: Annotated[Path, typer.Argument(metavar="FILE.wav", help="A recording.")],
    run: RunOption = "last",
) -> None:
    """Write a recording as speech tokens, and read them back."""
    _need_file(file)
    with opened() as services, screen.err().status(f"Reading {file}") as status:
        models = _models(services, run, "tokenizer")
        import numpy as np

        from interloom.audio.files import SAMPLE_RATE_HZ, audio_seconds, stream_audio
        from interloom.speech_tokenizer.runtime import load_speech_tokenizer

        tokenizer = load_speech_tokenizer(services.store, models["tokenizer"])
        expected = audio_seconds(file) * SAMPLE_RATE_HZ / tokenizer.samples_per_token
        codes = list[int]()
        for some in tokenizer.stream(stream_audio(file)):
            codes.extend(some.tolist())
            status.update(f"{len(codes):,} of about {expected:,.0f} tokens")
        status.update(f"Reading {len(codes):,} tokens back")
        heard = tokenizer.read([np.array(codes, np.int32)])[0]
    screen.out().print(" ".join(str(code) for code in codes), soft_wrap=True)
    screen.say(f"{len(codes)} tokens, read back as: {heard}")


def speak(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    out: OutOption = Path("speech.wav"),
    run: RunOption = "last",
    seed: Annotated[int, typer.Option(help="Draws the voice.", min=0)] = 0,
) -> None:
    """Say a text: text to speech tokens to a WAV file."""
    with opened() as services:
        models = _models(services, run, "text_to_token", "decoder")
        from interloom.audio.files import write_wav
        from interloom.speech_decoder.runtime import load_speech_decoder
        from interloom.text_to_token.runtime import load_text_to_token
        from interloom.text_to_token.spans import SpanRequest

        model = load_text_to_token(services.store, models["text_to_token"])
        decoder = load_speech_decoder(services.store, models["decoder"])
    result = model.synthesise([SpanRequest(f"speak-{seed}", text)])[0]
    if result.reason:
        raise DataError(f"{text!r} cannot be spoken: {result.explanation}; try other words")
    write_wav(out, decoder.decode(result.codes), sample_rate_hz=decoder.sample_rate_hz)
    screen.put(f"{out}: {len(result.codes)} tokens")


def chat(
    question: Annotated[
        str | None, typer.Argument(metavar="[QUESTION]", help="Ask this, and leave.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE.wav", help="Ask this aloud, and leave.")
    ] = None,
    out: OutOption = Path("answer.wav"),
    run: RunOption = "last",
    seed: Annotated[int, typer.Option(help="Draws the words.", min=0)] = 0,
) -> None:
    """Talk with the spoken chatbot: one question, or line by line until an empty one."""
    if question is not None and audio is not None:
        raise ConfigError("a question is typed or spoken: give QUESTION or --audio, not both")
    if audio is not None:
        _need_file(audio)
    with opened() as services:
        bot = _chatbot(services, run)
    from interloom.audio.files import read_audio
    from interloom.dialogue.chat import Question, Talk

    if question is not None or audio is not None:
        asked = Question(question) if question is not None else bot.hear(read_audio(audio or out))
        _answer(bot, (), asked, out, seed)
        return
    history = list[Talk]()
    while line := _line():
        asked = Question(line)
        history.append(Talk(asked, _answer(bot, history, asked, out, seed)))


def _line() -> str:
    """The next line that is typed; empty at the end."""
    try:
        return input("you: ").strip()
    except EOFError:
        return ""


def _answer(
    bot: "Chatbot", history: "Sequence[Talk]", question: "Question", out: Path, seed: int
) -> "Answer":
    """Answer, print the words, write the sound."""
    from interloom.audio.files import write_wav

    if question.codes.size:
        screen.say(f"heard: {question.text}")
    answer = bot.answer(history, question, seed=seed)
    screen.put(answer.text)
    if answer.waveform.size:
        write_wav(out, answer.waveform, sample_rate_hz=answer.sample_rate_hz)
        screen.say(f"spoken: {out}")
    else:
        screen.say("the answer has no speech")
    return answer


def _chatbot(services: "Services", run: str) -> "Chatbot":
    """The chatbot of a run, with its ears and mouth, answering as its recipe says."""
    from interloom.config.recipe import Recipe
    from interloom_flows.results import find_run

    names = ("chat_model", "text_tokenizer", "tokenizer", "decoder")
    record = find_run(services.catalog, run, names)
    models = _models(services, record.run_id, *names)
    from interloom.dialogue.chat import Chatbot
    from interloom.language_model.runtime import load_language_model
    from interloom.speech_decoder.runtime import load_speech_decoder
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer
    from interloom.text.bpe import load_text_tokenizer

    store = services.store
    return Chatbot(
        load_language_model(store, models["chat_model"]),
        load_text_tokenizer(store, models["text_tokenizer"]),
        load_speech_tokenizer(store, models["tokenizer"]),
        load_speech_decoder(store, models["decoder"]),
        Recipe.model_validate_json(record.request_json).evaluate.answer,
    )


def _models(services: "Services", run: str, *names: str) -> "Mapping[str, ArtifactRef]":
    """The artifacts of these names, all of one run.

    Raises:
        MissingError: The run has one of them not.
    """
    from interloom_flows.results import find_run, summarise

    summary = summarise(services.catalog, find_run(services.catalog, run, names))
    for name in names:
        if name not in summary.outputs:
            raise MissingError(
                f"run {summary.run.run_id[:13]} of {summary.run.recipe} made no {name}; "
                f"name a run that did with --run, or run: interloom run {summary.run.recipe}"
            )
    return summary.outputs


def _need_file(path: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        MissingError: There is nothing there.
        ConfigError: It is a folder.
    """
    if not path.exists():
        raise MissingError(f"{path}: there is no such file")
    if not path.is_file():
        raise ConfigError(f"{path}: expected a recording, got a folder")
