"""The model is a Llama whose positions are free: with those of a sequence, they agree."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from interloom.text_to_token.decoding import Job, Sampling, decode
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import Prompt

SHAPE = ModelShape(num_ids=60, num_codes=40, width=48, num_layers=2, num_heads=3)
END = SHAPE.num_codes


def make_pair() -> tuple[TextToTokenModel, LlamaForCausalLM]:
    """One model twice: codes are ids 0 to 39, 40 is the end, and text has the ids above."""
    ours = TextToTokenModel(SHAPE).eval()
    ours.initialise(torch.Generator().manual_seed(5))
    config = LlamaConfig(
        vocab_size=SHAPE.num_ids,
        hidden_size=SHAPE.width,
        intermediate_size=ours.blocks[0].down.in_features,  # type: ignore[union-attr]
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        rope_theta=1000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.lm_head = nn.Linear(SHAPE.width, SHAPE.num_codes + 1, bias=False)
    theirs.load_state_dict(as_llama(ours.state_dict()))
    return ours, theirs


def as_llama(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    named = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.norm.weight": weights["norm.weight"],
        "lm_head.weight": weights["head.weight"],
    }
    for at in range(SHAPE.num_layers):
        ours, theirs = f"blocks.{at}.", f"model.layers.{at}."
        query, key, value = weights[f"{ours}query_key_value.weight"].chunk(3)
        gate, up = weights[f"{ours}gate_up.weight"].chunk(2)
        named |= {
            f"{theirs}input_layernorm.weight": weights[f"{ours}attention_norm.weight"],
            f"{theirs}post_attention_layernorm.weight": weights[f"{ours}gate_norm.weight"],
            f"{theirs}self_attn.q_proj.weight": query,
            f"{theirs}self_attn.k_proj.weight": key,
            f"{theirs}self_attn.v_proj.weight": value,
            f"{theirs}self_attn.o_proj.weight": weights[f"{ours}attention_out.weight"],
            f"{theirs}mlp.gate_proj.weight": gate,
            f"{theirs}mlp.up_proj.weight": up,
            f"{theirs}mlp.down_proj.weight": weights[f"{ours}down.weight"],
        }
    return named


def sequence(length: int, seed: int) -> Prompt:
    """Text ids at the places of a plain sequence, whose first code stands at place 0."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    ids = rng.integers(END + 1, SHAPE.num_ids, size=length)
    return Prompt(ids, np.arange(-length, 0, dtype=np.float32))


def test_logits_are_llamas() -> None:
    ours, theirs = make_pair()
    prompt = sequence(17, seed=1)
    ids, places = torch.from_numpy(prompt.ids)[None], torch.from_numpy(prompt.places)[None]

    with torch.no_grad():
        logits = ours(ids, places, torch.ones(1, 17, dtype=torch.bool))
        expected = theirs(input_ids=ids).logits[0]

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_synthesis_gives_the_tokens_of_generate() -> None:
    ours, theirs = make_pair()
    prompts = [sequence(3 + at % 5, seed=at) for at in range(10)]

    decoded = decode(
        ours,
        [Job(prompt, 20, np.zeros(21)) for prompt in prompts],
        num_slots=4,
        speech_offset=0,
        sampling=Sampling(0.0, 1.0),
    )

    for prompt, one in zip(prompts, decoded, strict=True):
        made = theirs.generate(
            torch.from_numpy(prompt.ids)[None], max_new_tokens=20, do_sample=False
        )
        expected = made[0, len(prompt) :].tolist()
        assert one.codes.tolist() == [code for code in expected if code != END]
