r"""Your photograph: every method's map of what a classifier saw, and which one to believe.

python -m train --config explain_photo --config.image=F.jpg --config.model=resnet18 \
    --config.weights=W.safetensors [--config.classes=names.txt] [--config.target=CLASS]

About a minute of CPU time for a photograph and SqueezeNet. A folder as image takes its pictures
one after the other. Without an image: a scene rendered here, and a small network that is trained
for it, in under a minute. Open index.html in the work directory. ":quick" is a smoke run.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "explain_photo", mode
    c.seed = 0
    c.image = ""  # a picture, or a folder of them; "" renders a scene
    c.model = ""  # squeezenet, efficientnet_lite0, resnet18, resnet34, resnet50, vgg16
    c.weights = ""  # its file: .safetensors, .npz, .pth; "" looks into MONOJAX_DATA
    c.classes = ""  # a text file with one name per line, in the order of the outputs
    c.target = None  # the class to explain, a number or a name; None: the network's first choice
    c.methods = ("all",)  # or names, such as ("grad_cam","lrp_gamma")
    c.layer = None  # a place for all maps; None: the input, for CAMs the last convolution
    c.alpha = 0.4  # of the split's maps: a shift after every module
    c.alphas = (0.0, 0.2, 0.3, 0.4, 0.45, 0.5, "balanced")  # of the sweep
    c.most = 20  # pictures of a folder, in the order of their names
    # Faithfulness: the most relevant parts are removed first, in so many steps.
    c.patch_steps = 49  # patches of 8 x 8 pixels
    c.pixel_steps = 32  # single pixels, all of them in the end
    c.batch_size = 16  # perturbed images at once
    c.scene = ml_collections.ConfigDict(
        dict(
            size=64,  # pixels per side
            features=(16, 32, 32),  # of the network that is trained for the scene
            train=1500,  # rendered images
            steps=350,
            batch_size=50,
            learning_rate=3e-3,
        )
    )
    if mode == "quick":
        c.methods = ("gradient", "grad_cam", "split_cam", "integrated_gradients")
        c.alphas, c.patch_steps, c.pixel_steps = (0.4, "balanced"), 4, 4
        c.scene.update(size=32, features=(4, 4), train=60, steps=4, batch_size=20)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; explain_photo.py has 'full' and 'quick'.")
    return c
