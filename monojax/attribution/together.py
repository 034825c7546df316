"""All methods on one image, side by side: the short way for a person with a picture."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax.attribution.common import last_spatial
from monojax.attribution.methods import METHODS, at_layers, integrated_gradients
from monojax.base.checks import cast_finite, check_function, is_concrete, one_of
from monojax.base.compat import enable_x64
from monojax.splitting.modes import Mode
from monojax.splitting.reading import check_target, prepare
from monojax.splitting.shift import ALPHA, check_alpha
from monojax.splitting.sites import INPUT, find_site

RULES = {f"lrp_{rule}": rule for rule in ("epsilon", "gamma", "zplus")}
ALL = (*(name for name in METHODS if name not in ("lrp", "split_lrp")), *RULES, "split_lrp")
"""Names of maps: the methods', and one for each rule of `lrp`."""
WITH_ALPHA = ("split_grad", "split_cam")
WIDE = ("split_lrp",)
"""Computed in float64, whatever the image is: the streams of float32 cancel."""
STEPS = 32
"""Of integrated gradients, along the line from an image of zeros."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Maps of several methods for one prediction, as :func:`explain` returns them.

    Args:
      maps: method to float32 `[h, w]` at its layer's own size; `resize` brings it to the image's.
      layers: method to where its map was taken: "input", or a module's path.
      target: the class that is explained.
      logits: `[c]`, what fn gives.
      left_out: methods of "all" that fn does not allow, and why.
    """

    maps: Mapping[str, np.ndarray]
    layers: Mapping[str, str]
    target: int
    logits: np.ndarray
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


def explain(
    fn: Callable[..., Any],
    image: Any,
    target: int | None = None,
    *,
    methods: str | Sequence[str] = "all",
    layer: Any = None,
    alpha: float | str = ALPHA,
    channel_axis: Any = None,
) -> Explanation:
    """Maps of all methods for one image, from one compiled program.

    Args:
      fn: maps ONE image to logits `[c]`; for a linen classifier
        ``lambda x: model.apply(variables, x[None])[0]``.
      image: floats, prepared as the network wants them, `[h, w, c]` or another shape fn takes.
      target: the class to explain; None takes the one with the largest logit.
      methods: "all", or names: those of this room's functions, and "lrp_epsilon", "lrp_gamma",
        "lrp_zplus" for the rules of `lrp`. "split_lrp" is computed in float64.
      layer: where the maps are taken, as the methods' own functions have it; None means the input,
        for CAMs the last convolution over positions. Integrated gradients are always of the input.
      alpha: of `split_grad` and `split_cam`, in the paper's meaning; or "balanced".
      channel_axis: as in the methods' own functions.

    Returns:
      Explanation. Of "all", methods that fn does not allow (CAMs without a convolution) are left
      out and named, with the reason; a method asked for by name raises.

    Raises:
      ValueError: on an image of NaN or of integers, a target out of range, another method, or what
        the methods themselves refuse.
      TypeError: if fn is no function.

    Example:
      >>> found = explain(lambda x: jnp.stack([x.sum(), -x.sum()]), jnp.ones((2, 2)),
      ...                 methods=["gradient"])
      >>> found.target, found.maps["gradient"].tolist()
      (0, [[1.0, 1.0], [1.0, 1.0]])
    """
    check_function(fn, "fn", "mj.attribution.explain(fn, image)")
    explainer = Explainer(lambda x: fn(x), methods=methods, layer=layer, channel_axis=channel_axis)
    return explainer(image, target, alpha=alpha)


