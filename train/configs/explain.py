"""How good explanations are, on real photographs.

python -m train --config train/configs/explain.py[:MODE] [--workdir RUN]

Modes: "full" (the counts that the definitions name), "reduced" (an hour on two cores), "quick" (a
smoke run: its numbers mean nothing), "imagenet_s" (the paper's networks and data, for those who
have them: --config.imagenet_s=DIR, --config.weights.vgg16=FILE, --config.weights.resnet18=FILE).
MONOJAX_DATA names the folder of the other data and weights. "shapes3d" needs none: VGG16 and
ResNet18 at a quarter of the width, trained here on rendered scenes with exact masks;
"shapes3d_reduced" is the same in an hour of one core (400 steps of training, 500 scenes, removal on
50 and noise on 30 of them, the sweep on 200), "shapes3d_quick" its smoke run.
"""

import ml_collections

METHODS = (
    "gradient", "gradient_x_input", "guided_backprop", "integrated_gradients", "grad_cam",
    "grad_cam_pp", "layer_cam", "lrp_epsilon", "lrp_gamma", "lrp_zplus", "split_grad",
    "split_cam", "split_lrp", "random", "centre",
)  # fmt: skip

SCENES = ("shapes3d", "shapes3d_reduced", "shapes3d_quick")


def study(network, data, images=1000, samples=200, patches=1, pixel_steps=20, pixels=502):
    """pixels: per step of pixel flipping; 502 is 1% of 224 x 224."""
    return ml_collections.ConfigDict(
        dict(
            network=network,
            data=data,
            images=images,  # at most
            samples=samples,  # of max-sensitivity
            patches_in_step=patches,  # of selectivity, 784 patches of 8 x 8 in all
            pixel_steps=pixel_steps,
            pixels_in_step=pixels,
        )
    )


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "explain", mode
    c.seed = 0
    c.methods = METHODS
    c.validation = 20
    c.screen_samples = 10
    c.screen_steps = 20  # of pixel flipping, over the same share of pixels
    # In the paper's meaning: a shift after every module, (1 - 2 alpha)^2 per contraction.
    c.alphas = (0.3, 0.35, 0.4, 0.45, "balanced")
    c.batch_size = 16  # perturbed images at once
    c.pictures = 6  # rows of the grid
    c.reuse = ""  # another run's directory, whose finished cells with the same inputs are taken
    c.settings_from = ""  # a folder of tables: methods without alpha keep the settings there
    c.imagenet_s = ""
    c.weights = ml_collections.ConfigDict(dict(vgg16="", resnet18=""))
    c.sweep = ml_collections.ConfigDict(
        dict(
            alphas=(0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.42, 0.44, 0.46, 0.48, 0.5, "balanced"),
            images=59,
            samples=20,
            # Deep, as the poster's; None is the input, "" the layer that screening chose.
            layer="fire9",
        )
    )
    large, small = "efficientnet_lite0", "squeezenet1_1"
    studies = [
        study(small, "coco128"),
        study(small, "imagenet"),
        study(large, "coco128", samples=20),
        study(large, "imagenet", samples=20),
    ]
    if mode == "reduced":
        c.sweep.images, c.sweep.samples = 30, 5
        c.screen_steps = 5
        c.validation = 12
        fewer = dict(patches=32, pixel_steps=10, pixels=1004)
        studies = [
            study(small, "coco128", samples=10, patches=16),
            study(small, "imagenet", images=60, samples=4, **fewer),
            study(large, "coco128", images=10, samples=3, **fewer),
        ]
    elif mode == "quick":
        c.methods = ("gradient", "grad_cam", "lrp_epsilon", "split_cam", "random")
        c.validation, c.screen_samples, c.alphas, c.pictures = 2, 1, (0.4,), 1
        c.screen_steps = 2
        c.sweep.alphas, c.sweep.images, c.sweep.samples = (0.4, 0.5, "balanced"), 1, 1
        studies = [study(small, "coco128", 2, 1, patches=196, pixel_steps=2)]
    elif mode == "imagenet_s":
        c.validation = 30
        studies = [study("vgg16", "imagenet_s"), study("resnet18", "imagenet_s")]
    elif mode in SCENES:
        c.batch_size, c.validation = 50, 30
        # The networks' training: share of the original's channels, Adam with warm-up and a cosine.
        c.scenes = ml_collections.ConfigDict(dict(width=0.25, steps=3_000, batch_size=32, lr=1e-3))
        c.alphas = c.sweep.alphas = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.48, 0.5, "balanced")
        c.sweep.images, c.sweep.samples = 500, 10
        # 64 x 64: 41 pixels are 1%, 64 patches of 8 x 8.
        options = dict(images=500, samples=200, patches=1, pixel_steps=20, pixels=41)
        kinds: tuple[str, ...] = ("vgg16", "resnet18")
        seeds = range(3)
        if mode == "shapes3d_reduced":
            c.scenes.steps = 400
            c.validation, c.screen_samples, c.screen_steps = 10, 5, 5
            c.alphas = (0.0, 0.2, 0.3, 0.4, 0.45, "balanced")
            c.sweep.images, c.sweep.samples = 200, 2
            options |= dict(samples=10, patches=4, pixel_steps=10, pixels=82)
        if mode == "shapes3d_quick":
            c.methods, c.alphas, c.sweep.alphas = ("gradient", "split_cam"), (0.4,), (0.4, 0.5)
            c.validation, c.screen_samples, c.screen_steps, c.pictures = 2, 1, 2, 1
            c.sweep.images, c.sweep.samples = 2, 1
            options |= dict(images=2, samples=1, patches=16, pixel_steps=2)
            c.scenes.width, c.scenes.steps, c.scenes.batch_size = 0.03, 2, 4
            kinds, seeds = ("resnet18",), range(1)
        # Seed by seed, so that a run that is cut short has some of both kinds.
        studies = [study(f"{k}_scenes_{s}", "shapes3d", **options) for s in seeds for k in kinds]
        for s in studies:
            s.sensitive = min(50, s.images)  # images on which max-sensitivity is measured
            if mode == "shapes3d_reduced":
                s.sensitive, s.removed = 30, 50  # and those from which parts are removed
    elif mode != "full":
        known = ("full", "reduced", "quick", "imagenet_s", *SCENES)
        raise ValueError(f"unknown mode {mode!r}; there is {', '.join(known)}.")
    c.studies = tuple(f"{s.network}_{s.data}" for s in studies)  # in this order
    c.study = ml_collections.ConfigDict(dict(zip(c.studies, studies, strict=True)))
    return c
