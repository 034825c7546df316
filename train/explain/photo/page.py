"""One page of HTML with its pictures inside: it can be sent as it is."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.explain.photo.draw import title
from train.explain.photo.measure import CONTROLS, scores

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
img{max-width:100%;height:auto}table{border-collapse:collapse;margin:1em 0}
td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
td:first-child,th:first-child{text-align:left}.note{color:#666;font-size:.9em}
tr.control{color:#888}tr.best{font-weight:bold}h2{margin-top:2em;border-top:1px solid #ddd}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}
img{background:#fff}.note,tr.control{color:#999}h2{border-color:#444}}
"""
PICTURES = (
    (
        "maps",
        "All methods, by mean rank in both measures below, the most faithful first. Red speaks "
        "for the class, blue against it. The number is the mean probability that is left as pixels "
        "are removed, one of the two. Colours are cut off at what 1 in 200 pixels exceeds.",
    ),
    (
        "split",
        "The split writes the network as g minus h, both convex and rising in the picture's "
        "evidence: above, where each is sensitive; below, SplitGrad inside the network, from the "
        "raw stream gradient (alpha 0) to half the gradient (0.5).",
    ),
    (
        "curves",
        "The most relevant parts of each map are replaced by the darkest value, which no "
        "photograph looks like. A map to believe makes the probability fall at once. Grey: maps "
        "that do not look at the picture.",
    ),
)
"""Kinds of pictures, and what is written below each."""


def believed(found: dict[str, Any]) -> tuple[str, bool]:
    """The most faithful method, and whether it beats both controls on both measures.

    It must also make the probability fall: removing what it marks leaves less than there was.

    Args:
      found: arrays of one picture.

    Returns:
      ``(name, it does)``.
    """
    values = scores(found)
    best = min((n for n in values if n not in CONTROLS), key=lambda n: values[n]["rank"])
    kinds = ("patches", "flips")
    beats = all(values[best][k] < values[c][k] - 5e-4 for k in kinds for c in CONTROLS)
    falls = all(values[best][k] < float(found[f"{k}/{best}"][0]) for k in kinds)
    return best, beats and falls


def probabilities(found: dict[str, Any]) -> np.ndarray:
    """Of the classes; of a single score, its sigmoid is not taken: 1."""
    logits = np.asarray(found["logits"], np.float64)
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def sentence(found: dict[str, Any], names: Sequence[str]) -> str:
    """What was predicted, and which map to believe.

    Args:
      found: arrays of one picture.
      names: of the classes.

    Returns:
      Text.
    """
    shares, target = probabilities(found), int(found["target"])
    first = int(shares.argmax())
    best, beats = believed(found)
    text = f"The network's first choice is {names[first]} ({shares[first]:.1%}). "
    if target != first:
        text += f"Explained is {names[target]} ({shares[target]:.1%}). "
    if beats:
        return text + (
            f"Of the maps, believe {title(best)} first: when what it marks is removed, the "
            "probability falls fastest, patch by patch and pixel by pixel taken together."
        )
    return text + (
        f"No map is clearly to be believed: {title(best)} is the most faithful, but a map that "
        "does not look at the picture does as well on one of the measures, or the probability does "
        "not fall."
    )


def write(
    path: Path, entries: Sequence[tuple[str, dict[str, Any], dict[str, Path]]],
    names: Sequence[str], heading: str, foot: str,
) -> None:  # fmt: skip
    """Writes the page.

    Args:
      path: the HTML file.
      entries: of each picture its name, its arrays, and its PNG files by kind.
      names: of the classes.
      heading: of the page.
      foot: how it was made.
    """
    from monojax.training import write_atomically

    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{html.escape(heading)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(heading)}</h1>",
    ]
    for name, found, files in entries:
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f"<p>{html.escape(sentence(found, names))}</p>")
        parts.append(f"<p class='note'>Seen: {html.escape(str(found['note']))}.</p>")
        parts.append(_choices(found, names))
        for kind, text in PICTURES:
            data = base64.b64encode(files[kind].read_bytes()).decode()
            parts.append(f"<p><img alt='{kind}' src='data:image/png;base64,{data}'></p>")
            parts.append(f"<p class='note'>{html.escape(text)}</p>")
        parts.append(_measures(found))
        if left_out := json.loads(str(found["left_out"])):
            rows = [f"<li>{title(k)}: {html.escape(v)}</li>" for k, v in left_out.items()]
            parts.append(f"<p>Left out:</p><ul>{''.join(rows)}</ul>")
    parts.append(f"<p class='note'>{html.escape(foot)}</p></html>\n")
    write_atomically(path, "\n".join(parts))


def _choices(found: dict[str, Any], names: Sequence[str]) -> str:
    shares = probabilities(found)
    rows = "".join(
        f"<tr><td>{html.escape(names[i])}</td><td>{shares[i]:.2%}</td></tr>"
        for i in np.argsort(-shares, kind="stable")[:5]
    )
    return f"<table><tr><th>first choices</th><th>probability</th></tr>{rows}</table>"


def _measures(found: dict[str, Any]) -> str:
    """The table of faithfulness, best first."""
    values, layers = scores(found), json.loads(str(found["layers"]))
    best, _ = believed(found)
    inside = any("inside" in row for row in values.values())
    head = "<th>map</th><th>taken at</th><th>patches &darr;</th><th>pixels &darr;</th>"
    head += "<th>mean rank</th>" + ("<th>inside the object &uarr;</th>" if inside else "")
    rows = []
    for name in sorted(values, key=lambda n: (n in CONTROLS, values[n]["rank"])):
        row = values[name]
        kind = "control" if name in CONTROLS else "best" if name == best else ""
        cells = [title(name), layers.get(name, ""), f"{row['patches']:.3f}", f"{row['flips']:.3f}"]
        cells.append("" if name in CONTROLS else f"{row['rank']:.1f}")
        cells += [f"{row['inside']:.2f}"] if inside else []
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr class='{kind}'>{text}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
