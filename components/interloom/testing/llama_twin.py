"""A text-to-token model once more, as Hugging Face's Llama: the peer of parity and speed."""

from typing import Any

from torch import nn

from interloom.text_to_token.model import TextToTokenModel
from interloom.training.hugging_face import export_weights


def llama_twin(ours: TextToTokenModel) -> Any:
    """A ``LlamaForCausalLM`` with the same weights, whose last output ends the sequence.

    Its positions are those of a plain sequence; its outputs are the codes and the end.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ours.shape
    config = LlamaConfig(
        **shape.to_config(shape.num_ids),
        bos_token_id=None,
        eos_token_id=shape.num_codes,
        pad_token_id=shape.num_codes,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.lm_head = nn.Linear(shape.width, shape.num_codes + 1, bias=False)
    theirs.load_state_dict(export_weights(ours.state_dict(), shape))
    return theirs
