"""The one exception that users see, and the validation of numbers."""

import math


class NldiffError(ValueError):
    """A problem in the user's terms: one line that names the file, option or value and the reason.

    The command line prints the message and exits with a non-zero status; the library raises it.
    """


def require(
    settings: object,
    group: str,
    names: tuple[str, ...],
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Validate numbers, or tuples of numbers, among the attributes of `settings`.

    Args:
        settings: holds the numbers.
        group: what messages put before the name, without the dot; "" for nothing.
        names: of the attributes.
        least: smallest allowed number.
        above: numbers must be greater.
        below: numbers must be smaller.

    Raises:
        NldiffError: one is not a finite number in this range.
    """
    bounds = {"of at least": least, "above": above, "below": below}
    wanted = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound))
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if not (math.isfinite(number) and least <= number < below and number > above):
                raise NldiffError(f"{group}{'.' if group else ''}{name}={value}: a number {wanted} expected")
