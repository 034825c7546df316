r"""Group-monotone ResNet-50 on ImageNet, on any number of hosts; give weights to fine-tune.

One host:  python -m train --config imagenet --workdir RUN --config.data.dir=DIR \
               --config.weights=FILE
Several:   the same on every host, with --coordinator HOST:PORT --num_hosts N --host I, or with
           JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID set; on a TPU pod with
           --coordinator auto.
On paper:  --dry_run v5e:16x16 compiles the step for a slice that is not there.

The paper fine-tunes: FILE is torchvision's ResNet-50, on every host. Without it the network starts
from random weights. DIR holds imagenet2012 of tensorflow-datasets as array_record, or, with
--config.data.source=folder, train/CLASS/*.JPEG and val/CLASS/*.JPEG; --config.data.source=fake
needs no data.

Start again after an interruption with the same command. ":quick" is a ResNet-18 of width 16 on
the 250 photos (MONOJAX_DATA), 64x64: a smoke run whose numbers mean nothing.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "imagenet", mode
    c.seed = 0
    c.data = dict(
        source="tfds",  # or "folder", "photos", "fake"
        dir="",  # "": tensorflow-datasets' own folder, or MONOJAX_DATA for the photos
        size=224,
        threads=2,  # per worker
        workers=16,  # processes that decode; tests/bench/input.py says how many a host needs
        max_skipped=0.001,  # share of unreadable images at which the run stops
        fake=1_281_167,  # images of the fake set: as many as ImageNet's training part
    )
    # 15 maps per class; the paper's W.
    c.model = dict(depth=50, width=64, maps=15_000, num_classes=1_000, dtype="bfloat16")
    c.weights = ""  # torchvision's ResNet-50 file to start from; "" starts afresh
    c.gamma, c.mu, c.form = 5.0, 10.0, "gradient"  # weight and inverse temperature: the paper's
    c.epochs, c.lr, c.lr_drops, c.lr_factor = 30, 1e-3, (20,), 5.0  # the paper's
    c.momentum, c.weight_decay = 0.9, 1e-4  # the paper's
    c.batch_size = 256  # over all devices; our choice, no source gives it
    c.lr_scaling = "none"  # "linear" multiplies the rate by batch_size / 256
    c.eval_batch_size = 1_024
    c.log_every, c.eval_every_epochs, c.checkpoint_every = 100, 1, 1_000
    c.host_timeout = 300.0  # s without a step after which a host gives the others up
    if mode == "quick":
        c.data.update(source="photos", size=64, workers=0, fake=256, max_skipped=0.01)
        # float32: what a CPU computes fast, and what two runs can be compared in.
        c.model.update(depth=18, width=16, maps=2_000, dtype="float32")
        # A tenth of the rate: from random weights the paper's amplifies rounding by orders of
        # magnitude within 15 steps, and two runs on other devices could not be compared.
        c.epochs, c.lr, c.lr_drops = 2, 1e-4, (1,)
        c.batch_size, c.eval_batch_size = 32, 64
        c.log_every, c.checkpoint_every, c.host_timeout = 1, 3, 60.0
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; imagenet.py has 'full' and 'quick'.")
    return c
