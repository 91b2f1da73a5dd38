"""What the shared loop trains: the mean log-likelihood of codes and end, given text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.pieces import Example, Pieces
from interloom.text_to_token.prompt import Prompter
from interloom.training.loop import Loss


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side, padded on the right. B = rows, L = positions, T = targets.

    Attributes:
        ids: Inputs; padding repeats id 0 and is never a target.
        places: Frame of each input.
        wanted: Inputs whose next token is a target: begin marker and codes.
        targets: Codes, or K for the end, in reading order.
    """

    ids: Tensor
    places: Tensor
    wanted: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        parts = (self.ids, self.places, self.wanted, self.targets)
        return Batch(*(part.to(device) for part in parts))


def collate(examples: Sequence[Example], prompter: Prompter) -> Batch:
    """Lay examples out in a rectangle."""
    size = (len(examples), max(len(example) for example in examples))
    ids, places = np.zeros(size, np.int64), np.zeros(size, np.float32)
    wanted = np.zeros(size, bool)
    for row, example in enumerate(examples):
        start, stop = len(example.prompt), len(example)
        ids[row, :start], places[row, :start] = example.prompt.ids, example.prompt.places
        ids[row, start:stop] = example.codes + prompter.ids.speech_offset
        places[row, start:stop] = example.prompt.first_place + np.arange(stop - start)
        wanted[row, start - 1 : stop] = True
    end = prompter.layout.codebook_size
    targets = np.concatenate([_target(example, end) for example in examples])
    return Batch(*(torch.from_numpy(array) for array in (ids, places, wanted, targets)))


def _target(example: Example, end: int) -> NDArray[np.int64]:
    """The codes, then the end."""
    return np.append(example.codes, end).astype(np.int64)


class TextToTokenTask:
    """A ``TrainTask`` over pieces of speech."""

    def __init__(self, module: TextToTokenModel, pieces: Pieces, prompter: Prompter) -> None:
        self.module = module
        self._pieces = pieces
        self._prompter = prompter

    def loss(self, module: nn.Module, index: int) -> Loss:
        """Cross-entropy over the targets of micro-batch ``index``, in nats a token."""
        device = self.module.device
        batch = collate(self._pieces.batch(index), self._prompter).to(device)
        logits = module(batch.ids, batch.places, batch.wanted)
        value = functional.cross_entropy(logits, batch.targets)
        count = float(len(batch.targets))
        right = (logits.detach().argmax(-1) == batch.targets).sum()
        sums = {
            "nll": value.detach() * count,
            "nll/weight": count,
            "accuracy": right,
            "accuracy/weight": count,
        }
        return Loss(value, sums)
