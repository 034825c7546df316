"""Training steps of the autoencoder and of a narrow VGG16: jax here against torch, on CPU.

PYTHONPATH=. python tests/bench/vae.py [--repeats 5]

CPU seconds of this process per step (forward, gradient, Adam), the smallest over repeats:
they depend little on what else the machine does. Pictures are given, not drawn; the last rows are
the experiment's own step, drawing included, without and with the penalty.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from monojax.models import VAE, VGG16
from monojax.models.vae import reconstruction_loss

WIDTHS, HIDDEN, BATCH = (16, 32, 32, 64), 128, 32


def jax_step(loss, params):
    """A step of Adam that keeps its own state."""
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state):
        slopes = jax.grad(loss)(params)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, updates), state

    kept = [params, optimizer.init(params)]

    def run():
        kept[:] = jax.block_until_ready(step(*kept))

    return run


def torch_step(module, loss):
    """The same in torch."""
    import torch

    optimizer = torch.optim.Adam(module.parameters(), 1e-3)

    def run():
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()

    return run


def torch_vae(x):
    """The autoencoder in torch, and its loss."""
    from torch import nn

    down, channels = [], 3
    for width in WIDTHS:
        down += [nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU()]
        channels = width
    flat = 4 * 4 * WIDTHS[-1]
    encode = [*down, nn.Flatten(), nn.Linear(flat, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 6)]
    up = []
    for width in (*reversed(WIDTHS[:-1]), 3):
        up += [nn.ReLU(), nn.ConvTranspose2d(channels, width, 4, 2, 1)]
        channels = width
    decode = [nn.Linear(6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, flat)]
    module = nn.Sequential(*encode, *decode, nn.Unflatten(1, (WIDTHS[-1], 4, 4)), *up)
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    return torch_step(module, lambda module: loss(module(x), x) / len(x))


def torch_vgg(x, labels):
    """A quarter of VGG16 in torch, and its loss."""
    from torch import nn

    layers, channels = [], 3
    for width, repeats in ((16, 2), (32, 2), (64, 3), (128, 3), (128, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(4 * channels, 128), nn.ReLU(), nn.Linear(128, 4)]
    loss = nn.CrossEntropyLoss()
    return torch_step(nn.Sequential(*layers), lambda module: loss(module(x), labels))


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import torch

    from train.configs.generation import get_config
    from train.generation.training import step_of

    rng = np.random.default_rng(0)
    x = rng.random((BATCH, 64, 64, 3)).astype(np.float32)
    labels = rng.integers(4, size=BATCH)
    other = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    vae, vgg = VAE(widths=WIDTHS, hidden=HIDDEN), VGG16(4, width=0.25, dense=(128,), pooled=2)

    def vae_loss(params):
        return reconstruction_loss(vae.apply(params, x)[0], jnp.asarray(x)).mean()

    def vgg_loss(params):
        logits = vgg.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    key = jax.random.key(0)
    runs = {
        "autoencoder, jax": jax_step(vae_loss, jax.jit(vae.init)(key, x)),
        "autoencoder, torch": torch_vae(other),
        "VGG16 at a quarter, jax": jax_step(vgg_loss, jax.jit(vgg.init)(key, x)),
        "VGG16 at a quarter, torch": torch_vgg(other, torch.tensor(labels)),
    }
    config = get_config("reduced")
    for name in config.models:
        state, step = step_of(config, name)
        kept = [state]

        def own(kept=kept, step=step):
            kept[0] = jax.block_until_ready(step(kept[0], None)[0])

        runs[f"experiment's step, {name}"] = own
    times = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:
                times[name].append(time.process_time() - start)
    print("| step | CPU ms |")
    print("|---|---|")
    for name, values in times.items():
        print(f"| {name} | {1e3 * min(values):.0f} |")


if __name__ == "__main__":
    main()
