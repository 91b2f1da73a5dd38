"""A trained text-to-token model, ready to speak spans."""

from collections.abc import Sequence

from interloom.text_to_token.spans import Codes, SpanRequest, SpanResult

__all__ = ["Codes", "SpanRequest", "SpanResult", "TextToToken"]


class TextToToken:
    """Speaks spans of text as speech codes."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order; never an error for a span that cannot be spoken."""
        raise NotImplementedError
