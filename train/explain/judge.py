"""Maps of every method and their measures, compiled once per network and method."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from monojax import attribution
from monojax.attribution import metrics
from monojax.attribution.batches import in_batches
from monojax.base.compat import enable_x64
from monojax.splitting.shift import BALANCED
from train.explain.networks import Network

LAYERED = (
    "gradient",
    "gradient_x_input",
    "guided_backprop",
    "grad_cam",
    "grad_cam_pp",
    "layer_cam",
    "lrp_epsilon",
    "lrp_gamma",
    "lrp_zplus",
    "split_grad",
    "split_cam",
    "split_lrp",
)
RULES = {f"lrp_{rule}": rule for rule in ("epsilon", "gamma", "zplus")}
"""A method of the study for each rule of LRP."""
SPLIT = ("split_grad", "split_cam")
"""Methods with an alpha."""
CONTROLS = ("random", "centre")
"""Maps that do not look at the image: noise, and a bump in the middle."""
METHODS = (*LAYERED, "integrated_gradients", *CONTROLS)
TITLES = {
    "gradient": "Gradient",
    "gradient_x_input": "Gradient x input",
    "guided_backprop": "Guided backprop",
    "integrated_gradients": "Integrated gradients",
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "lrp_epsilon": "LRP epsilon",
    "lrp_gamma": "LRP gamma 0.25",
    "lrp_zplus": "LRP z+",
    "split_grad": "SplitGrad",
    "split_cam": "SplitCAM",
    "split_lrp": "SplitLRP (scale, wta)",
    "random": "random (control)",
    "centre": "centre (control)",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is chosen on validation images."""

    layer: str | None
    alpha: float | str | None
    """In the paper's meaning, or "balanced"."""
    absolute: bool

    def __str__(self) -> str:
        """For tables."""
        parts = ["input" if self.layer is None else self.layer]
        parts += [] if self.alpha is None else [shown(self.alpha)]
        return ", ".join(parts + (["abs"] if self.absolute else []))


def shown(alpha: float | str) -> str:
    """An alpha for tables."""
    return alpha if isinstance(alpha, str) else f"alpha {alpha:g}"


def candidates(method: str, net: Network, alphas: Sequence[float | str]) -> list[Setting]:
    """All settings of a method that are screened.

    Args:
      method: a name in `METHODS`.
      net: network.
      alphas: of the split methods.

    Returns:
      Settings: layers x alphas x absolute values or not.
    """
    if method in CONTROLS:
        return [Setting(None, None, False)]
    layers = net.layers if method in LAYERED else (None,)
    if "cam" in method:
        layers = tuple(layer for layer in layers if layer is not None)
    rates = alphas if method in SPLIT else (None,)
    # The CAMs are rectified: no negative values.
    signs = (False,) if method in ("grad_cam", "grad_cam_pp", "layer_cam") else (False, True)
    return [Setting(layer, a, s) for a in rates for layer in layers for s in signs]


def precision(method: str) -> Any:
    """The context a method's programs run in: SplitLRP needs float64."""
    return enable_x64() if method == "split_lrp" else contextlib.nullcontext()


def in_precision(method: str, tree: Any) -> Any:
    """Floating arrays in the method's dtype; call it inside `precision`."""
    dtype = jnp.float64 if method == "split_lrp" else jnp.float32
    cast = lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
    return jax.tree.map(cast, tree)


def maps(
    method: str, net: Network, layers: Sequence[str | None], x: Any, v: Any, target: Any, alpha: Any
) -> jax.Array:
    """Maps of a method at layers, resized to the image: `[layers, size, size]`, scaled to max 1."""
    size = x.shape[:2]
    if method == "centre":
        axis = jnp.linspace(-1.0, 1.0, size[0])
        found = [jnp.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 0.5)]
    elif method == "random":  # depends on the image, so that it is noise for max-sensitivity too
        bits = jax.lax.bitcast_convert_type(x.sum(), jnp.uint32)
        found = [jax.random.uniform(jax.random.key(bits), (14, 14))]
    elif method == "integrated_gradients":
        ig = functools.partial(attribution.integrated_gradients, steps=10)
        found = [ig(net.fn, x, target, args=(v,))]
    else:
        options = {"alpha": alpha} if method in SPLIT else {}
        options |= {"rule": RULES[method]} if method in RULES else {}
        name = "lrp" if method in RULES else method
        found = attribution.at_layers(net.fn, x, target, name, layers, args=(v,), **options)
    sized = [attribution.resize(a, size) for a in found]
    return jnp.stack([a / jnp.where(jnp.abs(a).max() == 0, 1, jnp.abs(a).max()) for a in sized])


def signed(found: jax.Array, absolute: Any) -> jax.Array:
    """Absolute values if asked for, by a value that may be traced."""
    return jnp.where(absolute, jnp.abs(found), found)


