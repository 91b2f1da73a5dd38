"""Labels from the heads' outputs, and where they are.

Shapes: C codes, T places of the CTC head, V text ids, S states.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.core.errors import DataError
from interloom.core.spans import Span
from interloom.speech_tokenizer.model import MAX_LABELS, TokenizerModel

LogProbs = NDArray[np.float32]


def ctc_greedy(log_probs_TV: Tensor, *, blank: int) -> list[int]:
    """The best label of each position, repeats and blanks taken out."""
    best = torch.unique_consecutive(log_probs_TV.argmax(-1))
    return [label for label in best.tolist() if label != blank]


def decoder_greedy(model: TokenizerModel, states_CD: Tensor) -> list[int]:
    """The attention decoder's best label, one after the other, up to its end.

    At most two labels a code, so that a decoder that loops stops.
    """
    decoder = model.decoder
    valid = torch.ones(1, len(states_CD), dtype=torch.bool, device=states_CD.device)
    ids = [decoder.begin]
    for _ in range(min(MAX_LABELS - 1, 2 * len(states_CD))):
        prefix = torch.tensor([ids], device=states_CD.device)
        label = int(decoder(prefix, states_CD[None], valid)[0, -1].argmax())
        if label >= decoder.begin:
            break
        ids.append(label)
    return ids[1:]


def ctc_align(log_probs_TV: LogProbs, labels: Sequence[int], *, blank: int) -> list[Span]:
    """The most likely run of places of each label (Viterbi over CTC's states).

    Args:
        log_probs_TV: Of each place.
        labels: At least one, none of them ``blank``.
        blank: The id of the blank.

    Returns:
        One span of places a label, in order and disjoint.

    Raises:
        DataError: There are fewer places than the labels need.
    """
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    # A label may follow another one directly, unless both are the same.
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    num_needed = len(labels) + int((~may_skip[3::2]).sum())
    if len(log_probs_TV) < num_needed:
        raise DataError(
            f"{len(labels)} labels need at least {num_needed} places, got {len(log_probs_TV)}; "
            "is it the right transcript?"
        )
    steps = _best_steps(log_probs_TV[:, states].astype(np.float64), may_skip)
    path = np.array(_trace(steps))
    firsts = [int(np.argmax(path == 2 * index + 1)) for index in range(len(labels))]
    counts = [int((path == 2 * index + 1).sum()) for index in range(len(labels))]
    return [Span(first, first + count) for first, count in zip(firsts, counts, strict=True)]


def _best_steps(scores_TS: NDArray[np.float64], may_skip_S: NDArray[np.bool_]) -> list[list[int]]:
    """How far back the best predecessor of each state is, at each position but the first.

    The last row names the better of the two final states.
    """
    best = np.full(scores_TS.shape[1], -np.inf)
    best[:2] = scores_TS[0, :2]
    rows: list[list[int]] = []
    for scores in scores_TS[1:]:
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(may_skip_S, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        choices = np.stack([best, one, two])
        back = choices.argmax(0)
        best = choices.max(0) + scores
        rows.append(back.tolist())
    rows.append([len(best) - 1 if best[-1] >= best[-2] else len(best) - 2])
    return rows


def _trace(steps: list[list[int]]) -> list[int]:
    """The states of the best path, position by position."""
    state = steps[-1][0]
    path = [state]
    for row in reversed(steps[:-1]):
        state -= row[state]
        path.append(state)
    return path[::-1]
