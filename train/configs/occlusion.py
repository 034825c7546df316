r"""Table 4: classifiers look at images that are covered but for a network's maps.

python -m train --config train/configs/occlusion.py[:MODE] [--workdir RUN]

Modes: "photos" (the default: the 250 photographs and the two networks of MONOJAX_DATA),
"imagenet" (a whole validation set, --config.folder=DIR, with a group-monotone ResNet-50 saved by
`monojax.save`, --config.files.saved=DIR, beside torchvision's, --config.files.resnet50=FILE) and
"quick", a smoke run.
"""

import ml_collections


def get_config(mode="photos"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "occlusion", mode
    c.seed = 0
    c.data, c.data_dir, c.folder, c.limit = "photos", "", "", 0  # limit 0: all images
    c.size, c.batch_size = 224, 25
    c.sources = ("efficientnet_lite0", "squeezenet1_1")
    c.auxiliaries = ("efficientnet_lite0", "squeezenet1_1")
    c.weights = "activation"  # or activation_pp, gradient, gradient_pp
    c.target = "predicted"  # class whose slice is taken; the paper's text says "true"
    c.pictures = 4
    names = ("efficientnet_lite0", "squeezenet1_1", "resnet18", "resnet34", "resnet50", "saved")
    c.files = dict.fromkeys(names, "")  # "": the data folder's
    if mode == "imagenet":
        c.data, c.batch_size = "folder", 100
        c.sources = ("resnet50", "saved")
        c.auxiliaries = ("resnet18", "efficientnet_lite0", "squeezenet1_1")
    elif mode == "quick":
        c.limit, c.batch_size, c.pictures = 2, 1, 1
        c.sources, c.auxiliaries = ("squeezenet1_1",), ("squeezenet1_1",)
    elif mode != "photos":
        raise ValueError(f"unknown mode {mode!r}; occlusion.py has photos, imagenet, quick.")
    return c
