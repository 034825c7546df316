"""Compact embeddings: the contrastive loss, a truncated index, and models to take elsewhere."""

from monojax.compact.compressing import compress
from monojax.compact.contrastive import supcon_loss
from monojax.compact.export import export_model, load_model
from monojax.compact.index import CompactIndex, IndexNeighbours, load_index
from monojax.compact.unlike import UnlikeGalleryWarning

__all__ = [
    "CompactIndex",
    "IndexNeighbours",
    "UnlikeGalleryWarning",
    "compress",
    "export_model",
    "load_index",
    "load_model",
    "supcon_loss",
]
