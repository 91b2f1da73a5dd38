"""A training engine in plain torch, on one process."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from interloom.config.training import TrainConfig
from interloom.core.errors import DataError
from interloom.ports.engine import SavedRanks


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

    def step(self, learning_rate: float) -> float:
        """Clip and step."""
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._config.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def sum_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """There is one rank."""
        return dict(values)

    def state(self) -> dict[str, Tensor]:
        """Model and both moments, by parameter name."""
        state = {f"model.{name}": value for name, value in self.weights().items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state[parameter].items():
                state[f"optimizer.{name}.{key}"] = torch.as_tensor(value).clone()
        return state

    def load_state(self, saved: SavedRanks) -> None:
        """Continue from the state of one rank."""
        if saved.num_ranks != 1:
            raise DataError(f"this engine has one rank, the checkpoint {saved.num_ranks}")
        state = saved.state(0)
        model = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        try:
            self.module.load_state_dict(model)
        except RuntimeError as error:
            raise DataError(f"the checkpoint does not fit the model: {error}") from error
        for name, parameter in self._parameters.items():
            prefix = f"optimizer.{name}."
            self._optimizer.state[parameter] = {
                key.removeprefix(prefix): value.clone()
                for key, value in state.items()
                if key.startswith(prefix)
            }

    def weights(self) -> dict[str, Tensor]:
        """A copy of the state dict."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}
