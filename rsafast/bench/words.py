"""Figures as people read them."""


def times(ratio: float) -> str:
    """A ratio in at most three digits, or whole: 0.11×, 12.9×, 5,380×."""
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def si(value: float, unit: str = "") -> str:
    """A number in at most three digits with a prefix: 92, 1.85 k, 258 kB."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds in at most three digits: 47.2 µs, 10.3 ms, 301 s."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
