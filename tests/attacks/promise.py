"""A promise of the library, and how it is attacked."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What one round of attack saw."""

    tried: int
    """Pairs of parameters and inputs tried."""
    worst: float
    """Largest ratio of what was seen to what is promised; above 1 the promise is broken."""
    where: str = ""
    """How to see the worst case again: seed, widths, scale."""


@dataclasses.dataclass(frozen=True)
class Promise:
    """One promise in one dtype."""

    name: str
    """What is promised, in a few words."""
    dtype: str
    attack: Callable[[np.random.Generator], Attempt]
    """One round, a few seconds long; draws its own parameters, widths, scales and inputs."""
    rounding: str = "none"
    """What is promised up to rounding: the allowance that ``worst`` already has inside."""
