r"""MonoCon on CIFAR-100 with ResNet-34: Tables 1, 2 and 3 of the paper. For accelerators.

python -m train --config monocon_cifar100[:MODE] [--workdir RUN] [--config.data.weights=FILE]

Modes: "full", "dynamics" (section 5.5: validation every epoch, patience 50) and "quick" (a narrow
network on 64 + 64 images). CIFAR-100 comes from tensorflow-datasets. Not run here in full: about
2.3 GFLOP per image forward, hours per epoch on two cores.
"""

import ml_collections

from train.configs import monocon_cifar10


def get_config(mode="full"):
    c: ml_collections.ConfigDict = monocon_cifar10.get_config()
    c.mode, c.published, c.data.name = mode, "cifar100", "cifar100"
    # A 10 times lower rate for the encoder hurt, says the paper.
    c.recipe.update(lr_encoder=2e-4, lr_head=2e-4)
    if mode == "dynamics":
        c.recipe.update(patience=50, validate_every=1)
    elif mode == "quick":
        c.seeds, c.once, c.cut, c.snapshots, c.embed_batch_size = (42,), (), (8,), (0, 1), 32
        c.data.update(width=4, valid=16, watch=16, limit=64)
        c.recipe.update(batch_size=32, epochs=1, warmup_epochs=1, validate_every=1)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; there is 'full', 'dynamics' and 'quick'.")
    return c
