"""Old words of configs: stored ones are translated, typed ones are refused with the new word.

A work directory keeps the config that made it, in the words of its day. `translated` makes today's
of them, so that the directory resumes; a person who types an old word, or keeps a config file of
their own with one, is told the new word.
"""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

from monojax.training.workdir import Versioned

EXPERIMENTS = {"sentences": "minilm_golden"}
"""Old name of an experiment to the new one."""

KEYS: dict[str, dict[str, str]] = {
    "difference": dict.fromkeys(("reparam", "network.reparam", "networks.*.reparam"), "weight_map"),
    "explain": {"batch": "batch_size"},
    "lipschitz_fits": {"fit.batch": "batch_size", "chunk": "seeds_at_once"},
    "monocon": {"recipe.batch": "batch_size", "embed_batch": "embed_batch_size"},
    "penalties": {"chunk": "seeds_at_once"},
    "tokens": {"chunk": "batch_size", "vit.model.pool": "reduce", "model.pool": "reduce"},
}
"""Experiment to old dotted key (with ``*`` for any name) to the new last word."""

VALUES: dict[str, dict[Any, Any]] = {"weight_map": {"clip": "clamp"}}
"""New last word of a renamed key to its old values and what they are now."""


def translated(experiment: str, config: Any) -> Versioned:
    """A config that opens work directories with the old words of its experiment, too.

    Args:
      experiment: a key of `train.experiment.EXPERIMENTS`.
      config: what identifies the run, in today's words.

    Returns:
      For `open_workdir` and `fit`.
    """
    return Versioned(config, lambda stored: today(experiment, stored))


def today(experiment: str, stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config in today's words.

    Args:
      experiment: whose words.
      stored: plain data, as `config.json` holds it.

    Returns:
      A copy; what was not renamed stays.
    """
    words = KEYS.get(experiment, {})

    def walk(node: Any, at: str) -> Any:
        if not isinstance(node, dict):
            return node
        new: dict[str, Any] = {}
        for key, child in node.items():
            word = _match(words, at + key)
            child = walk(child, f"{at}{key}.")
            if word is not None and not isinstance(child, dict):
                child = VALUES.get(word, {}).get(child, child) if _plain(child) else child
            new[key if word is None else word] = child
        return new

    found = walk(stored, "")
    if experiment == "difference":
        _without_concave(found)
    if found.get("experiment") in EXPERIMENTS:
        found["experiment"] = EXPERIMENTS[found["experiment"]]
    return found


def _without_concave(node: dict[str, Any]) -> None:
    """Drops a share of concave units of 0, which there are no more; another one stays: refused."""
    if node.get("concave") == 0:
        del node["concave"]
        if node.get("kind") == "monotone":
            node.setdefault("activation", "relu")
    for child in node.values():
        if isinstance(child, dict):
            _without_concave(child)


def new_key(experiment: str, key: str) -> str | None:
    """The new name of an old dotted key.

    Args:
      experiment: whose words.
      key: what was typed, such as "recipe.batch".

    Returns:
      Today's dotted key, or None if it never was an old one.
    """
    word = _match(KEYS.get(experiment, {}), key)
    return None if word is None else ".".join([*key.split(".")[:-1], word])


def old_keys(experiment: str, config: Any) -> Iterator[tuple[str, str]]:
    """The old words that a config still uses.

    Args:
      experiment: whose words.
      config: nested mapping.

    Yields:
      ``(old dotted key, new dotted key)``.
    """

    def walk(node: Any, at: str) -> Iterator[str]:
        for key in node:
            yield at + key
            if hasattr(node[key], "keys"):
                yield from walk(node[key], f"{at}{key}.")

    for key in walk(config, ""):
        if (new := new_key(experiment, key)) is not None:
            yield key, new


def spelled_before(old: str, new: str) -> Callable[[Any], Any]:
    """A function that puts an old word back into nested data, for the names of stored cells.

    Args:
      old: the key as it was.
      new: the key as it is.

    Returns:
      Nested lists and mappings to the same with the old key.
    """

    def back(node: Any) -> Any:
        if isinstance(node, dict):
            return {old if key == new else key: back(child) for key, child in node.items()}
        return [back(child) for child in node] if isinstance(node, (list, tuple)) else node

    return back


def _match(words: dict[str, str], key: str) -> str | None:
    for pattern, word in words.items():
        if fnmatch.fnmatchcase(key, pattern) and key.count(".") == pattern.count("."):
            return word
    return None


def _plain(found: Any) -> bool:
    return isinstance(found, (str, int, float, bool, type(None)))
