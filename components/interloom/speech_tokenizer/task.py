"""What the training loop trains: the tokenizer's losses on batch ``index``."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.speech_tokenizer.batches import Batch, augment, collate, passages_of
from interloom.speech_tokenizer.encoder import valid_positions
from interloom.speech_tokenizer.features import Features, Passage
from interloom.speech_tokenizer.model import Losses, TokenizerModel
from interloom.speech_tokenizer.quantizer import unseen_count
from interloom.speech_tokenizer.sampling import SourcePlan
from interloom.training.loop import Loss

_COUNTED_BATCHES, _COUNTED_PER_CODE = 64, 20  # at least, to see which codes are in use


class TokenizerTask:
    """ASR through the quantiser: decoder cross-entropy, CTC and commitment (spec 8.1)."""

    def __init__(
        self, model: TokenizerModel, features: Features, config: TokenizerConfig, *, seed: int
    ) -> None:
        self._model = model
        self._features = features
        self._config = config
        self._seed = seed
        self.plan = SourcePlan(features, config, seed=seed)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._model

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The loss of batch ``index``; sets the codebook when its time has come."""
        module.train()
        self._start_codebook(index)
        passages = passages_of(
            self._features,
            self.plan.batch(index),
            self._config.augment,
            seed=self._seed,
            index=index,
        )
        batch = self._collated(passages)
        augment(
            batch,
            self._config.augment,
            seed=self._seed,
            index=index,
            frames_per_token=self._config.encoder.frames_per_token,
        )
        losses = module(*_tensors(batch, self._device))
        config = self._config
        value = (
            config.decoder_weight * losses.decoder
            + config.ctc_weight * losses.ctc
            + config.aligned_weight * losses.aligned
            + config.quantizer.commitment * losses.commitment
        )
        return Loss(value, self._sums(losses))

    @torch.no_grad()
    def code_counts(self) -> NDArray[np.int64]:
        """How often each code is chosen in the first batches, as they were recorded; (K,).

        Enough of them that a code which is not chosen is not just rare, where there are enough.
        """
        codebook = self._model.encoder.codebook
        counts = np.zeros(len(codebook.weight), np.int64)
        for index in range(self.plan.num_batches):
            if index >= _COUNTED_BATCHES and counts.sum() >= _COUNTED_PER_CODE * len(counts):
                break
            codes = codebook.nearest(self._vectors(self._batch(index)))
            counts += np.bincount(codes.cpu().numpy(), minlength=len(counts))
        return counts

    def _batch(self, index: int) -> Batch:
        """The utterances of batch ``index`` as they were recorded."""
        rows = self.plan.batch(index).rows
        return self._collated([self._features.whole(int(row)) for row in rows])

    def _collated(self, passages: Sequence[Passage]) -> Batch:
        """Some passages as arrays."""
        return collate(
            passages,
            frames_per_token=self._config.encoder.frames_per_token,
            places=self._config.ctc_kernel,
        )

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _start_codebook(self, index: int) -> None:
        """K-means over the vectors of the coming batches, once, at the configured step.

        The batches depend on the index alone, so every rank arrives at the same codebook.
        """
        training = self._config.training
        step = index // (training.gradient_accumulation * training.num_ranks)
        codebook = self._model.encoder.codebook
        if bool(codebook.is_ready) or step < self._config.quantizer.start_step:
            return
        first = step * training.gradient_accumulation * training.num_ranks
        self._model.eval()
        with torch.no_grad():
            vectors = [
                self._vectors(self._batch(first + offset))
                for offset in range(self._config.quantizer.kmeans_batches)
            ]
        self._model.train()
        codebook.set_by_kmeans(torch.cat(vectors), seed=self._seed)

    def _vectors(self, batch: Batch) -> Tensor:
        """What the quantiser would see of a batch, (N, D)."""
        mel, num_codes, *_ = _tensors(batch, self._device)
        vectors = self._model.encoder.below(mel, num_codes)
        return vectors[valid_positions(num_codes, vectors.shape[1])]

    def _sums(self, losses: Losses) -> dict[str, Tensor | float]:
        """What the curves show, averaged over labels or batches."""
        labels = losses.num_labels
        sums: dict[str, Tensor | float] = {
            "decoder_loss": losses.decoder.detach() * labels,
            "decoder_loss/weight": labels,
            "ctc_loss": losses.ctc.detach() * labels,
            "ctc_loss/weight": labels,
            "aligned_loss": losses.aligned.detach(),
            "aligned_loss/weight": 1.0,
        }
        if losses.codes.numel():
            codebook = self._model.encoder.codebook
            used = codebook.ema_count
            share = used / used.sum()
            entropy = -(share * share.clamp(min=1e-12).log()).sum()
            sums |= {
                "commitment": losses.commitment.detach(),
                "commitment/weight": 1.0,
                "codebook_perplexity": entropy.exp(),
                "codebook_perplexity/weight": 1.0,
                "codebook_dead": (used <= unseen_count(codebook.config)).float().mean(),
                "codebook_dead/weight": 1.0,
                "codebook_restarts": float(codebook.num_restarts),
                "codebook_restarts/weight": 1.0,
            }
        return sums


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
    """The arguments of the model."""
    return (
        torch.from_numpy(batch.mel_BFM).to(device),
        torch.from_numpy(batch.num_codes_B).to(device),
        torch.from_numpy(batch.labels_BL).to(device),
        torch.from_numpy(batch.num_labels_B).to(device),
        torch.from_numpy(batch.label_at_BT).to(device),
    )
