r"""Your embeddings, compressed: PCA, a standard head and a monotone head, compared; an index.

python -m train --config compress_embeddings --config.embeddings=E.npy \
    [--config.labels=L.npy | --config.pairs=P.npy] [--config.texts=F.txt]

About two and a half minutes of CPU time for 50,000 rows of 384. Without labels the heads learn from
the neighbours that rows have in the full embedding. With texts and no embeddings MiniLM embeds
them. ":quick" is a smoke run.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode = "compress_embeddings", mode
    c.seed = 0
    c.embeddings = ""  # .npy, or .npz with one array or one named "embeddings": floats [n, d]
    c.labels = ""  # .npy or .npz: one class per row, integers or texts
    c.pairs = ""  # instead: integers [m, 2], rows that belong together
    c.texts = ""  # one line per row: kept as metadata; embedded if there are no embeddings
    c.heads = ("standard", "monocon")
    c.held_out = 0.2  # share of the rows that nothing is fitted on
    c.queries = 2000  # of the held-out rows, at most
    c.dims = None  # of the indices; None keeps the effective dimension
    c.variance = 0.99  # that the effective dimension holds
    c.curve = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # dimensions at which recall is measured
    c.recall = (1, 5, 10)  # k
    c.storage = "int8"  # of the indices: float32, float16 or int8
    c.recipe = ml_collections.ConfigDict(
        dict(
            batch_size=512,
            temperature=0.1,
            learning_rate=2e-3,
            weight_decay=1e-4,
            steps=1200,
            neighbours=5,  # without labels: how many count as positives
            patience=4,  # validations without a better one
            validate_every=100,  # steps
        )
    )
    if mode == "quick":
        c.queries, c.curve = 50, (1, 4)
        c.recipe.update(batch_size=32, steps=6, validate_every=3)
    elif mode != "full":
        raise ValueError(f"unknown mode {mode!r}; compress_embeddings.py has 'full' and 'quick'.")
    return c
