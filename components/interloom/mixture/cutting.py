"""Where a document that is longer than a row may be cut."""

import numpy as np

from interloom.core.spans import Span
from interloom.mixture.examples import Ids


def cut(ids_T: Ids, row_length: int, *, begin: int, end: int) -> tuple[Span, ...] | None:
    """Pieces of at most ``row_length`` tokens that cover the document in order.

    A cut lies between any two tokens, but never inside ``begin ... end`` (an utterance). Each piece
    is as long as the rule allows.

    Args:
        ids_T: The document.
        row_length: Longest piece.
        begin: Id that opens an utterance.
        end: Id that closes it.

    Returns:
        The pieces, or None if an utterance is longer than a row, so that no cut is allowed.
    """
    if len(ids_T) <= row_length:
        return (Span(0, len(ids_T)),) if len(ids_T) else ()
    depth = np.cumsum(ids_T == begin) - np.cumsum(ids_T == end)
    allowed = np.flatnonzero(depth <= 0) + 1  # a cut after token t lies at t + 1
    pieces: list[Span] = []
    start = 0
    while start < len(ids_T):
        place = int(np.searchsorted(allowed, start + row_length, side="right")) - 1
        stop = int(allowed[place]) if place >= 0 else start
        if stop <= start:
            return None
        pieces.append(Span(start, stop))
        start = stop
    return tuple(pieces)
