"""Serves one exported model over HTTP: predict and explain. One file; needs jax and flatbuffers.

    python serve.py MODEL [--port 8000]

``GET /`` says what the model is. ``POST /predict`` takes JSON ``{"inputs": [[...], ...]}``, a batch
of rows (one list of them per argument, for a model of several), and answers ``{"outputs": ...}``.
``POST /explain`` takes the same and, if wanted, ``"output"`` (which output, 0) and ``"baseline"``
(one row): it answers the slope of that output by every feature, and with a baseline each feature's
share of the difference to it, by integrated gradients. Rows may be objects ``{feature: number}``
where the model knows its features' names.

It listens on this machine alone unless ``--host`` says otherwise, and knows no passwords: put a
server that does in front of it. It runs files of
``mj.export``.
"""

import argparse
import functools
import json
import math
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

MOST_BYTES = 1_000_000
MOST_ROWS = 1024
SECONDS = 10
STEPS = 64


class Refused(Exception):
    """A request that is wrong; its text goes to the client."""

    def __init__(self, text, status=400):
        """`status` is HTTP's."""
        super().__init__(text)
        self.status = status


class Model:
    """An exported model, its metadata, and what requests make of it."""

    def __init__(self, path):
        """Reads the file at `path`."""
        try:
            with zipfile.ZipFile(path) as file:
                self.metadata = json.loads(file.read("metadata.json"))
                exported = jax.export.deserialize(bytearray(file.read("program.bin")))
        except Exception as error:  # whatever zipfile, json and jax raise on other files
            sys.exit(f"{path} is no file of mj.export ({type(error).__name__}: {error}).")
        platform = jax.default_backend().replace("gpu", "cuda")
        if platform not in exported.platforms:
            sys.exit(f"{path} was made for {', '.join(exported.platforms)}, not for {platform}.")
        self.inputs = self.metadata["inputs"]
        self.names = self.metadata.get("feature_names")
        self.run = jax.jit(exported.call)
        score = lambda output, *x: exported.call(*x).reshape(len(x[0]), -1)[:, output].sum()
        self.slopes = jax.jit(jax.grad(score, argnums=tuple(range(1, len(self.inputs) + 1))))

    def predict(self, request):
        """The outputs of a batch."""
        x, rows = self.batch(request.get("inputs"))
        outputs = [plain(y[:rows]) for y in jax.tree.leaves(self.run(*x))]
        return {"outputs": outputs if len(outputs) > 1 else outputs[0]}

    def explain(self, request):
        """Slopes, and shares of the difference to a baseline."""
        if not self.metadata["differentiable"]:
            raise Refused("this model was exported without derivatives.")
        x, rows = self.batch(request.get("inputs"))
        y = self.run(*x)
        if len(self.metadata["outputs"]) > 1:
            raise Refused("a model of several outputs can be asked to predict only.")
        y = y.reshape(len(y), -1)
        output = request.get("output", 0)
        if type(output) is not int or not 0 <= output < y.shape[1]:
            raise Refused(f"output must be an integer from 0 to {y.shape[1] - 1}.")
        answer = {"outputs": plain(y[:rows, output]), "output": output}
        answer["slopes"] = self.told([s[:rows] for s in self.slopes(output, *x)])
        answer["directions"] = self.metadata.get("directions")
        if "baseline" in request:
            one, count = self.batch(request["baseline"] if self.several else [request["baseline"]])
            if count != 1:
                raise Refused("baseline must be one row.")
            start = [np.broadcast_to(s[:1], a.shape) for s, a in zip(one, x, strict=True)]
            shares = [np.zeros(a.shape) for a in x]
            for step in (np.arange(STEPS) + 0.5) / STEPS:  # midpoints
                at = [(s + step * (a - s)).astype(a.dtype) for s, a in zip(start, x, strict=True)]
                for total, slope in zip(shares, self.slopes(output, *at), strict=True):
                    total += np.asarray(slope) / STEPS
            shares = [t * (a - s) for t, a, s in zip(shares, x, start, strict=True)]
            there = self.run(*start).reshape(len(y), -1)[:, output]
            summed = sum(s.reshape(len(s), -1).sum(1) for s in shares)
            error = np.asarray(y[:, output] - there, np.float64) - summed
            answer["shares"] = self.told([s[:rows] for s in shares])
            answer["shares_error"] = plain(error[:rows])
        return answer

    @property
    def several(self):
        """Whether the model takes more than one argument."""
        return len(self.inputs) > 1

    def batch(self, rows):
        """The arguments as arrays, and their number of rows before they were filled up."""
        given = rows if self.several else [rows]
        if not isinstance(given, list) or len(given) != len(self.inputs):
            raise Refused(f"inputs must be a list of {len(self.inputs)} batches.")
        found = [self.array(part, want) for part, want in zip(given, self.inputs, strict=True)]
        count = len(found[0])
        if any(len(x) != count for x in found):
            raise Refused("all arguments must have the same number of rows.")
        # Few shapes are compiled: batches of 1, 2, 4, ... rows.
        size = 1 << (count - 1).bit_length()
        return [np.concatenate([x, np.repeat(x[-1:], size - count, 0)]) for x in found], count

    def array(self, rows, want):
        """One argument."""
        shape = tuple(want["shape"][1:])
        if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
            raise Refused(f"inputs must be a list of 1 to {MOST_ROWS} rows.")
        if self.names and not self.several:
            rows = [self.ordered(row) if isinstance(row, dict) else row for row in rows]
        try:
            x = np.asarray(rows)
        except ValueError:
            raise Refused("inputs must be rows of one length.") from None
        if x.dtype.kind not in "if" or x.shape[1:] != shape:
            text = "numbers" if x.dtype.kind in "if" else "no plain numbers"
            raise Refused(f"each row must be numbers of shape {shape}; got {text}, {x.shape[1:]}.")
        dtype = jnp.dtype(want["dtype"])
        integers = jnp.issubdtype(dtype, jnp.integer)
        if integers and (x.dtype.kind == "f" or abs(x).max() > jnp.iinfo(dtype).max):
            raise Refused(f"inputs must be integers of {dtype}.")
        with np.errstate(over="ignore"):
            x = x.astype(dtype)
        if not np.isfinite(x.astype(np.float64)).all():
            raise Refused(f"inputs must be finite in {dtype}.")
        return x

    def ordered(self, row):
        """A row that came as {feature: number}."""
        if row.keys() != set(self.names):
            wrong = sorted(row.keys() ^ set(self.names))
            raise Refused(f"a row must name {self.names}; missing or unknown: {wrong[:5]}.")
        return [row[name] for name in self.names]

    def told(self, parts):
        """Numbers per feature: by name where the names are known."""
        if self.names:
            flat = np.concatenate([np.asarray(p).reshape(len(p), -1) for p in parts], 1)
            return [dict(zip(self.names, row, strict=True)) for row in plain(flat)]
        return [plain(p) for p in parts] if self.several else plain(parts[0])


