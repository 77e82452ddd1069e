"""Learning rules: small classes that differ in how a batch changes the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from rsafast_kernels.errors import InvalidInputError

from rsafast_training.models.base import StackedModel
from rsafast_training.rules.backprop import Backprop, Untrained
from rsafast_training.rules.base import Rule, StepResult
from rsafast_training.rules.feedback import FeedbackAlignment
from rsafast_training.rules.predictive import PredictiveCoding
from rsafast_training.rules.published import PUBLISHED
from rsafast_training.rules.stdp import SpikeTiming

__all__ = [
    "PROFILES",
    "RULES",
    "Rule",
    "StepResult",
    "build_rule",
    "default_regime",
    "rule_settings",
]

RULES: dict[str, dict[str, type[Rule]]] = {
    "corrected": {
        rule.name: rule
        for rule in (Untrained, Backprop, FeedbackAlignment, PredictiveCoding, SpikeTiming)
    },
    "faithful": {rule.name: rule for rule in PUBLISHED},
}
PROFILES = tuple(RULES)


def rule_class(rule: str, profile: str = "corrected") -> type[Rule]:
    """Return the class of a rule.

    Raises
    ------
    InvalidInputError
        For an unknown rule or profile.
    """
    if profile not in RULES:
        raise InvalidInputError(f"profile is {profile!r}; choose one of {', '.join(PROFILES)}")
    known = RULES[profile]
    if rule not in known:
        raise InvalidInputError(f"rule is {rule!r}; choose one of {', '.join(known)}")
    return known[rule]


def default_regime(rule: str, profile: str = "corrected") -> str:
    """Batch-norm regime of a rule where none is asked for."""
    return rule_class(rule, profile).regime


def rule_settings(rule: str, changes: Mapping[str, Any], profile: str = "corrected") -> Any:
    """Settings of a rule: its defaults, with `changes` by name.

    Parameters
    ----------
    rule : name of the rule
    changes : values by the name of the setting; those of the optimiser, such as "lr", are reached
        by their own names
    profile : "corrected" or "faithful"

    Raises
    ------
    InvalidInputError
        For an unknown rule or setting (the message lists the known ones), and a wrong value.
    """
    settings = rule_class(rule, profile).Settings()
    for name, value in changes.items():
        settings = _changed(settings, name, value, rule)
    return settings


def _changed(settings: Any, name: str, value: Any, rule: str) -> Any:
    known = [f.name for f in fields(settings)]
    if name in known and not is_dataclass(getattr(settings, name)):
        return replace(settings, **{name: _converted(getattr(settings, name), value, name)})
    nested = [n for n in known if is_dataclass(getattr(settings, n))]
    for part in nested:
        inner = getattr(settings, part)
        if name in [f.name for f in fields(inner)]:
            return replace(settings, **{part: _changed(inner, name, value, rule)})
    names = [n for n in known if n not in nested]
    names += [f.name for part in nested for f in fields(getattr(settings, part))]
    raise InvalidInputError(
        f"rule {rule!r} has no setting {name!r}; it has {', '.join(names) or 'none'}"
    )


def _converted(default: Any, value: Any, name: str) -> Any:
    """Read a value written as text as what the default is."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    words = {"none": None, "true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return int(value) if isinstance(default, int) else float(value)
    except ValueError:
        raise InvalidInputError(f"setting {name}={value!r} is no number") from None


def build_rule(
    rule: str,
    model: StackedModel,
    seeds: Sequence[int],
    settings: Any,
    epochs: int,
    profile: str = "corrected",
) -> Rule:
    """Make the rule that trains `model`; see :func:`rule_settings`."""
    return rule_class(rule, profile)(model, seeds, settings, epochs)
