"""A training engine in plain torch, on one process."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from interloom.config.training import TrainConfig
from interloom.ports.engine import MOMENTS, EngineState, Piece, SavedState
from interloom.training.state import own_buffers, require_fit


class PlainEngine:
    """AdamW on one rank in fp32; what the DeepSpeed engine must agree with."""

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self.module = module
        self.rank = 0
        self.world_size = 1
        self._config = config
        self._parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradient, averaged over accumulation."""
        torch.autograd.backward(loss / self._config.gradient_accumulation)

    def step(self, learning_rate: float, *, is_skipped: bool = False) -> float:
        """Clip and step, unless it is skipped or the gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._config.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if not is_skipped and math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def sum_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """There is one rank."""
        return dict(values)

    def state(self) -> EngineState:
        """Everything, each parameter in one piece."""
        pieces = [
            Piece(name, "value", 0, parameter.detach().reshape(-1).clone())
            for name, parameter in self.module.named_parameters()
        ]
        steps = {}
        for name, parameter in self._parameters.items():
            if held := self._optimizer.state.get(parameter):
                steps[name] = float(held["step"])
                pieces += [Piece(name, kind, 0, held[kind].reshape(-1).clone()) for kind in MOMENTS]
        buffers = {name: value.detach().clone() for name, value in self.module.named_buffers()}
        return EngineState(self._shapes(), steps, tuple(pieces), buffers)

    def load_state(self, saved: SavedState) -> None:
        """Continue from a state of any number of ranks."""
        require_fit(self._shapes(), saved.shapes)
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                read = saved.read(name, "value", 0, parameter.numel())
                parameter.copy_(read.view(parameter.shape))
            kept = own_buffers(saved, self.rank, self.world_size)
            for name, buffer in self.module.named_buffers():
                buffer.copy_(kept[name])
        for name, parameter in self._parameters.items():
            if name in saved.steps:
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(saved.steps[name]),
                    **{
                        kind: saved.read(name, kind, 0, parameter.numel())
                        .view(parameter.shape)
                        .clone()
                        for kind in MOMENTS
                    },
                }

    def weights(self) -> dict[str, Tensor]:
        """A copy of the state dict."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self.module.named_parameters()}
