"""The row of the package mononet: constrained monotone networks, by their authors' own layers."""

import copy
import importlib.util
import time
from typing import Any

import numpy as np

from train.tabular.data import Problem

CANDIDATES: tuple[dict[str, Any], ...] = (
    {"lr": 1e-2, "mode": "absolute"},
    {"lr": 1e-2, "mode": "switch"},
)
TITLE = "mononet (its own package)"


def installed() -> bool:
    """Whether the package and torch are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("mononet", "torch"))


def train(
    problem: Problem,
    options: dict[str, Any],
    rows: np.ndarray,
    watched: np.ndarray,
    seed: int,
    epochs: int,
    batch_size: int,
    keep: int = 0,
) -> tuple[np.ndarray, Any, float]:
    """Trains one network as the package's README builds it; Adam, no average of weights.

    Args:
      problem: data and directions.
      options: one of `CANDIDATES`.
      rows: what is trained on, `[n]`.
      watched: inputs that are predicted after every epoch, `[m, d]`.
      seed: of the weights and of the order.
      epochs: how many.
      batch_size: of a step.
      keep: the epoch, from 1, whose network predicts; 0 is the last.

    Returns:
      ``(values [epochs, m] in training units, predict, seconds up to ``keep``)``.
    """
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # small layers: threads wait for each other
    net, arrange = _network(problem, options["mode"])
    optimizer = torch.optim.Adam(net.parameters(), lr=options["lr"])
    classes = problem.task == "classification"
    loss_fn = torch.nn.BCEWithLogitsLoss() if classes else torch.nn.MSELoss()
    x, y = arrange(problem.x[rows]), torch.tensor(problem.y[rows])
    seen = arrange(watched)
    history, seconds, batch = [], 0.0, min(batch_size, len(rows))
    keep, kept = keep or epochs, net
    for number in range(1, epochs + 1):
        began = time.perf_counter()
        order = torch.randperm(len(rows))[: len(rows) // batch * batch].reshape(-1, batch)
        for chosen in order:
            optimizer.zero_grad()
            loss_fn(net(x[chosen])[:, 0], y[chosen]).backward()
            optimizer.step()
        if number <= keep:
            seconds += time.perf_counter() - began
        if number == keep:
            kept = copy.deepcopy(net)
        with torch.no_grad():
            history.append(net(seen)[:, 0].numpy().copy())

    def predict(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return kept(arrange(rows))[:, 0].numpy()

    predict.parameters = sum(p.numel() for p in net.parameters())  # type: ignore[attr-defined]
    return np.stack(history), predict, seconds


def _network(problem: Problem, mode: Any) -> tuple[Any, Any]:
    """Free inputs through a small plain network, then monotone layers."""
    import torch
    from mononet import MonotonicityMask
    from mononet.torch import MonoInput, MonoLinear

    signs = problem.directions
    bound, free = np.flatnonzero(signs), np.flatnonzero(signs == 0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Sequential(
                torch.nn.Linear(len(free), 16),
                torch.nn.ReLU(),
                torch.nn.Linear(16, 16),
                torch.nn.ReLU(),
            )
            self.sign = MonoInput(MonotonicityMask(signs[bound].astype(np.int8)))
            self.net = torch.nn.Sequential(
                MonoLinear(len(bound) + 16, 32, activation="elu", mode=mode),
                MonoLinear(32, 32, activation="elu", mode=mode),
                MonoLinear(32, 1, mode=mode),
            )

        def forward(self, x: Any) -> Any:
            rising, rest = x[:, : len(bound)], x[:, len(bound) :]
            return self.net(torch.cat([self.sign(rising), self.embed(rest)], dim=-1))

    order = np.concatenate([bound, free])
    return Net(), lambda rows: torch.tensor(np.ascontiguousarray(rows[:, order], np.float32))
