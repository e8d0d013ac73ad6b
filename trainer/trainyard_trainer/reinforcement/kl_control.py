"""What going away from the reference costs, so that the policy stays about as far away as is wanted."""

import torch
from torch import Tensor
from trainyard_api.reward_settings import CriticPolicySettings

_MOST_ERROR = 0.2


class KlControl:
    """A proportional controller (Ziegler et al. 2019, arXiv 1909.08593, section 2.2): after a batch of n responses the cost is
    multiplied by 1 + n / horizon · clip(KL / target − 1, −0.2, 0.2). Without a target it stays as it is.
    """

    def __init__(self, settings: CriticPolicySettings) -> None:
        self.cost = settings.kl
        self._settings = settings

    def observe(self, kl: float, responses: float) -> None:
        """So far the policy was from the reference, in nats a token, in so many responses."""
        if self._settings.kl_target is not None:
            error = min(_MOST_ERROR, max(-_MOST_ERROR, kl / self._settings.kl_target - 1))
            self.cost *= 1 + error * responses / self._settings.kl_horizon

    def tensors(self) -> dict[str, Tensor]:
        """What it goes on with."""
        return {"kl_cost": torch.tensor([self.cost], dtype=torch.float64)}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on with what was saved, if that has any."""
        if "kl_cost" in saved:
            self.cost = float(saved["kl_cost"])