class Explainer:
    """`explain` for many images of one shape: one compilation.

    Args:
      fn: ``fn(image, *args)``, logits of ONE image.
      args: further arguments of fn, such as weights.
      methods: as in :func:`explain`.
      layer: as in :func:`explain`.
      channel_axis: as in :func:`explain`.

    Raises:
      ValueError: on another method.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        *,
        methods: str | Sequence[str] = "all",
        layer: Any = None,
        channel_axis: Any = None,
    ):
        """See the class."""
        self.fn, self.args = fn, args
        self.layer, self.channel_axis = layer, channel_axis
        self.strict = methods != "all"
        chosen = ALL if methods == "all" else [methods] if isinstance(methods, str) else methods
        self.methods = tuple(dict.fromkeys(one_of(name, ALL, "methods") for name in chosen))
        self.left_out: dict[str, str] = {}
        self._logits = jax.jit(fn)
        self._maps = jax.jit(self._traced, static_argnums=(0, 4))
        self._wide_args: Any = None
        self._places: dict[str, str] = {}

    def __call__(
        self, image: Any, target: int | None = None, *, alpha: float | str = ALPHA
    ) -> Explanation:
        """Maps of one image.

        Args:
          image: floats.
          target: class, None for the largest logit.
          alpha: of the split's methods.

        Returns:
          Explanation.

        Raises:
          ValueError: as :func:`explain`.
        """
        image, alpha = _checked(image), check_alpha(alpha, "module")
        logits = np.asarray(self._logits(image, *self.args))
        scalar = logits.ndim == 0
        logits = logits.reshape(1) if scalar else logits
        if logits.ndim != 1:
            raise ValueError(
                f"fn must give logits [c] of ONE image, got shape {logits.shape}; write "
                "lambda x: model.apply(variables, x[None])[0]."
            )
        if target is None:
            if not np.isfinite(logits).all():
                raise ValueError("fn gives NaN or infinite logits for this image.")
            target = int(logits.argmax())
        check_target(target, None if scalar else len(logits))
        wanted = None if scalar else int(target)
        narrow = tuple(name for name in self.methods if name not in WIDE)
        found = dict(self._run(narrow, image, self.args, wanted, alpha))
        for name in self.methods:
            if name in WIDE:
                found |= self._wide(name, image, wanted, alpha)
        maps = {name: np.asarray(found[name], np.float32) for name in self.methods if name in found}
        layers = {name: self._place(name, image) for name in maps}
        return Explanation(maps, layers, int(target), logits, dict(self.left_out))

    def _run(self, names, image, args, target, alpha):
        # A text cannot be traced; a number can, so that a sweep compiles once.
        word = alpha if isinstance(alpha, str) else ""
        return self._maps(names, image, args, target, word, 0.0 if word else alpha)

    def _traced(self, names, image, args, target, word, number):
        found = {}
        for name in names:
            try:
                found[name] = self._one(name, image, args, target, word or number)
            except (ValueError, TypeError, NotImplementedError) as error:
                if self.strict:
                    raise
                self.left_out[name] = str(error)
        return found

    def _one(self, name, image, args, target, alpha):
        shared = {"args": args, "channel_axis": self.channel_axis}
        if name == "integrated_gradients":
            return integrated_gradients(self.fn, image, target, steps=STEPS, **shared)
        options = {"alpha": alpha} if name in WITH_ALPHA else {}
        options |= {"rule": RULES[name]} if name in RULES else {}
        method = "lrp" if name in RULES else name
        return at_layers(self.fn, image, target, method, [self.layer], **shared, **options)[0]

    def _wide(self, name, image, target, alpha):
        """A map in float64: the image and the weights that came as arguments are widened."""
        with enable_x64():
            if self._wide_args is None:
                self._wide_args = jax.tree.map(_widened, self.args)
            return self._run((name,), _widened(image), self._wide_args, target, alpha)

    def _place(self, name, image) -> str:
        """Where a method's map was taken, in words."""
        spatial = name in METHODS and METHODS[name].spatial and self.layer is None
        key = "spatial" if spatial else "input" if name == "integrated_gradients" else "asked"
        if key not in self._places:
            self._places[key] = self._found(key, image)
        return self._places[key]

    def _found(self, key, image) -> str:
        if key == "input" or (key == "asked" and self.layer is None):
            return "input"
        ready = prepare(self.fn, image, self.args, Mode(), None)
        asked = lambda: find_site(ready.sites, self.layer)[0]
        index = last_spatial(ready) if key == "spatial" else asked()
        return "input" if index == INPUT else ready.sites[index].path or str(index)


def _checked(image: Any) -> jax.Array:
    image = image if isinstance(image, jax.Array) else np.asarray(image)
    if not jnp.issubdtype(image.dtype, jnp.floating) or image.size == 0:
        raise ValueError(
            f"image must be floats, prepared as the network wants them, got {image.dtype} of shape "
            f"{image.shape}; for pixels 0 to 255 of your own network divide by 255."
        )
    if is_concrete(image):
        cast_finite(image, image.dtype, "image")
    return jnp.asarray(image)


def _widened(leaf: Any) -> Any:
    """Floating arrays in float64."""
    leaf = np.asarray(leaf)
    return jnp.asarray(leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, np.floating) else leaf)
