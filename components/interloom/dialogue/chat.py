"""The spoken chatbot: a question, typed or spoken, and the history give a spoken answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.config.dialogue import AnswerConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError
from interloom.dialogue.grammar import AnswerGrammar
from interloom.dialogue.template import Exchange, Said, parse_stream, prompt_ids
from interloom.language_model.runtime import LanguageModel, load_language_model
from interloom.language_model.sampling import Sampling
from interloom.ports.store import ArtifactStore
from interloom.speech_decoder.runtime import load_speech_decoder
from interloom.speech_tokenizer.runtime import load_speech_tokenizer
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.vocabulary.layout import Ids, VocabularyLayout

Waveform = NDArray[np.float32]
Codes = NDArray[np.int32]


class Ears(Protocol):
    """What the chatbot needs of a speech tokenizer."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[Codes]:
        """Codes of each waveform."""
        ...

    def read(self, codes: Sequence[Codes]) -> list[str]:
        """The text that is heard in codes."""
        ...


class Mouth(Protocol):
    """What the chatbot needs of a speech decoder."""

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms."""
        ...

    def decode(self, codes: Codes) -> Waveform:
        """Speak codes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What the user asks.

    Attributes:
        text: As typed, or as it was heard.
        codes: Empty if it was typed. A spoken question reaches the model as codes alone.
    """

    text: str
    codes: Codes = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the chatbot says.

    Attributes:
        text: Its own words; for an answer without text, those that are heard in it.
        codes: Its speech.
        waveform: Its sound.
        sample_rate_hz: Of the waveform.
        is_complete: Whether it ended by itself, not by ``max_new_tokens``.
    """

    text: str
    codes: Codes = field(repr=False)
    waveform: Waveform = field(repr=False)
    sample_rate_hz: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Talk:
    """A question and its answer, as the history holds them."""

    question: Question
    answer: Answer


class Chatbot:
    """A chat model with ears, a mouth and a way to choose tokens. It keeps no history itself."""

    def __init__(
        self,
        model: LanguageModel,
        text: TextTokenizer,
        ears: Ears,
        mouth: Mouth,
        config: AnswerConfig,
    ) -> None:
        self._model = model
        self._text = text
        self._ears = ears
        self._mouth = mouth
        self._config = config

    @property
    def layout(self) -> VocabularyLayout:
        """The joint id space it speaks in."""
        return self._model.layout

    def hear(self, waveform: Waveform) -> Question:
        """A spoken question.

        Args:
            waveform: 16 kHz mono in [-1, 1].

        Raises:
            ConfigError: It is too short to hold one code.
        """
        codes = self._ears.encode([waveform])[0]
        if not len(codes):
            raise ConfigError(f"a spoken question needs sound, got {len(waveform)} samples")
        return Question(self._ears.read([codes])[0], codes)

    def answer(self, history: Sequence[Talk], question: Question, *, seed: int) -> Answer:
        """Answer one question; the oldest of the history is left out where it does not fit.

        Equal arguments give equal answers.
        """
        return self.answer_each([history], [question], seed=seed)[0]

    def answer_each(
        self, histories: Sequence[Sequence[Talk]], questions: Sequence[Question], *, seed: int
    ) -> list[Answer]:
        """Answer several questions, each with a history of its own, side by side."""
        prompts = [
            self._prompt(history, question)
            for history, question in zip(histories, questions, strict=True)
        ]
        grammar = AnswerGrammar(self.layout, self._config)
        sampling = Sampling(
            max_new_tokens=self._config.max_new_tokens,
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            seed=seed,
            stop_ids=(grammar.end_id,),
        )
        streams = self._model.generate(prompts, sampling, allowed=grammar.allowed)
        return [self._spoken(ids, is_complete=grammar.end_id in ids) for ids in streams]

    def _prompt(self, history: Sequence[Talk], question: Question) -> Ids:
        """The newest part of the history that leaves room for an answer, and the question."""
        exchanges = [self._exchange(talk) for talk in history]
        asked = Said(tuple(self._text.encode(question.text)), tuple(question.codes.tolist()))
        room = self._model.max_length - self._config.max_new_tokens
        for first in range(len(exchanges) + 1):
            ids = prompt_ids(exchanges[first:], asked, self._config, self.layout)
            if len(ids) <= room:
                return ids
        raise ConfigError(
            f"the question takes {len(ids)} tokens, the model has room for {room}; "
            "ask a shorter one"
        )

    def _exchange(self, talk: Talk) -> Exchange:
        """An exchange of the history as ids."""
        question, answer = talk.question, talk.answer
        return Exchange(
            Said(tuple(self._text.encode(question.text)), tuple(question.codes.tolist())),
            Said(tuple(self._text.encode(answer.text)), tuple(answer.codes.tolist())),
            is_typed=not len(question.codes),
        )

    def _spoken(self, ids: Ids, *, is_complete: bool) -> Answer:
        """An answer's ids as words and sound."""
        said = parse_stream(ids, self.layout)
        codes = np.array(said.codes, np.int32)
        text = self._text.decode(said.text_ids) if said.text_ids else self._ears.read([codes])[0]
        waveform = self._mouth.decode(codes)
        return Answer(text.strip(), codes, waveform, self._mouth.sample_rate_hz, is_complete)


def load_chatbot(
    store: ArtifactStore, chat_model: ArtifactRef, decoder: ArtifactRef, config: AnswerConfig
) -> Chatbot:
    """The chatbot of a chat model; its layout names the tokenizers that it was trained with.

    Raises:
        MissingError: The store does not hold one of the models.
    """
    model = load_language_model(store, chat_model)
    layout = model.layout
    return Chatbot(
        model,
        load_text_tokenizer(store, ArtifactRef(ArtifactKind.TEXT_TOKENIZER, layout.text_tokenizer)),
        load_speech_tokenizer(store, ArtifactRef(ArtifactKind.TOKENIZER_MODEL, layout.tokenizer)),
        load_speech_decoder(store, decoder),
        config,
    )
