"""The training engine on DeepSpeed: ZeRO 0 to 3, any number of ranks, one process included.

DeepSpeed is imported here alone, and only when an engine is built. What it writes goes to the
standard error stream through ``logging``; its own checkpoints are not used, since they pin layout
and world size.
"""

import atexit
import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from interloom.config.training import TrainConfig
from interloom.core.errors import ConfigError, MissingError
from interloom.ports.engine import EngineState, SavedState

if TYPE_CHECKING:
    from torch import Tensor, nn

_NEVER = 2**31 - 1
_BUCKET_ELEMENTS = 50_000_000
_COLLECTIVE_LIMIT = timedelta(hours=2)  # the loop's own watch notices a rank that hangs long before


def deepspeed_settings(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON, computed from ours.

    The batch sizes count micro-batches, not rows: what a micro-batch holds is the task's business.
    """
    stage = zero_stage(config)
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero |= {
            "contiguous_gradients": True,
            "overlap_comm": False,  # the order of sums is part of the result
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        }
    if config.offload is not None:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "optimizer_and_parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": config.gradient_accumulation * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.gradient_accumulation,
        # Without ZeRO DeepSpeed clips but does not tell the norm, so the engine clips.
        "gradient_clipping": 0.0 if stage == 0 else config.gradient_clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # ours can leave a step out, theirs is compiled
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
    }


def zero_stage(config: TrainConfig) -> int:
    """The stage in force: bf16 needs fp32 masters, which DeepSpeed shows from stage 1 on."""
    return max(config.zero_stage, 1) if config.precision == "bf16" else config.zero_stage


def build_deepspeed_engine(module: "nn.Module", config: TrainConfig) -> "DeepSpeedEngine":
    """An ``EngineBuilder``: join the other ranks, then hand the module to DeepSpeed.

    Under torchrun the ranks find each other by its environment; without it this process is alone.

    Raises:
        ConfigError: The number of processes is not ``config.num_ranks``.
        MissingError: DeepSpeed is not installed.
    """
    world_size = _join_ranks()
    if world_size != config.num_ranks:
        raise ConfigError(
            f"the recipe asks for num_ranks = {config.num_ranks}, but {world_size} processes run; "
            "start the stage with torchrun --nproc-per-node as many"
        )
    return DeepSpeedEngine(module, config)


class DeepSpeedEngine:
    """AdamW under DeepSpeed, with a state of our own layout."""

    def __init__(self, module: "nn.Module", config: TrainConfig) -> None:
        from torch import distributed

        from interloom.adapters.deepspeed_state import DeepSpeedState, SkippableAdamW

        deepspeed = _import_deepspeed()
        # ZeRO 3 gathers in forward hooks, by a collective that torch has since renamed.
        warnings.filterwarnings("ignore", r".torch\.distributed\.\w+. is deprecated", FutureWarning)
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()
        self._config = config
        self._micro = 0
        self._adamw = SkippableAdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        with _quietly():
            self._engine, *_ = deepspeed.initialize(
                model=module,
                optimizer=self._adamw,
                config=deepspeed_settings(config, self.world_size),
            )
        self._state = DeepSpeedState(self._engine, zero_stage(config), self.rank, self.world_size)

    @property
    def module(self) -> "nn.Module":
        """DeepSpeed's wrapper: calling it runs the forward hooks of ZeRO 3."""
        module: nn.Module = self._engine
        return module

    def backward(self, loss: "Tensor") -> None:
        """Add the gradient; ranks are averaged at the last micro-batch."""
        with _quietly():
            self._engine.backward(loss)
            self._micro += 1
            if self._micro < self._config.gradient_accumulation:
                self._engine.step()  # only counts the micro-batch

    def step(self, learning_rate: float, *, is_skipped: bool = False) -> float:
        """Clip and step, unless it is skipped or the gradient is not finite."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        norm = self._clip() if zero_stage(self._config) == 0 else None
        self._adamw.is_skipping = is_skipped or (norm is not None and not math.isfinite(norm))
        with _quietly():
            self._engine.step()
        self._micro = 0
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def sum_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """One collective for all values, in double precision."""
        import torch
        from torch import distributed

        names = sorted(values)
        total = torch.tensor(
            [values[name] for name in names], dtype=torch.float64, device=self._engine.device
        )
        distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def state(self) -> EngineState:
        """This rank's part of parameters and moments, copied."""
        return self._state.save()

    def load_state(self, saved: SavedState) -> None:
        """Continue from what any number of ranks saved, at whatever ZeRO stage."""
        self._state.load(saved)

    def weights(self) -> "dict[str, Tensor]":
        """The whole model in fp32 on the CPU: from the masters where there are any."""
        inner = self._engine.module
        named = dict(inner.named_parameters(remove_duplicate=False))
        names = list(inner.state_dict().keys())
        buffers = dict(inner.named_buffers(remove_duplicate=False))
        with _quietly():
            return {
                name: self._full(named[name]) if name in named else self._buffer(buffers[name])
                for name in names
            }

    def _clip(self) -> float:
        """Clip whole gradients, already averaged over ranks."""
        from torch.nn.utils import clip_grad_norm_

        return float(clip_grad_norm_(self._engine.parameters(), self._config.gradient_clip))

    def _buffer(self, buffer: "Tensor") -> "Tensor":
        """A buffer on the CPU, in fp32 if it holds numbers with a fraction."""
        whole = _copy(buffer).cpu()
        return whole.float() if whole.is_floating_point() else whole

    def _full(self, parameter: "Tensor") -> "Tensor":
        """One whole weight in fp32 on the CPU."""
        stage = zero_stage(self._config)
        if stage == 0 or (stage < 3 and not parameter.requires_grad):
            return _copy(parameter).float().cpu()
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad:
            return _copy(safe_get_full_fp32_param(parameter)).float().cpu()
        with GatheredParameters([parameter]):
            return _copy(parameter).float().cpu()


def _join_ranks() -> int:
    """Make the process group once per process; returns the world size."""
    import torch
    from torch import distributed
    from torch._C._distributed_c10d import HashStore

    if not distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if distributed.is_torchelastic_launched():
            distributed.init_process_group(backend, timeout=_COLLECTIVE_LIMIT)
        else:
            distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        atexit.register(_part_ranks)
    if not distributed.is_torchelastic_launched():
        # DeepSpeed refuses to start without it, alone or not.
        os.environ.setdefault("LOCAL_RANK", "0")  # noqa: TID251
    return distributed.get_world_size()


def _part_ranks() -> None:
    """Join the group's threads before the interpreter ends: the two would race."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _import_deepspeed() -> Any:
    """Import it without a word on the standard output."""
    try:
        with _quietly():
            import deepspeed
    except ImportError as error:
        raise MissingError(
            f"training needs DeepSpeed ({error}); install torch first, then "
            "DS_BUILD_OPS=0 pip install --no-build-isolation 'interloom[deepspeed]'"
        ) from error
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    # This operator is compiled on first use, for half a minute; gloo does without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No output on stdout and no Python warning: DeepSpeed gives both for nothing we can change."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _copy(tensor: "Tensor") -> "Tensor":
    return tensor.detach().clone().contiguous()
