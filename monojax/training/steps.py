"""The training step, written once: `jit` runs it on one device, `pmap` on all of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

Metrics = dict[str, jax.Array]


class LossFn(Protocol):
    """What a model brings to the step."""

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """Returns ``(loss [], (new model_state, metrics))`` for one device's part of the batch.

        ``key`` is the same on all devices: fold in `jax.lax.axis_index(axis_name)` for noise of
        one's own, or key random points by their global index (``first=`` of the regions).
        """


class TrainState(struct.PyTreeNode):
    """Everything a step reads and writes; a checkpoint of it is enough to go on."""

    step: jax.Array
    """int32 `[]`: steps taken."""
    params: Any
    opt_state: Any
    model_state: Any
    """Collections other than parameters (batch statistics); `{}` if there are none."""
    key: jax.Array
    """PRNG key `[]` of the whole run; each step folds its number in."""


def create_state(
    key: jax.Array,
    params: Any,
    optimizer: optax.GradientTransformation,
    model_state: Any = None,
) -> TrainState:
    """A state at step 0, in memory of its own.

    Every leaf is a copy: a step donates the state's memory, which must not be shared between two
    leaves (tied weights, the start that lbfgs and prodigy remember) nor with the caller.

    Args:
      key: PRNG key for the run's own randomness (not for the parameters, which exist already).
      params: pytree of parameters.
      optimizer: optax transformation.
      model_state: other collections, or None.

    Returns:
      TrainState.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state={} if model_state is None else model_state,
        key=key,
    )
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent; the body of both :func:`jit_step` and :func:`pmap_step`.

    Args:
      loss_fn: see :class:`LossFn`.
      optimizer: optax transformation. One that needs more than the gradient (`reduce_on_plateau`,
        `lbfgs` with its line search) gets the loss as ``value`` and ``value_fn``, and ``grad``.
      state: current state.
      batch: pytree of arrays, this device's part.
      axis_name: the `pmap` axis; gradients, metrics and float model state are averaged over it.

    Returns:
      ``(new state, metrics)``; metrics always hold "loss" and "grad_norm".
    """
    key = jax.random.fold_in(state.key, state.step)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (model_state, metrics)), grads = value_and_grad(
        state.params, state.model_state, batch, key, axis_name
    )
    metrics = {"loss": loss, **metrics}
    if axis_name is not None:
        metrics, grads = jax.lax.pmean((metrics, grads), axis_name)
        model_state = jax.tree.map(functools.partial(_mean, axis_name), model_state)
    metrics["grad_norm"] = jnp.sqrt(sum(jnp.vdot(g, g).real for g in jax.tree.leaves(grads)))
    # What some optimisers ask for beside the gradient; the others are not shown it.
    more = {
        "value": metrics["loss"],
        "grad": grads,
        "value_fn": _value_fn(loss_fn, state.model_state, batch, key, axis_name),
    }
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(grads, state.opt_state, state.params, **more)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        model_state=model_state,
    )
    return state, metrics


def _value_fn(
    loss_fn: LossFn, model_state: Any, batch: Any, key: jax.Array, axis_name: str | None
) -> Callable[[Any], jax.Array]:
    """The loss over the batches of all devices, a function of the parameters alone."""

    def local(params):
        return loss_fn(params, model_state, batch, key, axis_name)[0]

    if axis_name is None:
        return local

    # The derivative of a mean over devices would be this device's own: said by hand.
    @jax.custom_vjp
    def value(params):
        return jax.lax.pmean(local(params), axis_name)

    def forward(params):
        return jax.lax.pmean(jax.value_and_grad(local)(params), axis_name)

    def backward(grads, cotangent):
        return (jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), grads),)

    value.defvjp(forward, backward)
    return value


def _mean(axis_name: str, leaf: jax.Array) -> jax.Array:
    """Mean over devices; counters are equal on all of them and stay integers."""
    return jax.lax.pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


def jit_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The step on one device, compiled; the old state's memory is reused.

    Args:
      loss_fn: see :class:`LossFn`.
      optimizer: optax transformation.

    Returns:
      ``step(state, batch) -> (state, metrics)``.
    """
    return jax.jit(functools.partial(train_step, loss_fn, optimizer), donate_argnums=0)


def pmap_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str = "batch",
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The same step over all devices of all hosts.

    Args:
      loss_fn: see :class:`LossFn`.
      optimizer: optax transformation.
      axis_name: name of the mapped axis.
      devices: defaults to all of `jax.devices()`.

    Returns:
      ``step(state, batch) -> (state, metrics)`` with a leading axis of local devices on all
      three: start from :func:`replicate` and :func:`shard_batch`. Replicas stay on their
      devices between steps, so nothing but gradients and metrics travels.
    """
    body = functools.partial(train_step, loss_fn, optimizer, axis_name=axis_name)
    return jax.pmap(body, axis_name=axis_name, devices=devices, donate_argnums=0)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Copies a pytree to every local device, as a new leading axis.

    Args:
      tree: pytree of arrays.
      devices: defaults to all local devices.

    Returns:
      The pytree with leaves `[devices, ...]`.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    copy = jax.pmap(lambda _, leaf: leaf, in_axes=(0, None), devices=devices)
    return copy(jnp.arange(count), tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of a replicated pytree, on the host.

    Args:
      tree: pytree with leaves `[devices, ...]`.

    Returns:
      pytree of host arrays without that axis (PRNG keys stay JAX arrays).
    """

    def first(leaf):
        # Reading one shard; indexing the stacked array would communicate.
        shard = leaf.addressable_shards[0].data
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return shard[0] if is_key else jax.device_get(shard)[0]

    return jax.tree.map(first, tree)


def shard_batch(batch: Any, num_devices: int | None = None) -> Any:
    """Splits the leading axis of a host's batch over its devices.

    Args:
      batch: pytree of arrays `[b, ...]`.
      num_devices: defaults to the number of local devices.

    Returns:
      pytree of arrays `[devices, b / devices, ...]`.

    Raises:
      ValueError: if b does not divide by the number of devices.
    """
    num = jax.local_device_count() if num_devices is None else num_devices

    def split(leaf):
        if leaf.shape[0] % num:
            near = max(num, leaf.shape[0] // num * num)
            raise ValueError(
                f"a batch of {leaf.shape[0]} examples does not divide by {num} devices; "
                f"use for example {near}."
            )
        return leaf.reshape(num, leaf.shape[0] // num, *leaf.shape[1:])

    return jax.tree.map(split, batch)
