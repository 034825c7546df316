r"""MonoCon on CIFAR-10: the paper's recipe for accelerators, and a reduced one for two CPU cores.

python -m train --config monocon_cifar10[:MODE] [--workdir RUN] [--config.data_dir=DIR]

Modes: "full" (ResNet-34, Tables 1 and 2; not run here), "reduced" (below) and "quick" (a smoke run
of the reduced one). Numbers of "full" are the paper's unless marked (code) or (ours).

"reduced": a pretrained EfficientNet-Lite0, frozen up to its last block, on all 50,000 images
enlarged to 64 x 64; its maps before that block are computed once (7 minutes on two cores) and kept
in ``config.data.cache``. No augmentation, since the cache has one view per image.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode, c.problem = "monocon", mode, "cifar"
    c.published = "cifar10"
    c.seeds = (42, 1, 2)  # the paper has one, 42
    c.kinds = ("baseline", "standard", "monocon")
    c.once = ("monocon2",)
    c.data_dir = ""  # or MONOJAX_DATA
    c.reuse = ""
    c.parallel = False  # True: batches over all local devices
    c.embed_batch_size = 1000
    c.data = dict(
        name="cifar10",
        source="tfds",  # or "files": JPEG copies, see monojax.data.images
        weights="",  # torchvision's resnet34 (IMAGENET1K_V1); "" starts afresh (the paper does not)
        width=64,  # channels of the first stage; d is 8 times it
        valid=5000,  # the last of the seed-42 shuffle
        watch=1000,  # of them, for dimensions and correlations over training
        limit=0,  # images per part; 0 is all
    )
    c.recipe = dict(
        batch_size=256,
        keep_last=True,  # (code)
        temperature=0.1,
        lr_encoder=5e-4,
        lr_head=5e-4,
        weight_decay=1e-4,
        clip=1.0,
        warmup_epochs=10,
        warmup_lr=1e-4,
        epochs=200,
        patience=20,
        validate_every=5,
    )
    c.cut = (128, 64, 16)
    c.snapshots = (0, 5, 25, 50, 100)
    if mode in ("reduced", "quick"):
        c.problem = "cifar10_lite"
        c.data = dict(side=64, cache="runs/cache", limit=0, valid=5000, watch=1000)
        # (ours) The monotone head starts near rank 1 and needs steps, or a larger rate.
        c.recipe.update(keep_last=False, lr_head=1e-3, epochs=20, warmup_epochs=1, validate_every=2)
        c.cut, c.snapshots, c.once = (64, 16, 8), (0, 2, 6, 12), ()
        c.seeds = (42,)
    if mode == "quick":
        c.data.update(limit=1200, valid=300, watch=200)
        c.recipe.update(epochs=2, validate_every=1)
        c.cut, c.snapshots = (16,), (0, 1)
    elif mode not in ("full", "reduced"):
        raise ValueError(f"unknown mode {mode!r}; there is 'full', 'reduced' and 'quick'.")
    return c
