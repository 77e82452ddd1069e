"""The pair rule of STDP, and the temporal filters that it amounts to.

Summed over all pairs, a pair rule is a bilinear form in the two spike trains, so one of them can be
filtered along time first and only then multiplied with the other. A `Trace` is such a filter:

    z[t] = past * sum_{t' < t} past_decay^(t - t') s[t'] + now * s[t]
         + future * sum_{t' > t} future_decay^(t' - t) s[t']

Filtering the other train instead takes the mirrored filter and gives the same sum.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from rsafast_kernels.errors import InvalidInputError

Side = Literal["pre", "post"]

CHOICES: dict[str, tuple[str, ...]] = {
    "decay": ("exp", "euler"),
    "pairing": ("all", "nearest"),
    "ties": ("both", "ltp", "ltd", "none"),
    "bounds": ("none", "hard", "soft", "product"),
}


@dataclass(frozen=True, slots=True)
class Trace:
    """A linear filter along time (``nearest=False``), or the reset-to-spike trace of the past."""

    past: float = 0.0
    past_decay: float = 0.0
    now: float = 0.0
    future: float = 0.0
    future_decay: float = 0.0
    nearest: bool = False

    def mirrored(self) -> "Trace":
        """Return the filter of the other train that gives the same sum over pairs."""
        if self.nearest:
            raise AssertionError("the nearest spike of one train is no filter of the other")
        return Trace(self.future, self.future_decay, self.now, self.past, self.past_decay)


@dataclass(frozen=True, slots=True)
class Term:
    """One weight gradient: the train of `side` is filtered by `trace`, the other is taken as is."""

    side: Side
    trace: Trace

    def on(self, side: Side) -> "Term":
        """Return the same sum with the train of `side` filtered, where that is possible."""
        if side == self.side or self.trace.nearest:
            return self
        return Term(side, self.trace.mirrored())


@dataclass(frozen=True, slots=True)
class STDP:
    """Pair-based STDP in discrete time; every pair with dt = t_post - t_pre changes the weight.

    A pair with dt > 0 adds ``a_plus * d_plus**dt`` (potentiation, LTP), one with dt < 0 subtracts
    ``a_minus * d_minus**-dt`` (depression, LTD), where d is the decay a step.

    Parameters
    ----------
    a_plus, a_minus : float, default 0.01, 0.01
        Amplitudes of LTP and LTD, in units of weight a pair; the learning rate is part of them.
        Negative values turn the window over (anti-Hebbian).
    tau_plus, tau_minus : float, default 20, 20
        Time constants in time steps; ``math.inf`` leaves no decay, so that only order counts.
    decay : {"exp", "euler"}, default "exp"
        Decay a step: exp(-1/tau), or its Euler form 1 - 1/tau (which needs tau >= 1).
    pairing : {"all", "nearest"}, default "all"
        Which pairs count. "nearest": a post spike pairs with the last pre spike up to it (LTP),
        a pre spike with the last post spike up to it (LTD).
    ties : {"both", "ltp", "ltd", "none"}, default "ltp"
        What coincident spikes (dt = 0) do. In a feed-forward network without delays the spike of
        step t is caused by the input of step t, hence the default. "both" is LTP and LTD at once.
    bounds : {"none", "hard", "soft", "product"}, default "none"
        "hard" cuts the change so that the weight stays in [w_min, w_max]. "soft" scales LTP by
        (w_max - w)**mu and LTD by (w - w_min)**mu. "product" scales both by
        (w - w_min) * (w_max - w), the stabiliser of rank-order rules. The last two are cut like
        "hard" where a large step would overshoot.
    mu : float, default 1
        Exponent of "soft"; 0 is "hard".
    w_min, w_max : float, default 0, 1
        The bounds; without meaning when there are none.

    Raises
    ------
    InvalidInputError
        For unknown choices, amplitudes that are not finite, tau <= 0 (Euler: < 1), mu < 0 or
        w_min >= w_max.

    References
    ----------
    Morrison, Diesmann & Gerstner (2008), Biological Cybernetics 98: 459-478 (pairings, bounds).
    Guetig, Aharonov, Rotter & Sompolinsky (2003), J. Neurosci. 23: 3697-3714 (exponent mu).
    Masquelier & Thorpe (2007), PLoS Comput. Biol. 3: e31 (order only, w(1 - w)).
    """

    a_plus: float = 0.01
    a_minus: float = 0.01
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    decay: Literal["exp", "euler"] = "exp"
    pairing: Literal["all", "nearest"] = "all"
    ties: Literal["both", "ltp", "ltd", "none"] = "ltp"
    bounds: Literal["none", "hard", "soft", "product"] = "none"
    mu: float = 1.0
    w_min: float = 0.0
    w_max: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidInputError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("a_plus", "a_minus", "w_min", "w_max", "mu"):
            if not math.isfinite(getattr(self, name)):
                raise InvalidInputError(f"{name} must be finite, got {getattr(self, name)}")
        least = "at least 1 step with decay='euler'" if self.decay == "euler" else "positive"
        for name in ("tau_plus", "tau_minus"):
            tau = getattr(self, name)
            if not (tau >= 1 if self.decay == "euler" else tau > 0):
                raise InvalidInputError(f"{name} must be {least}, got {tau}")
        if self.mu < 0:
            raise InvalidInputError(f"mu must be at least 0, got {self.mu}")
        if self.w_min >= self.w_max:
            raise InvalidInputError(
                f"w_min must be below w_max, got w_min={self.w_min} and w_max={self.w_max}"
            )

    @property
    def decays(self) -> tuple[float, float]:
        """Decay of the LTP and of the LTD trace in one time step."""
        taus = (self.tau_plus, self.tau_minus)
        if self.decay == "exp":
            return math.exp(-1 / taus[0]), math.exp(-1 / taus[1])
        return 1 - 1 / taus[0], 1 - 1 / taus[1]

    @property
    def is_split(self) -> bool:
        """Whether LTP and LTD are scaled differently, so that their sums are needed apart."""
        return self.bounds == "soft"

    def window(self, dt: int) -> tuple[float, float]:
        """LTP and LTD (both with the sign of their amplitude) of one pair `dt` steps apart."""
        plus, minus = self.decays
        if dt > 0:
            return self.a_plus * plus**dt, 0.0
        if dt < 0:
            return 0.0, self.a_minus * minus**-dt
        return (
            self.a_plus if self.ties in ("both", "ltp") else 0.0,
            self.a_minus if self.ties in ("both", "ltd") else 0.0,
        )

    def ltp(self) -> Term:
        """Return the sum of LTP: the past of the input, read at every output spike."""
        now = self.window(0)[0]
        return Term("pre", Trace(self.a_plus, self.decays[0], now, nearest=self._nearest))

    def ltd(self, sign: float = 1.0) -> Term:
        """Return the sum of LTD times `sign`: the past of the output, read at every input spike."""
        past, now = sign * self.a_minus, sign * self.window(0)[1]
        return Term("post", Trace(past, self.decays[1], now, nearest=self._nearest))

    def difference(self) -> tuple[Term, ...]:
        """Return LTP - LTD: one term for all pairs, two for nearest spikes."""
        ltp, minus = self.ltp(), self.ltd(-1.0)
        if self._nearest:
            return ltp, minus
        moved = minus.on("pre").trace
        both = replace(ltp.trace, now=ltp.trace.now + moved.now, future=moved.future,
                       future_decay=moved.future_decay)  # fmt: skip
        return (Term("pre", both),)

    def sums(self) -> tuple[tuple[Term, ...], ...]:
        """Return the sums of pairs that the change needs: (LTP - LTD,), or (LTP, LTD) if split."""
        return ((self.ltp(),), (self.ltd(),)) if self.is_split else (self.difference(),)

    @property
    def _nearest(self) -> bool:
        return self.pairing == "nearest"
