"""Settings of the evaluation: how many of each set, which score, which interval."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from interloom.config.base import Frozen
from interloom.config.dialogue import AnswerConfig
from interloom.config.text_to_token import SynthesisConfig

ClozeScore = Literal["sum", "mean_ending", "mean_all"]


class SpokenTasksConfig(Frozen):
    """What is asked aloud, and how it is spoken.

    Sets larger than their cap are sampled once, from the seed, so that every model is asked the
    same.

    Attributes:
        max_cloze_per_group: Story-cloze items of each group.
        max_questions: Spoken questions for the base model.
        max_chats: Questions put to the chatbot.
        cloze_voices: Voices of the text-to-token model that speak each cloze item, context and
            endings alike; an ending's score is the mean over them. Two takes of the same words
            differ, and with one take the better one often wins, not the likelier words.
        task_speech: How contexts, endings and questions are spoken. They are read back: what is not
            understood asks something else. An item without speech is left out, and counted: a few
            words out of context need many attempts.
    """

    max_cloze_per_group: PositiveInt = 64
    max_questions: PositiveInt = 64
    max_chats: PositiveInt = 48
    cloze_voices: PositiveInt = 4
    task_speech: SynthesisConfig = SynthesisConfig(
        judged_share=1.0, max_error_rate=0.2, max_attempts=16
    )


class EvaluationConfig(SpokenTasksConfig):
    """What is measured on held-out data: what is asked aloud, and all else.

    Attributes:
        max_utterances: Held-out utterances for the tokenizer's error rate.
        max_decoded: Held-out utterances that go through decoder and tokenizer again.
        max_texts: Held-out transcripts for the text-to-token round trip.
        max_transcribed: Held-out utterances that the fine-tuned model writes down; for one that
            was fine-tuned on ``sft.copies.utterances``.
        max_transcript_text: Longest of these, in text tokens: what has not ended by then is cut.
        cloze_score: The score that counts; all three are reported.
        confidence: Of every interval.
        num_resamples: Of the bootstrap for error rates.
        answer: How the chatbot decodes.
        max_answer_text: Longest answer of the base model to a spoken question, in text tokens: a
            longer one holds more names, and so more right ones by chance.
        max_answer_codes: The same in speech codes; 60 are 4.8 s.
    """

    max_utterances: PositiveInt = 100
    max_decoded: PositiveInt = 24
    max_texts: PositiveInt = 64
    max_transcribed: NonNegativeInt = 0
    max_transcript_text: PositiveInt = 96
    cloze_score: ClozeScore = "mean_ending"
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    num_resamples: PositiveInt = 1000
    answer: AnswerConfig = AnswerConfig(temperature=0.0)
    max_answer_text: PositiveInt = 24
    max_answer_codes: PositiveInt = 60