def plain(array):
    """An array as lists; numbers that JSON does not have become null."""
    values = np.asarray(array, np.float64).tolist()
    clean = lambda v: [*map(clean, v)] if isinstance(v, list) else v if math.isfinite(v) else None
    return clean(values)


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON, always."""

    timeout = SECONDS
    protocol_version = "HTTP/1.1"

    def __init__(self, model, *args):
        """Of one `model`; the other arguments are the server's."""
        self.model = model
        super().__init__(*args)

    def do_GET(self):
        """What the model is."""
        if self.path != "/":
            return self.answer(404, {"error": "GET /, POST /predict or POST /explain."})
        told = {k: v for k, v in self.model.metadata.items() if k != "certificate"}
        return self.answer(200, told | {"certified": "certificate" in self.model.metadata})

    def do_POST(self):
        """Predict or explain."""
        try:
            request = self.read()
            kinds = {"/predict": self.model.predict, "/explain": self.model.explain}
            if self.path not in kinds:
                raise Refused("POST /predict or POST /explain.", 404)
            self.answer(200, kinds[self.path](request))
        except Refused as error:
            self.answer(error.status, {"error": str(error)})
        except TimeoutError:
            self.close_connection = True
        except Exception as error:  # a fault of ours: the client learns no more than its kind
            print(f"serve: {type(error).__name__}: {error}", file=sys.stderr)
            self.answer(500, {"error": "the model failed on this request."})

    def read(self):
        """The request's JSON, once its size is known to be bearable."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            raise Refused("a request needs a Content-Length.", 411)
        if int(length) > MOST_BYTES:
            self.close_connection = True  # its body is not read
            raise Refused(f"a request may have {MOST_BYTES} bytes, got {int(length)}.", 413)
        body = self.rfile.read(int(length))
        try:
            refuse = lambda name: math.nan  # NaN and Infinity are told below, as not finite
            request = json.loads(body, parse_constant=refuse)
        except (ValueError, RecursionError):
            raise Refused("the body is no JSON.") from None
        if not isinstance(request, dict):
            raise Refused('the body must be an object, {"inputs": [[...], ...]}.')
        known = {"inputs", "output", "baseline"}
        if unknown := sorted(request.keys() - known):
            raise Refused(f"unknown: {unknown[:5]}; known are {sorted(known)}.")
        return request

    def answer(self, status, content):
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Quiet; errors are printed where they happen."""


def server(path, host="127.0.0.1", port=8000):
    """A server that is ready to run; port 0 takes a free one."""
    return ThreadingHTTPServer((host, port), functools.partial(Handler, Model(path)))


def main():
    """Runs until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a file of mj.export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    known = parser.parse_args()
    try:
        running = server(known.model, known.host, known.port)
    except OSError as error:
        sys.exit(f"cannot listen at {known.host}:{known.port}: {error.strerror}; try --port.")
    print(f"serve: http://{known.host}:{running.server_port}/ (Ctrl-C stops)", flush=True)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        running.server_close()


if __name__ == "__main__":
    main()
