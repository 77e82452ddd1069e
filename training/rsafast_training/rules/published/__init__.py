"""The learning rules as published (arXiv 2604.16875, 2605.30556), for ``profile="faithful"``.

Written from a description of what that code does, not from the code. Each departure from what a
rule is meant to do is a setting, by default as published; turned off, it is put right. See
docs/training/published.md for the list with the effects.
"""

from rsafast_training.rules.published.backprop import PublishedBackprop, PublishedUntrained
from rsafast_training.rules.published.feedback import PublishedFeedback
from rsafast_training.rules.published.predictive import PublishedPredictive
from rsafast_training.rules.published.stdp import PublishedStdp

PUBLISHED = (
    PublishedUntrained, PublishedBackprop, PublishedFeedback, PublishedPredictive, PublishedStdp,
)  # fmt: skip

__all__ = [
    "PUBLISHED",
    "PublishedBackprop",
    "PublishedFeedback",
    "PublishedPredictive",
    "PublishedStdp",
    "PublishedUntrained",
]
