"""Spans decoded by vLLM, for models that begin from a language model of text.

vLLM counts positions as a sequence does: it cannot speak with a model of places in time. And what a
span gets hangs on what is decoded beside it, unless vLLM is told otherwise: VLLM_BATCH_INVARIANT=1.
"""

import json
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from interloom.core.errors import ConfigError
from interloom.text_to_token.jobs import Decoded, Job
from interloom.text_to_token.model import TextToTokenModel
from interloom.training.hugging_face import CONFIG, export_weights

_MAX_POSITIONS = 4096  # what vLLM keeps room for; a span and its text are some hundred


class VllmEngine:
    """vLLM over a model, in fp32 as it was trained."""

    def __init__(self, model: TextToTokenModel, *, num_slots: int, speech_offset: int) -> None:
        """Load the model; ``num_slots`` is the most spans that are decoded side by side.

        Raises:
            ConfigError: This process may have no children, which vLLM begins with.
        """
        if current_process().daemon:
            raise ConfigError(
                "vLLM cannot run in one of several workers, since it starts processes of its own; "
                "set INTERLOOM_NUM_WORKERS=1"
            )
        from vllm import LLM

        self._speech_offset = speech_offset
        self._end = model.shape.num_ids
        self._num_codes = model.shape.num_codes
        self._max_positions = min(model.shape.max_length, _MAX_POSITIONS)
        with TemporaryDirectory() as folder:
            write_checkpoint(model, speech_offset, Path(folder))
            self._llm: Any = LLM(
                model=folder,
                skip_tokenizer_init=True,
                dtype="float32",
                max_model_len=self._max_positions,
                max_num_seqs=num_slots,
                enable_prefix_caching=False,
            )

    def decode(self, jobs: Sequence[Job]) -> list[Decoded]:
        """The codes of each job, in order; one that is longer than there is room is not begun."""
        from vllm.inputs import TokensPrompt

        results = [Decoded(np.zeros(0, np.int32), ended=False) for _ in jobs]
        fitting = [
            at for at, job in enumerate(jobs) if len(job.prompt) + job.limit < self._max_positions
        ]
        made = self._llm.generate(
            [TokensPrompt(prompt_token_ids=jobs[at].prompt.ids.tolist()) for at in fitting],
            [self._sampling(jobs[at]) for at in fitting],
            use_tqdm=False,
        )
        for at, answer in zip(fitting, made, strict=True):
            ids = np.array(answer.outputs[0].token_ids, np.int32)
            ended = bool(len(ids)) and int(ids[-1]) == self._end
            codes = ids[:-1] if ended else ids[: jobs[at].limit]
            results[at] = Decoded(codes - np.int32(self._speech_offset), ended)
        return results

    def _sampling(self, job: Job) -> Any:
        """Its random numbers come from a seed, which comes from the job's first."""
        from vllm import SamplingParams

        first = self._speech_offset
        return SamplingParams(
            temperature=job.sampling.temperature,
            top_p=job.sampling.top_p,
            seed=int(job.draws[0] * 2**32),
            max_tokens=job.limit + 1,
            stop_token_ids=[self._end],
            allowed_token_ids=[*range(first, first + self._num_codes), self._end],
            detokenize=False,
        )


def write_checkpoint(model: TextToTokenModel, speech_offset: int, folder: Path) -> None:
    """Write the model as a language model of all its ids and one more, which ends a span.

    Outputs that it has not, such as those of text, are all zero: only codes and the end count.
    """
    shape = model.shape
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    outputs = weights["head.weight"]
    table = outputs.new_zeros(shape.num_ids + 1, shape.width)
    table[speech_offset : speech_offset + shape.num_codes] = outputs[:-1]
    table[-1] = outputs[-1]
    embedding = torch.cat([weights["embedding.weight"], table.new_zeros(1, shape.width)])
    named = export_weights(weights | {"head.weight": table, "embedding.weight": embedding}, shape)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(shape.to_config(len(table))))
