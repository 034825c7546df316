"""Compact embeddings: the contrastive loss, a truncated index, and models to take elsewhere."""

from monojax.compact.contrastive import supcon_loss
from monojax.compact.export import export_model, load_model
from monojax.compact.index import CompactIndex, compress, load_index

__all__ = [
    "CompactIndex",
    "compress",
    "export_model",
    "load_index",
    "load_model",
    "supcon_loss",
]
