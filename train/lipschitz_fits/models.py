"""The networks of the Lipschitz fits: seven baselines and bi-Lipschitz networks, at their sizes.

Every model is a map of one variable whose constant is an argument, so that one compiled program
serves all constants. Sizes are those that give the published parameter counts (the paper states
about 4.3K).

Reference:
  Kinoshita and Toyoizumi, NeurIPS 2024, arXiv 2404.09821, appendix; widths from the authors' code.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from monojax.bilipschitz.dense import BLNN
from monojax.conjugate.activations import softplus
from monojax.conjugate.icnn import WEIGHT_MAPS
from monojax.conjugate.legendre import conjugate
from monojax.conjugate.potentials import ScaledICNN
from monojax.conjugate.solvers import Solver
from monojax.layers.bilipnet import MonLipDense
from monojax.layers.convex import ICNN, INITIALISERS, project_convex
from monojax.layers.lipschitz import LipschitzMLP
from monojax.layers.lmn import LMN
from train.checks import above, choice, near, one_of

WIDE = (45, 45, 45, 1)
BASELINES: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "sn": ("SN", lambda bound: LipschitzMLP(WIDE, bound, "spectral")),
    "aol": ("AOL", lambda bound: LipschitzMLP(WIDE, bound, "aol")),
    "orthogonal": ("Orthogonal", lambda bound: LipschitzMLP(WIDE, bound, "cayley")),
    "sll": ("SLL", lambda bound: LipschitzMLP((45, 45, 1), bound, "sll")),
    "sandwich": ("Sandwich", lambda bound: LipschitzMLP((65, 1), bound, "sandwich")),
    "lmn": ("LMN", lambda bound: LMN((64, 64, 1), bound / 2, (1,))),
    "bilipnet": ("BiLipNet", lambda bound: MonLipDense((40, 40), 0.0, bound)),
}
"""Name to title and network; slopes of size at most L, for LMN and BiLipNet in [0, L]."""

SMOOTH = {
    "title": "BLNN smooth",
    "features": (64, 64),
    "sharpness": 30.0,
    "sharpness_end": 30.0,
    "anneal": 0.8,
    "weight_map": "clamp",
    "z_init": "glorot_normal",
    "y_scale": 1.0,
    "lr_scale": 1.0,
    "b2": 0.999,
    "learn_sharpness": False,
    "loss": "squared",
}
"""Options of a smooth BLNN and what they are if not given; see :func:`smooth`."""

LOSSES = ("squared", "fenchel_young")


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """A network that is L-Lipschitz for every value of its parameters.

    Args:
      name: key in results.
      title: in tables and pictures.
      make: L, which may be traced, to the module.
      lr_scale: factor on the learning rate.
      dual: False.
      chunk: runs side by side in one program.
    """

    name: str
    title: str
    make: Callable[[Any], nn.Module]
    lr_scale: float = 1.0
    dual: bool = False
    # Several batched solves side by side wait for each other for ever in XLA's CPU runtime on
    # two cores (jaxlib 0.10); one run at a time makes them unbatched.
    chunk: int | None = 1
    b2: float = 0.999

    def init(self, key: jax.Array) -> Any:
        """Variables, for one input; biases as in the published runs.

        Layers in monojax start with zero biases. The published ones have their framework's,
        uniform on +-1/sqrt(rows of the kernel): without it every kink starts at x = 0, where
        the jump is. BiLipNet's are 0 there, too.
        """
        key_net, key_bias = jax.random.split(key)
        variables = self.make(1.0).init(key_net, jnp.zeros((1, 1)))
        return variables if self.name == "bilipnet" else _uniform_biases(variables, key_bias)

    def __call__(self, variables: Any, x: jax.Array, lower: Any, upper: Any, progress: Any = 1.0):
        """f(x) `[..., 1]`; ``lower`` and ``progress`` are not used."""
        del lower, progress
        return self.make(upper).apply(variables, x)

    def losses(self, variables, x, y, lower, upper, progress=1.0) -> tuple[jax.Array, jax.Array]:
        """What is minimised and the mean squared error, here the same, `[]` each."""
        error = jnp.mean(jnp.square(self(variables, x, lower, upper, progress) - y))
        return error, error

    def project(self, variables: Any) -> Any:
        """The variables themselves: every value is admissible."""
        return variables


@dataclasses.dataclass(frozen=True, eq=False)
class Dual:
    r"""A bi-Lipschitz network with slopes in [lower, upper], by a convex conjugate.

    With the core's activation :math:`g_\tau(t) = g_1(\tau t)/\tau` the network of sharpness
    :math:`\tau` is one of sharpness 1: scale the input weights and biases of the core and x by
    :math:`\tau`, alpha and beta by :math:`1/\tau`. So the sharpness can move during training
    without compiling again.

    Args:
      name: key in results.
      title: in tables and pictures.
      net: the network that is trained, of sharpness 1 (or ReLU, which is every sharpness).
      judge: the inner loop when it is measured.
      sharpness: tau at the start.
      sharpness_end: tau at the end.
      anneal: share of the training after which the end is reached, geometrically.
      y_scale: factor on the initial input weights and biases of the core.
      lr_scale: factor on the learning rate.
      b2: decay of Adam's second moments.
      loss: one of `LOSSES`.
      dual: True.
      chunk: runs side by side in one program; None is all.
    """

    name: str
    title: str
    net: BLNN
    judge: Solver
    sharpness: float = 1.0
    sharpness_end: float = 1.0
    anneal: float = 1.0
    y_scale: float = 1.0
    lr_scale: float = 1.0
    b2: float = 0.999
    loss: str = "squared"
    dual: bool = True
    chunk: int | None = None

    @property
    def kinked(self) -> bool:
        """Whether the core is piecewise linear, so that f' is alpha or alpha + beta."""
        return self.core.activation.piecewise_linear

    def project(self, variables: Any) -> Any:
        """The variables after an optimiser step, made admissible if the weight map needs it."""
        return project_convex(variables) if self.net.weight_map == "projected" else variables

    @property
    def core(self) -> Any:
        """The core as a function of its parameters, see `monojax.conjugate.icnn.ICNN`."""
        net = self.net
        return ICNN(net.features, net.activation, net.weight_map, net.z_init).maths

    def tau(self, progress: Any) -> jax.Array:
        """Sharpness `[]` at a share ``progress`` of the training."""
        share = jnp.minimum(progress / self.anneal, 1.0)
        return self.sharpness * (self.sharpness_end / self.sharpness) ** share

    def init(self, key: jax.Array) -> Any:
        """Variables, for one input."""
        return _scale_inputs(self.net.init(key, jnp.zeros((1, 1))), self.y_scale)

    def __call__(self, variables: Any, x: jax.Array, lower: Any, upper: Any, progress: Any = 1.0):
        """f(x) `[n, 1]`, by the solver of training."""
        tau = jnp.asarray(self.tau(progress), x.dtype)
        low, beta = (jnp.asarray(v, x.dtype) for v in (lower, upper - lower))
        scaled = _scale_inputs(variables, tau)
        return self.net.apply(scaled, tau * x, alpha=low / tau, beta=beta / tau)

    def _problem(self, variables: Any, lower: Any, upper: Any, progress: Any, dtype: Any):
        """Sharpness tau with the learned one in it, and the parameters of tau G."""
        learned = variables["params"].get("log_sharpness", jnp.zeros(()))
        tau = jnp.asarray(self.tau(progress) * jnp.exp(learned), dtype)
        core = _scale_inputs(variables, tau)["params"]["core"]
        curvature = tau / jnp.asarray(upper - lower, dtype)
        return tau, {"core": core, "weight": jnp.ones((), dtype), "curvature": curvature}

    def losses(self, variables, x, y, lower, upper, progress=1.0) -> tuple[jax.Array, jax.Array]:
        """What is minimised and the mean squared error, `[]` each.

        The Fenchel-Young loss is that of `BLNN.fenchel_young`; written here so that one inner
        solve gives both numbers.
        """
        if self.loss == "squared":
            error = jnp.mean(jnp.square(self(variables, x, lower, upper, progress) - y))
            return error, error
        tau, params = self._problem(variables, lower, upper, progress, x.dtype)
        potential, t = ScaledICNN(self.core), y - lower * x
        found = jax.vmap(lambda x: conjugate(potential, params, x))(tau * x)
        at_target = jax.vmap(lambda t: potential(params, t))(t)
        loss = at_target + found.value - tau * jnp.sum(x * t, axis=-1)
        return loss.mean() / tau, jnp.mean(jnp.square(jax.lax.stop_gradient(found.argmax) - t))

    def judged(self, variables: Any, x: jax.Array, lower: Any, upper: Any):
        """f(x) `[n, 1]` of the trained network and whether the inner solve converged `[n]`."""
        tau, params = self._problem(variables, lower, upper, 1.0, x.dtype)
        solve = lambda x: conjugate(ScaledICNN(self.core), params, x, self.judge)
        found = jax.vmap(solve)(tau * x)
        return lower * x + found.argmax, found.converged

    def slopes_of_core(self, variables: Any, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """F'(y) and F''(y) of the trained core at points `[n]`, each `[n]`."""
        tau, problem = self._problem(variables, 0.0, 1.0, 1.0, y.dtype)
        params = problem["core"]
        first = jax.vmap(lambda y: jax.grad(self.core.value, 1)(params, y[None])[0])(y)
        second = jax.vmap(lambda y: self.core.hessian(params, y[None])[0, 0])(y)
        return first / tau, second / tau

    def core_lipschitz(self, variables: Any) -> jax.Array:
        """Certified bound on \\|F'\\| `[]`."""
        tau, problem = self._problem(variables, 0.0, 1.0, 1.0, jnp.zeros(0).dtype)
        return self.core.product_bound(problem["core"])[0] / tau


def _scale_inputs(variables: Any, factor: Any) -> Any:
    """Input weights and biases of the core times ``factor``; weights between units stay."""

    def scale(path, leaf):
        name = str(path[-1].key)
        return leaf * factor if name.startswith(("y_kernel", "bias")) else leaf

    return jax.tree_util.tree_map_with_path(scale, variables)


def _uniform_biases(tree: Any, key: jax.Array) -> Any:
    """Draws every "bias" beside a "kernel" uniformly from +-1/sqrt(rows of the kernel)."""
    if not isinstance(tree, Mapping):
        return tree
    out = {}
    for i, (name, value) in enumerate(sorted(tree.items())):
        own = jax.random.fold_in(key, i)
        if name == "bias" and "kernel" in tree:
            edge = tree["kernel"].shape[0] ** -0.5
            value = jax.random.uniform(own, value.shape, value.dtype, -edge, edge)
        out[name] = _uniform_biases(value, own)
    return out


def build(name: str, config: Any) -> Baseline | Dual:
    """The model of that name; the same object for the same options, so programs are reused.

    Args:
      name: a key of `BASELINES`; "blnn", the published form (ReLU, unrolled gradient descent);
        or a key of ``config.smooth``, a smooth BLNN.
      config: its ``smooth`` (name to options), ``descent_steps`` and ``judge_steps``.

    Returns:
      Baseline or Dual.

    Raises:
      ValueError: on an unknown name or bad options.
    """
    if name in BASELINES:
        return _baseline(name)
    if name == "blnn":
        return parity(int(config.descent_steps), int(config.judge_steps))
    if name not in config.smooth:
        known = [*BASELINES, "blnn", *config.smooth]
        raise ValueError(f"unknown model {name!r}; {near(name, known)}")
    options = config.smooth[name]
    options = options.to_dict() if hasattr(options, "to_dict") else dict(options)
    return smooth(name, options)


def options(name: str, config: Any) -> Any:
    """What decides the model of that name, as JSON-able data.

    Args:
      name: as for :func:`build`.
      config: likewise.

    Returns:
      The name; with the inner steps of "blnn"; with the options of a smooth one, title aside.
    """
    if name == "blnn":
        return [name, config.descent_steps, config.judge_steps]
    given = dict(config.smooth[name]) if name in config.smooth else {}
    return [name, {**SMOOTH, **given, "title": ""} if given else {}]


@functools.cache
def _baseline(name: str) -> Baseline:
    return Baseline(name, *BASELINES[name])


@functools.cache
def parity(steps: int, judge_steps: int) -> Dual:
    """The network as published: ReLU core, gradient descent, back through all of its steps.

    Args:
      steps: inner steps in training.
      judge_steps: inner steps when it is measured.

    Returns:
      Dual.
    """
    loop = lambda count: Solver("gradient", max_steps=count, differentiation="unrolled")
    net, judge = BLNN((64, 64), 1.0, 1.0, "relu", loop(steps)), loop(judge_steps)
    return Dual("blnn", "BLNN (ReLU)", net, judge)


def smooth(name: str, options: Mapping[str, Any]) -> Dual:
    """A smooth BLNN, trained by the implicit rule or by the Fenchel-Young loss.

    Args:
      name: key in results.
      options: any of `SMOOTH`: title; features, the core's hidden widths; sharpness and
        sharpness_end of its softplus, reached after the share ``anneal`` of training; weight_map
        and z_init of its non-negative weights; y_scale, a factor on its initial input weights;
        lr_scale, a factor on the learning rate; b2 of Adam; learn_sharpness, whether a factor on
        the sharpness is a parameter; loss, "squared" or "fenchel_young".

    Returns:
      Dual; the same object for the same options.

    Raises:
      ValueError: on an unknown option or a value out of range.
    """
    at = f"smooth.{name}"
    for key in options:
        one_of(key, SMOOTH, f"an option of {at}")
    full = {**SMOOTH, **options}
    above(full, 0, "sharpness", "sharpness_end", "anneal", "y_scale", "lr_scale", "b2", at=at)
    if not full["b2"] < 1:
        raise ValueError(f"{at}.b2 must be below 1, got {full['b2']!r}.")
    for key, known in (("weight_map", WEIGHT_MAPS), ("z_init", INITIALISERS), ("loss", LOSSES)):
        choice(full, known, key, at=at)
    full["features"] = tuple(full["features"])
    return _smooth(name, tuple(sorted(full.items())))


@functools.cache
def _smooth(name: str, items: tuple) -> Dual:
    o = dict(items)
    # The constants are arguments of every call; those of the module stand in at initialisation.
    net = BLNN(
        o["features"],
        1.0,
        1.0,
        softplus(1.0),
        weight_map=o["weight_map"],
        z_init=o["z_init"],
        train_sharpness=o["learn_sharpness"],
    )
    rest = ("sharpness", "sharpness_end", "anneal", "y_scale", "lr_scale", "b2", "loss")
    return Dual(name, o["title"], net, Solver(tolerance=1e-4), **{key: o[key] for key in rest})


def count(model: Baseline | Dual) -> int:
    """Number of trained parameters.

    Args:
      model: from :func:`build`.

    Returns:
      The count.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