class Judge:
    """Compiled programs of one network.

    Args:
      net: network.
      pixel_steps: steps of pixel flipping.
      pixels_in_step: pixels per step, all channels at once.
      patches_in_step: of selectivity, patches of 8 x 8.
      batch: perturbed or noisy images at once.
      screen_steps: steps of pixel flipping when many settings are screened; as many pixels go.
    """

    def __init__(
        self,
        net: Network,
        pixel_steps: int,
        pixels_in_step: int,
        patches_in_step: int,
        batch: int,
        screen_steps: int,
    ):
        """See the class."""
        self.net, self.batch, self.screen_steps = net, batch, screen_steps
        self._removal = pixel_steps, pixels_in_step, patches_in_step
        self._programs: dict[Any, Any] = {}
        self._casts: dict[bool, Any] = {}

    def program(self, kind: str, *static: Any) -> Any:
        """The jitted program of that kind; compiled at its first call."""
        if (kind, static) not in self._programs:
            fn = functools.partial(getattr(self, f"_{kind}"), *static)
            self._programs[kind, static] = jax.jit(fn)
        return self._programs[kind, static]

    def of(self, net: Network) -> "Judge":
        """A judge of a network that differs in its weights only: nothing is compiled again.

        Args:
          net: of the same function.

        Returns:
          Judge.
        """
        other = copy.copy(self)
        other.net, other._casts = net, {}
        return other

    def _explain(self, method, layers, balanced, v, x, target, alpha, key, samples):
        """Maps at the layers, and how much noise changes each, by sign."""
        alpha = BALANCED if balanced else alpha
        explain = lambda x: maps(method, self.net, layers, x, v, target, alpha)
        here = explain(x)
        both = lambda a: jnp.stack([a, jnp.abs(a)], 1)  # [layers, 2, h, w]

        def change(key):
            noise = jax.random.uniform(key, x.shape, x.dtype, -0.2, 0.2)
            gap = both(explain(x + noise)) - both(here)
            return jnp.sqrt((gap**2).sum((2, 3)))

        norm = jnp.sqrt((here**2).sum((1, 2)))[:, None]
        keys = jax.random.split(key, samples.shape[0])
        changes = in_batches(change, keys, self.batch)
        return here, changes.max(0) / jnp.where(norm == 0, 1, norm)

    def explained(
        self, method: str, layers: Sequence[str | None], x: Any, target: int, alpha: Any, key: Any,
        samples: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Maps and their max-sensitivity.

        Args:
          method: a name in `METHODS`.
          layers: where.
          x: input.
          target: class.
          alpha: of split methods, a number or "balanced"; else None.
          key: of the noise, uniform in [-0.2, 0.2].
          samples: number of noisy inputs.

        Returns:
          ``(maps [layers, h, w], sensitivity [layers, 2])``, without and with absolute values.
        """
        with precision(method):
            v, x = self._weights(method), in_precision(method, jnp.asarray(np.asarray(x)))
            balanced = alpha == BALANCED
            number = 0.5 if alpha is None or balanced else alpha
            found = self.program("explain", method, tuple(layers), balanced)(
                v, x, target, number, key, jnp.zeros(samples)
            )
            return tuple(np.asarray(a, np.float32) for a in found)  # type: ignore[return-value]

    def _weights(self, method: str) -> Any:
        double = method == "split_lrp"
        if double not in self._casts:
            host = jax.tree.map(np.asarray, self.net.variables)
            self._casts[double] = jax.tree.map(jnp.asarray, in_precision(method, host))
        return self._casts[double]

    def _removed(self, x, v, target, found):
        """Scores as pixels, and patches, are removed."""
        pixel_steps, pixels_in_step, patches_in_step = self._removal
        curve = functools.partial(metrics.selectivity, batch_size=self.batch, args=(v,))
        patches = curve(self.net.fn, x, target, found, patches_in_step=patches_in_step)
        flip = functools.partial(metrics.pixel_flipping, batch_size=self.batch, args=(v,))
        channels = x.shape[-1]
        spread = jnp.broadcast_to(found[..., None], x.shape)
        pixels = flip(
            self.net.fn, x, target, spread, features_in_step=pixels_in_step * channels,
            steps=pixel_steps,
        )  # fmt: skip
        return patches.auc, pixels.auc, patches.scores, pixels.scores

    def removed(self, x: Any, target: int, found: Any) -> tuple[np.ndarray, ...]:
        """Selectivity and pixel flipping of one map.

        Args:
          x: input.
          target: class.
          found: map `[h, w]`.

        Returns:
          ``(selectivity, flipping, curve of selectivity, curve of flipping)``.
        """
        out = self.program("removed")(jnp.asarray(x), self.net.variables, target, found)
        return tuple(np.asarray(a) for a in out)

    def _flipped(self, x, v, target, found):
        pixels = self._removal[0] * self._removal[1] // self.screen_steps
        spread = lambda a: jnp.broadcast_to(a[..., None], x.shape)
        flip = lambda a: metrics.pixel_flipping(
            self.net.fn, x, target, spread(a), args=(v,), batch_size=self.batch,
            features_in_step=pixels * x.shape[-1], steps=self.screen_steps,
        ).auc  # fmt: skip
        return jax.lax.map(flip, found)

    def flipped(self, x: Any, target: int, found: np.ndarray) -> np.ndarray:
        """Pixel flipping of several maps, in ``screen_steps`` steps.

        Args:
          x: input.
          target: class.
          found: maps `[n, h, w]`.

        Returns:
          Areas `[n]`.
        """
        out = self.program("flipped")(jnp.asarray(x), self.net.variables, target, found)
        return np.asarray(out)


@jax.jit
def _located(found, mask):
    share = jax.vmap(metrics.attribution_localisation, (0, None))(found, mask)
    return jax.vmap(metrics.pointing_game, (0, None))(found, mask), share


def located(found: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pointing game and localisation of maps.

    Args:
      found: maps `[n, h, w]`.
      mask: `[h, w]`.

    Returns:
      ``(pointing [n], localisation [n])``.
    """
    pointing, share = _located(found, mask)
    return np.asarray(pointing), np.asarray(share)
