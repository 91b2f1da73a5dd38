"""What the language model reads: sources, how much of each, how long the rows are."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from interloom.config.base import Frozen


class Share(Frozen):
    """A fixed part of all tokens."""

    kind: Literal["share"] = "share"
    share: Annotated[float, Field(gt=0, le=1)]


class Epochs(Frozen):
    """So many passes over the source, whatever that comes to."""

    kind: Literal["epochs"] = "epochs"
    epochs: PositiveFloat = 1.0


class Rest(Frozen):
    """All that the other sources leave of the total."""

    kind: Literal["rest"] = "rest"


Budget = Annotated[Share | Epochs | Rest, Field(discriminator="kind")]


class SourceConfig(Frozen):
    """How much of one source is read, and how often it may be repeated for that."""

    budget: Budget
    max_epochs: PositiveFloat = 1.0


class MixtureConfig(Frozen):
    """The rule of P1 (spec section 5.1): 30 % text, an epoch of each speech source, the rest woven.

    Attributes:
        row_length: Tokens of a packed row.
        total_tokens: Tokens of all rows together, padding aside.
        text: Written documents.
        speech: Speech without its transcript.
        transcribe: Speech, then its transcript; the loss is on the transcript.
        speak: A transcript, then its speech; the loss is on the speech.
        interleaved: Documents with spans of synthetic speech.
        heldout_tokens: About so many tokens of each source are taken from what is held out, to
            measure the loss on; 0 for none.
        unfit: What becomes of an example that is longer than a row and may not be cut: it is left
            out and counted, or it stops the stage.
    """

    row_length: Annotated[int, Field(ge=16)] = 256
    total_tokens: PositiveInt = 900_000
    text: SourceConfig | None = SourceConfig(budget=Share(share=0.3), max_epochs=8)
    speech: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    transcribe: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    speak: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    interleaved: SourceConfig | None = SourceConfig(budget=Rest(), max_epochs=8)
    heldout_tokens: NonNegativeInt = 8_000
    unfit: Literal["leave_out", "refuse"] = "leave_out"

    def sources(self) -> dict[str, SourceConfig]:
        """The sources that take part, by name, in a fixed order."""
        held = {
            "text": self.text,
            "speech": self.speech,
            "transcribe": self.transcribe,
            "speak": self.speak,
            "interleaved": self.interleaved,
        }
        return {name: source for name, source in held.items() if source is not None}
