"""How well a colour can be read on another."""

from matplotlib.colors import to_rgb


def contrast(one: object, other: object) -> float:
    """The contrast of two colours as WCAG 2.1 defines it, from 1 to 21; text needs 4.5."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: object) -> float:
    return sum(weight * _linear(part) for weight, part in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True))


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
