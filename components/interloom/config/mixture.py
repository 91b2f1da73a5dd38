"""What the language model reads: sources, how much of each, how long the rows are."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from interloom.config.base import Frozen


class Share(Frozen):
    """A fixed part of all tokens; 0 leaves the source out."""

    kind: Literal["share"] = "share"
    share: Annotated[float, Field(ge=0, le=1)]


class Epochs(Frozen):
    """So many passes over the source, whatever that comes to."""

    kind: Literal["epochs"] = "epochs"
    epochs: PositiveFloat = 1.0


class Rest(Frozen):
    """All that the other sources leave of the total."""

    kind: Literal["rest"] = "rest"


Budget = Annotated[Share | Epochs | Rest, Field(discriminator="kind")]


SourceName = Literal["text", "filler", "speech", "transcribe", "speak", "interleaved"]


SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)


class SourceConfig(Frozen):
    """How much of one source is read, and how often it may be repeated for that.

    Attributes:
        budget: How much.
        max_epochs: More passes than these are refused.
        expected_tokens: What one pass will hold, for ``interloom plan`` before the data is there;
            nothing that is computed hangs on it.
    """

    budget: Budget
    max_epochs: PositiveFloat = 1.0
    expected_tokens: PositiveInt | None = None


class PhaseConfig(Frozen):
    """A stretch of training with budgets of its own.

    Attributes:
        share: Its part of ``total_tokens``.
        text, filler, speech, transcribe, speak, interleaved: What the source gives in this phase:
            a share is of the phase, epochs are whole, the rest is the phase's. None goes on as the
            source's own budget says: epochs are spread evenly over all training.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    text: Budget | None = None
    filler: Budget | None = None
    speech: Budget | None = None
    transcribe: Budget | None = None
    speak: Budget | None = None
    interleaved: Budget | None = None

    def budget(self, source: str) -> Budget | None:
        """What a source gives here, if it is said."""
        held: dict[str, Budget | None] = {
            "text": self.text,
            "filler": self.filler,
            "speech": self.speech,
            "transcribe": self.transcribe,
            "speak": self.speak,
            "interleaved": self.interleaved,
        }
        return held[source]


class Units(Frozen):
    """Rows of so many units: tokens of text, markers, and patches of speech (spec section 7.5).

    Rows then hold about the same work for a model with latent patches, and ``row_length`` tokens at
    the most.

    Attributes:
        per_row: Units of a row.
        speech_tokens: Tokens of a patch, as in ``pretrain.patches.size``.
    """

    per_row: Annotated[int, Field(ge=16)] = 4096
    speech_tokens: PositiveInt = 4


class MixtureConfig(Frozen):
    """The rule of P1 (spec section 5.1): 30 % text, an epoch of each speech source, the rest woven.

    Attributes:
        row_length: Tokens of a packed row.
        units: What rows are full of instead of tokens, of which they then have ``row_length`` at
            most. None for rows of ``row_length`` tokens.
        total_tokens: Tokens of all rows together, padding aside.
        text: Written documents.
        filler: Documents that state no fact of the world, apart from ``text``, which then holds
            those that do: what an experiment may replace without touching a fact.
        speech: Speech without its transcript.
        transcribe: Speech, then its transcript; the loss is on the transcript.
        speak: A transcript, then its speech; the loss is on the speech.
        interleaved: Documents with spans of synthetic speech.
        heldout_tokens: About so many tokens of each source are taken from what is held out, to
            measure the loss on; 0 for none.
        unfit: What becomes of an example that is longer than a row and may not be cut: it is left
            out and counted, or it stops the stage.
        phases: A schedule: the mixture changes as training goes on. None is one phase.
        alignment: What the rows know of their speech, as patches that are cut there need: where
            ``words`` and silences begin, from the times that the corpus gives or by the CTC
            aligner; or, by the aligner alone, where the ``pieces`` of words do, the text's BPE
            tokens.
        speech_units: Codes that often follow each other have an id together: so many units of a
            byte-pair encoding of speech, single codes included (spec section 7.3's baseline, with
            1,000). None gives each code its id. Tokens are counted in codes all the same.
    """

    row_length: Annotated[int, Field(ge=16)] = 256
    units: Units | None = None
    total_tokens: PositiveInt = 900_000
    text: SourceConfig | None = SourceConfig(budget=Share(share=0.3), max_epochs=8)
    filler: SourceConfig | None = None
    speech: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    transcribe: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    speak: SourceConfig | None = SourceConfig(budget=Epochs(), max_epochs=1)
    interleaved: SourceConfig | None = SourceConfig(budget=Rest(), max_epochs=8)
    heldout_tokens: NonNegativeInt = 8_000
    unfit: Literal["leave_out", "refuse"] = "leave_out"
    phases: tuple[PhaseConfig, ...] = ()
    alignment: Literal["off", "words", "pieces"] = "off"
    speech_units: PositiveInt | None = None

    @model_validator(mode="after")
    def _phases_are_a_whole(self) -> Self:
        total = sum(phase.share for phase in self.phases)
        if self.phases and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of all phases must sum to 1, got {total:g}")
        for number, phase in enumerate(self.phases):
            for name in SOURCE_NAMES:
                if phase.budget(name) is not None and name not in self.sources():
                    raise ValueError(
                        f"phases.{number} has a budget for {name!r}, which is no source of the "
                        "mixture; add the source, or take the budget out"
                    )
        return self

    @model_validator(mode="after")
    def _units_are_not_aligned(self) -> Self:
        if self.speech_units is not None and self.alignment != "off":
            raise ValueError(
                f"speech_units = {self.speech_units} goes with alignment = 'off': a word may begin "
                "inside a unit"
            )
        return self

    @model_validator(mode="after")
    def _a_row_has_room_for_its_units(self) -> Self:
        if self.units is not None and self.units.per_row > self.row_length:
            raise ValueError(
                f"row_length must be at least units.per_row = {self.units.per_row}, as text has a "
                f"token a unit, got {self.row_length}"
            )
        return self

    def expected_row_length(self, speech_share: float) -> int:
        """Tokens of a row, if so many of them are speech, in runs that are whole patches."""
        if self.units is None:
            return self.row_length
        units_per_token = 1 - speech_share * (1 - 1 / self.units.speech_tokens)
        return min(self.row_length, round(self.units.per_row / units_per_token))

    def sources(self) -> dict[str, SourceConfig]:
        """The sources that take part, by name, in a fixed order."""
        held = {
            "text": self.text,
            "filler": self.filler,
            "speech": self.speech,
            "transcribe": self.transcribe,
            "speak": self.speak,
            "interleaved": self.interleaved,
        }
        return {name: source for name, source in held.items() if source is not None}
