"""Explanations of one prediction: where in the image, or in a layer, the evidence lies."""

from monojax.attribution import metrics
from monojax.attribution.images import grid, normalise, overlay, resize
from monojax.attribution.methods import (
    at_layers,
    grad_cam,
    grad_cam_pp,
    gradient,
    gradient_x_input,
    guided_backprop,
    integrated_gradients,
    layer_cam,
    lrp,
    split_cam,
    split_grad,
    split_lrp,
)
from monojax.attribution.rollout import attention_rollout, attention_weights
from monojax.attribution.together import Explanation, explain

__all__ = [
    "Explanation",
    "at_layers",
    "attention_rollout",
    "attention_weights",
    "explain",
    "grad_cam",
    "grad_cam_pp",
    "gradient",
    "gradient_x_input",
    "grid",
    "guided_backprop",
    "integrated_gradients",
    "layer_cam",
    "lrp",
    "metrics",
    "normalise",
    "overlay",
    "resize",
    "split_cam",
    "split_grad",
    "split_lrp",
]
