"""Settings of the spoken chatbot: its templates, its training and how it answers."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from interloom.config.base import Frozen
from interloom.config.text_to_token import SynthesisConfig
from interloom.config.training import TrainConfig


class StreamTemplate(Frozen):
    """How a text-guided answer alternates (GLM-4-Voice: 13 text, then 26 speech tokens)."""

    text_chunk: PositiveInt = 13
    speech_chunk: PositiveInt = 26


class DialogueConfig(Frozen):
    """Which dialogues are spoken, and what a spoken turn must be like.

    Attributes:
        template: A dialogue whose speech would end before its text is dropped.
        max_dialogues: Take at most the first so many of each split.
        max_turn_codes: A turn with more speech codes drops its dialogue.
        batch_size: Dialogues synthesised at once; does not change the result.
        user: How users' turns are spoken: each in a voice of its own.
        user_takes: Ways that one and the same question may sound.
        assistant: How answers are spoken: all in one voice, the model's first unless it is named,
            and equal answers alike. Every turn is read back, and one that is misread drops its
            dialogue: the chatbot would learn to mishear, or to say other than it writes.
    """

    template: StreamTemplate = StreamTemplate()
    max_dialogues: PositiveInt = 100_000
    max_turn_codes: PositiveInt = 375
    batch_size: PositiveInt = 1024
    user: SynthesisConfig = SynthesisConfig(judged_share=1.0, max_error_rate=0.25, max_attempts=4)
    user_takes: PositiveInt = 3
    assistant: SynthesisConfig = SynthesisConfig(
        judged_share=1.0, max_error_rate=0.25, max_attempts=4
    )


class CopyConfig(Frozen):
    """How often each copy of a dialogue is seen, for each time the whole is gone through.

    GLM-4-Voice goes 4 times through the copies with loss on text and 20 times through those with
    loss on speech; that is 1 to 5. A copy with 0 is left out.

    Attributes:
        text: The text-guided stream, loss on the text of the answers.
        speech: The same stream, loss on their speech.
        both: The same stream, loss on both: one copy of each at the cost of one.
        speech_only: Answers without text, loss on their speech.
        transcribe: Each spoken question with its text, loss on the text: a small model learns to
            listen by it.
        utterances: Each utterance of the speech corpus with its transcript, loss on the text. On
            its own it makes a recogniser of the model: the fine-tuning of the papers' ASR.
        typed_user_share: Part of the copies whose users type instead of speaking.
    """

    text: NonNegativeInt = 1
    speech: NonNegativeInt = 5
    both: NonNegativeInt = 0
    speech_only: NonNegativeInt = 2
    transcribe: NonNegativeInt = 0
    utterances: NonNegativeInt = 0
    typed_user_share: Annotated[float, Field(ge=0, le=1)] = 0.25

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        counts = self.model_dump(exclude={"typed_user_share"})
        if not any(counts.values()):
            raise ValueError(f"one of {', '.join(counts)} must be above 0")
        return self


class SftConfig(Frozen):
    """Supervised fine-tuning of a language model into a spoken chatbot.

    Attributes:
        template: Must be the one the chatbot answers with.
        copies: The copies of each dialogue and their shares.
        row_length: Tokens of a row; a longer example is left out and counted.
        rows_per_batch: Rows of one micro-batch of one rank.
        train: Steps, rates, ranks.
    """

    template: StreamTemplate = StreamTemplate()
    copies: CopyConfig = CopyConfig()
    row_length: PositiveInt = 512
    rows_per_batch: PositiveInt = 4
    train: TrainConfig = TrainConfig(
        num_steps=300,
        learning_rate=1e-3,
        final_learning_rate_ratio=0.1,
        warmup_steps=10,
        checkpoint_every_steps=100,
        log_every_steps=20,
    )


class AnswerConfig(Frozen):
    """How the chatbot chooses its tokens.

    ``temperature`` 0 is greedy; GLM-4-Voice's demo uses 0.2 with ``top_p`` 0.8.
    """

    template: StreamTemplate = StreamTemplate()
    is_text_guided: bool = True
    temperature: NonNegativeFloat = 0.2
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    max_new_tokens: PositiveInt = 400
