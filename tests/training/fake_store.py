r"""A run in gs://bucket/run, killed and resumed, with a fake of Google's store on this machine.

python tests/training/fake_store.py [--port 9023]

Needs gcsfs, google-cloud-storage and gcp-storage-emulator. Prints a line of JSON.
"""

import argparse
import contextlib
import json
import os


def main(port: int) -> None:
    """Starts the store, runs, is killed, resumes."""
    address = f"http://127.0.0.1:{port}"
    # The first is read by gcsfs and Google's client, the second by orbax's tensorstore.
    os.environ |= {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    os.environ |= {"NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
    os.environ |= {"GCE_METADATA_HOST": "127.0.0.1:1", "GCE_METADATA_ROOT": "127.0.0.1:1"}
    os.environ |= {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    try:
        print(json.dumps(killed_and_resumed()), flush=True)
    finally:
        server.stop()


def killed_and_resumed() -> dict:
    """What is in the store after a run of 6 steps that was killed in its sixth."""
    import jax.numpy as jnp
    from etils import epath

    from monojax import training

    def go(killed_at):
        def advance(state, batch):
            if int(state["n"]) == killed_at:
                raise RuntimeError("killed")
            return {"n": state["n"] + 1, "w": state["w"] * 0.5}, {"loss": state["w"].sum()}

        return training.fit(
            {"n": jnp.int32(0), "w": jnp.ones(3)},
            advance,
            training.Schedule(6, eval_every=2, checkpoint_every=2),
            keep=training.Keep("gs://bucket/run", {"lr": 0.1}, best=("size", "min")),
            evaluate=lambda state: {"size": state["w"].sum()},
            bar=False,
        )

    with contextlib.suppress(RuntimeError):
        go(killed_at=5)
    run = go(killed_at=-1)
    directory = epath.Path("gs://bucket/run")
    return {
        "resumed_from": run.resumed_from,
        "w": run.state["w"].tolist(),
        "steps": [line["step"] for line in training.read_metrics(directory) if "loss" in line],
        "checkpoints": sorted(path.name for path in (directory / "checkpoints").iterdir()),
        "best": sorted(path.name for path in (directory / "best").iterdir()),
        "tensorboard": len(list((directory / "tensorboard").iterdir())) > 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9023)
    main(parser.parse_args().port)
