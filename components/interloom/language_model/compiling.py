"""A model whose blocks torch compiles."""

import torch

from interloom.core.errors import ConfigError
from interloom.language_model.attention import attend
from interloom.language_model.model import Block, Transformer


def compile_blocks(model: Transformer) -> None:
    """Have torch compile each block at its first use; weights and their names stay what they are.

    Attention over documents is left as it is: their lengths are others in each batch.

    Raises:
        ConfigError: This machine has no compiler that works.
    """
    _require_compiler()
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.attention.attend = torch.compiler.disable(attend)  # type: ignore[no-untyped-call]
        block.compile(dynamic=False)


def _require_compiler() -> None:
    """Compile something small: what is missing differs by device, machine and version.

    Raises:
        ConfigError: It cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config
    from torch._inductor.exc import InductorError

    config.compile_threads = 1  # no processes of its own, which could outlive ours
    probe = torch.zeros(8, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.compile(torch.exp, dynamic=False)(probe)
    except (TorchDynamoException, InductorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"pretrain.is_compiled = true, but nothing can be compiled here: {why}; install a C++ "
            "compiler such as g++ (on a GPU also triton), or set it to false"
        ) from error
