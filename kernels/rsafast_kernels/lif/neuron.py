"""Parameters of a layer of leaky integrate-and-fire neurons."""

import math
from dataclasses import dataclass
from typing import Literal

from rsafast_kernels.errors import InvalidInputError

CHOICES: dict[str, tuple[str | None, ...]] = {
    "decay": ("exp", "euler"),
    "reset": ("zero", "subtract"),
    "winner_take_all": (None, "channels"),
}


@dataclass(frozen=True, slots=True)
class LIF:
    """Leaky integrate-and-fire neurons in discrete time.

    In each step a neuron that is not refractory integrates, v <- d * v + current, and spikes if
    v >= threshold + theta, where d is the decay a step and theta the threshold's adaptive part.

    Parameters
    ----------
    tau : float, default 2
        Time constant of the membrane in time steps; ``math.inf`` does not leak.
    threshold : float, default 1
        Resting threshold, in units of the potential; positive.
    decay : {"exp", "euler"}, default "exp"
        Decay a step: exp(-1/tau), or 1 - 1/tau (which needs tau >= 1). The current is not scaled;
        v <- v + (current - v) / tau is "euler" with the current divided by tau.
    reset : {"zero", "subtract"}, default "zero"
        After a spike v is 0, or v less the threshold that it crossed.
    refractory : int, default 0
        Steps after a spike in which the neuron holds its potential and ignores its input.
    winner_take_all : {None, "channels"}, default None
        "channels": at every position of a map, the first channel to cross its threshold silences
        the others for the rest of the call; of several in one step, the one with the largest
        potential wins, and then the lowest channel. Silenced neurons are held at 0.
    theta_plus : float, default 0
        Homeostasis: every spike of a channel, at any position, raises the channel's theta by
        theta_plus (averaged over the batch) from the next step on.
    tau_theta : float, default inf
        Time constant with which theta decays, in time steps: exp(-1/tau_theta) a step.

    Raises
    ------
    InvalidInputError
        For unknown choices, tau or tau_theta <= 0 (Euler: tau < 1), a threshold that is not
        positive and finite, a negative theta_plus, or refractory that is no integer >= 0.

    References
    ----------
    Diehl & Cook (2015), Front. Comput. Neurosci. 9: 99 (adaptive threshold, winner-take-all).
    """

    tau: float = 2.0
    threshold: float = 1.0
    decay: Literal["exp", "euler"] = "exp"
    reset: Literal["zero", "subtract"] = "zero"
    refractory: int = 0
    winner_take_all: Literal["channels"] | None = None
    theta_plus: float = 0.0
    tau_theta: float = math.inf

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidInputError(
                    f"{name} must be one of {', '.join(map(repr, choices))}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.decay == "euler" and not self.tau >= 1:
            raise InvalidInputError(
                f"tau must be at least 1 step with decay='euler', got {self.tau}"
            )
        for name in ("tau", "tau_theta"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.threshold < math.inf:
            raise InvalidInputError(
                f"threshold must be positive and finite, got {self.threshold}"
            )
        if not 0 <= self.theta_plus < math.inf:
            raise InvalidInputError(
                f"theta_plus must be finite and at least 0, got {self.theta_plus}"
            )
        if not isinstance(self.refractory, int) or self.refractory < 0:
            raise InvalidInputError(
                f"refractory must be an integer of at least 0 steps, got {self.refractory!r}"
            )

    @property
    def leak(self) -> float:
        """Decay of the potential in one time step."""
        return math.exp(-1 / self.tau) if self.decay == "exp" else 1 - 1 / self.tau

    @property
    def theta_decay(self) -> float:
        """Decay of theta in one time step."""
        return math.exp(-1 / self.tau_theta)
