"""What a certificate says, and how it is kept and checked later."""

import dataclasses
import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.base import compat
from monojax.base.compat import enable_x64
from monojax.base.jaxprs import evaluate
from monojax.certify.program import CertifyError, function_hash, gradient_program
from monojax.certify.search import Search, checked, posed

STATUS = ("proved", "refuted", "unknown")
STAGES = ("construction", "attack", "bound", "search")
FORMAT = "monojax certificate 1"
POINTS, ROUNDING = 512, 1e-9
"""Points at which a construction is looked at, and what of its largest slope is rounding there."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a function is monotone on a box, as far as it was found out.

    "proved" speaks of the function with exactly its constants in exact arithmetic, at every point
    of the box; what a program computes for it in floating point can still go the wrong way by its
    rounding. Where `jnp.where` joins two cases, they were seen to agree within 2e-12 of their size,
    no better: a jump below that is not seen.
    """

    status: str
    """"proved", "refuted" or "unknown"."""
    stage: str
    """What decided: "attack" (a counterexample), "bound" (the whole box at once), "search", or
    "construction": the form of the network is the proof (up to rounding), nothing was searched."""
    counterexample: np.ndarray | None
    """float64 `[d]`: a point where a slope surely has the wrong sign; None unless refuted."""
    bounds: np.ndarray
    """float64 `[d, 2]`: the raw derivatives by each input lie between these over the whole box;
    with one-hot groups, at the groups' corners only."""
    volume_proved: float
    """Share of the box's volume on which the directions are proved, in [0, 1]."""
    boxes: int
    """How many boxes were bounded."""
    seconds: float
    """Time that it took."""
    directions: np.ndarray
    """int `[d]`: what was asked for, +1 rising, -1 falling, 0 free."""
    low: np.ndarray
    """float64 `[d]`: lower ends of the box."""
    high: np.ndarray
    """float64 `[d]`: upper ends of the box."""
    onehot: tuple[tuple[int, ...], ...]
    """Groups of inputs of which one is 1 and the others are 0."""
    program: str
    """SHA-256 of the equations and constants of the function and of its derivative; of the stage
    "construction", of the function alone."""
    options: dict[str, Any]
    """Budget, bound and key, to compute it again."""
    jax_version: str
    """The version of jax that traced it; the hash depends on it."""

    def __bool__(self) -> bool:
        """Not a truth value: "unknown" is neither."""
        raise TypeError(
            "a Certificate has no truth value; compare certificate.status with 'proved', "
            "'refuted' or 'unknown'."
        )

    def __str__(self) -> str:
        """One line."""
        word = {"proved": "certified", "refuted": "refuted", "unknown": "unknown"}[self.status]
        text = f"monotone: {word} ({self.stage}, {self.boxes} boxes, {self.seconds:.1f} s"
        if self.status == "unknown":
            text += f", {min(100 * self.volume_proved, 99.9):.1f}% of the volume proved"
        return text + ")"

    def to_json(self) -> str:
        """The certificate as text, with the hash of what it speaks of."""
        fields = dataclasses.asdict(self)
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        plain["format"], plain["monojax"] = FORMAT, metadata.version("monojax")
        return json.dumps(plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Reads what :meth:`to_json` wrote.

        Args:
          text: JSON.

        Returns:
          Certificate.

        Raises:
          ValueError: if the text is no certificate.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            data.pop("monojax")
            arrays = {"bounds": float, "directions": np.int32, "low": float, "high": float}
            data |= {k: np.asarray(data[k], dtype) for k, dtype in arrays.items()}
            if data["counterexample"] is not None:
                data["counterexample"] = np.asarray(data["counterexample"], float)
            data["onehot"] = tuple(tuple(group) for group in data["onehot"])
            made = cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this text is no certificate of monojax ({error}).") from error
        if made.status not in STATUS or made.stage not in STAGES:
            raise ValueError(f"this text is no certificate: status {made.status!r}.")
        return made

    def verify(self, fn: Callable[[jax.Array], jax.Array]) -> bool:
        """Computes the certificate again for ``fn``.

        Args:
          fn: map of ONE example; the certified function or what is held to be it.

        Returns:
          True if its derivative has the same equations and constants, everything that was found
          follows again, and a counterexample lies in the box and violates. Another version of jax
          may write the same function in other equations: then it is False, and has to be certified
          anew. Of the stage "construction" the function's own equations and constants are compared;
          beyond them, slopes are looked at, at random points, where ``fn`` has a bound.
        """
        if self.stage == "construction":
            return self._constructed(fn)
        options = self.options
        try:
            impl, data = options["key"]
            key = jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32), impl=impl)
            asked = options["budget"], options["bound"], self.onehot
            task = checked(fn, self.low, self.high, self.directions, *asked)
            question = posed(fn, task.low.size)
            if question.digest != self.program:
                return False
            with enable_x64():
                search = Search(task, question.program, key)
                again = search.run()
                if self.status == "refuted" and not search.violates(self.counterexample):
                    return False
        except (KeyError, TypeError, ValueError):  # CertifyError is a ValueError
            return False
        same = all(getattr(self, name) == again[name] for name in ("status", "stage", "boxes"))
        return (
            same
            and self.bounds.shape == again["bounds"].shape
            and np.allclose(self.bounds, again["bounds"], rtol=1e-9, atol=1e-12)
            and bool(np.isclose(self.volume_proved, again["volume_proved"], rtol=1e-9, atol=0.0))
        )

    def _constructed(self, fn: Callable[[jax.Array], jax.Array]) -> bool:
        """Whether the function is the one that was named, and no point is seen to refute it."""
        if self.status != "proved" or function_hash(fn, self.low.size) != self.program:
            return False
        rng = np.random.default_rng(0)
        points = self.low + rng.random((POINTS, self.low.size)) * (self.high - self.low)
        for group in map(list, self.onehot):
            points[:, group] = np.eye(len(group))[rng.integers(len(group), size=POINTS)]
        with enable_x64():
            try:
                program = gradient_program(fn, jax.ShapeDtypeStruct(self.low.shape, jnp.float64))
            except CertifyError:  # it holds a solver, for example
                return True
            one = lambda x: evaluate(program, [x], lambda eqn, args: compat.bind(eqn, *args))[0]
            slopes = np.asarray(jax.jit(jax.vmap(one))(points))
        return bool((slopes * self.directions >= -ROUNDING * np.abs(slopes).max()).all())
