"""The served example over loopback: right answers, and what is wrong refused."""

import http.client
import importlib.util
import json
import socket
import threading

import jax
import numpy as np
import pytest
from drawing import drawn

import monojax as mj
from monojax import layers

pytest.importorskip("flatbuffers", reason="jax.export writes with flatbuffers")

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
NET = layers.LMN((4, 2), 2.0, (1, 0, -1))
NAMES = ["age", "size", "rate"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The port, and the variables of the model behind it."""
    from conftest import ROOT

    spec = importlib.util.spec_from_file_location("serve", ROOT / "docs" / "serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    serve.Handler.timeout = 300  # a busy machine is no slow client
    variables = drawn(NET, X)
    path = tmp_path_factory.mktemp("served") / "model.mjx"
    mj.export(path, NET, variables, X, metadata={"feature_names": NAMES})
    running = serve.server(path, port=0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running.server_port, variables
    running.shutdown()
    running.server_close()
    thread.join()


def ask(port, path, body=None, headers=None):
    """Status and JSON of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


@pytest.mark.slow
def test_predicts_and_explains(served):
    port, variables = served
    status, told = ask(port, "/")
    assert status == 200 and told["feature_names"] == NAMES and told["bounds"] == [0, 4]
    want = np.asarray(NET.apply(variables, X))
    status, found = ask(port, "/predict", {"inputs": X.tolist()})
    assert status == 200
    np.testing.assert_allclose(found["outputs"], want, rtol=1e-5, atol=1e-6)
    named = [dict(zip(NAMES[::-1], row[::-1], strict=True)) for row in X.tolist()]
    assert ask(port, "/predict", {"inputs": named})[1] == found
    asked = {"inputs": X[:3].tolist(), "output": 1, "baseline": [0, 0, 0]}
    status, found = ask(port, "/explain", asked)
    assert status == 200 and found["directions"] == [1, 0, -1] and len(found["slopes"]) == 3
    slopes = jax.vmap(jax.jacrev(lambda x: NET.apply(variables, x)))(X[:3])[:, 1]
    seen = np.array([[row[name] for name in NAMES] for row in found["slopes"]])
    np.testing.assert_allclose(seen, slopes, rtol=1e-4, atol=1e-5)
    assert (seen[:, 0] >= 0).all() and (seen[:, 2] <= 0).all()
    # Shares and the error that is told make up the difference to the baseline.
    shares = np.array([[row[name] for name in NAMES] for row in found["shares"]]).sum(1)
    difference = want[:3, 1] - np.asarray(NET.apply(variables, 0 * X[:1]))[0, 1]
    np.testing.assert_allclose(shares + found["shares_error"], difference, atol=1e-5)
    assert np.abs(found["shares_error"]).max() < 0.1 * np.abs(difference).max()


def good(**more):
    return {"inputs": X.tolist(), **more}


WRONG = {
    "wrong width": ("/predict", {"inputs": [[1, 2]]}, 400, r"shape (3,)"),
    "one row": ("/predict", {"inputs": [1, 2, 3]}, 400, r"shape (3,)"),
    "ragged": ("/predict", {"inputs": [[1, 2, 3], [1, 2]]}, 400, "one length"),
    "texts": ("/predict", {"inputs": [["a", "b", "c"]]}, 400, "numbers"),
    "empty": ("/predict", {"inputs": []}, 400, "1 to 1024 rows"),
    "too many rows": ("/predict", {"inputs": [[0, 0, 0]] * 1025}, 400, "1 to 1024 rows"),
    "nothing": ("/predict", {}, 400, "1 to 1024 rows"),
    "not finite": ("/predict", b'{"inputs": [[NaN, 1, 2]]}', 400, "finite"),
    "beyond float32": ("/predict", {"inputs": [[1e39, 1, 2]]}, 400, "finite"),
    "huge integer": ("/predict", {"inputs": [[10**400, 1, 2]]}, 400, "numbers"),
    "null": ("/predict", {"inputs": [[None, 1, 2]]}, 400, "numbers"),
    "other names": ("/predict", {"inputs": [{"age": 1}]}, 400, "rate"),
    "no JSON": ("/predict", b"hello", 400, "no JSON"),
    "deep": ("/predict", b"[" * 100_000, 400, "no JSON"),
    "a list": ("/predict", [[1, 2, 3]], 400, "an object"),
    "unknown word": ("/predict", good(k=3), 400, "unknown: ['k']"),
    "no such output": ("/explain", good(output=2), 400, "0 to 1"),
    "output as text": ("/explain", good(output="1"), 400, "0 to 1"),
    "bad baseline": ("/explain", good(baseline=[0]), 400, "shape (3,)"),
    "no such page": ("/other", good(), 404, "POST /predict"),
    "no such page to read": ("/other", None, 404, "POST /predict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused(served, name):
    path, body, status, text = WRONG[name]
    found = ask(served[0], path, body)
    assert found[0] == status and text in found[1]["error"]


def test_oversized_bodies_are_refused_unread(served):
    """By the length they claim: nothing of them is sent here at all."""
    with socket.create_connection(("127.0.0.1", served[0]), timeout=300) as wire:
        wire.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        answer = wire.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413") and b"may have 1000000 bytes" in answer
    for length in (b"-1", b"lots"):
        with socket.create_connection(("127.0.0.1", served[0]), timeout=300) as wire:
            wire.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
            assert wire.makefile("rb").read().startswith(b"HTTP/1.1 411")
    assert ask(served[0], "/predict", good())[0] == 200  # it goes on
