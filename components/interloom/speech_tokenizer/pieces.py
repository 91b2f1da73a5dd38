"""How a recording is cut before the encoder hears it, from the number of its samples alone."""

from dataclasses import dataclass

from interloom.config.speech_tokenizer import EncoderConfig


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a recording that the position table can hold.

    Attributes:
        start_token: The first code that it gives, within the recording.
        num_tokens: The codes that it gives.
        context_tokens: Codes before those, which are heard again and given by the piece before.
    """

    start_token: int
    num_tokens: int
    context_tokens: int

    @property
    def heard_tokens(self) -> int:
        """All codes that are computed."""
        return self.context_tokens + self.num_tokens


def num_tokens(num_samples: int, config: EncoderConfig) -> int:
    """Codes of an utterance: those that cover its samples, ``ceil(S / samples_per_token)``."""
    return -(-num_samples // config.samples_per_token)


def pieces_of(num_samples: int, config: EncoderConfig) -> list[Piece]:
    """The pieces of a recording, in order; one for all but long ones, none for no samples.

    Each piece but the first begins ``context_frames`` before its first code, so that no code is
    heard without what was said before it: there is no seam.
    """
    total = num_tokens(num_samples, config)
    context = config.context_frames // config.pool_kernel
    pieces: list[Piece] = []
    start = 0
    while start < total:
        heard_before = context if start else 0
        length = min(total - start, config.max_tokens - heard_before)
        pieces.append(Piece(start, length, heard_before))
        start += length
    return pieces


def padded_length(tokens: int, config: EncoderConfig, *, first: int = 0) -> int:
    """The length in which the last codes of an utterance are computed: of their bucket.

    Args:
        tokens: Codes that are left, at most a block.
        config: Of the encoder.
        first: Their place in the piece; what is computed ends with the position table.
    """
    padded = -(-tokens // config.bucket_tokens) * config.bucket_tokens
    return min(padded, config.step_frames // config.pool_kernel, config.max_tokens - first)
