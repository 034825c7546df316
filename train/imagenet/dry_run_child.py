"""Compiles a step for absent devices, in a process of its own: libtpu aborts on what it dislikes.

python -m train.imagenet.dry_run_child REQUEST.json ANSWER.json
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

_SIZES = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_for_slice(config: Any, num_images: int, slice_name: str) -> dict[str, Any]:
    """One device's costs of the training step on a TPU slice.

    Args:
      config: the experiment's config.
      num_images: of the training part; only the schedule depends on it.
      slice_name: such as "v5e:16x16".

    Returns:
      "devices", "hosts", "device_kind", "seconds"; then "arguments", "outputs", "aliased",
      "temporaries" (bytes), "flops", "bytes_accessed", "collectives"; or, where the compiler
      finds that it does not fit, "used" and "limit" (bytes).

    Raises:
      ValueError: if there is no such slice, or the batch does not divide by its devices.
    """
    import jax
    from jax.experimental import topologies

    from train.imagenet.dry_run_costs import collectives
    from train.imagenet.model import abstract_inputs, train_program

    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=slice_name)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu has no such slice ({error})") from error
    devices: list[Any] = list(topology.devices)
    found: dict[str, Any] = {
        "devices": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "device_kind": devices[0].device_kind,
    }
    begin = time.monotonic()
    inputs = abstract_inputs(config, num_images, len(devices))
    found["argument_bytes"] = sum(
        leaf.dtype.itemsize * leaf.size // len(devices)
        for leaf in jax.tree.leaves(inputs)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    lowered = train_program(config, num_images, devices).lower(*inputs)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return found | out_of_memory(str(error)) | {"seconds": time.monotonic() - begin}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return found | {
        "seconds": time.monotonic() - begin,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "collectives": collectives(compiled.as_text()),
    }


def lower_for_cuda(config: Any, num_images: int, num_devices: int) -> dict[str, Any]:
    """Lowers the training step for CUDA, as proof that it lowers; nothing is compiled.

    Args:
      config: the experiment's config.
      num_images: of the training part.
      num_devices: GPUs over all hosts, simulated ones here.

    Returns:
      "devices", "module_bytes", "collectives" (operations in the lowered module), "seconds".
    """
    import jax
    from jax import export

    from train.imagenet.model import abstract_inputs, train_program

    begin = time.monotonic()
    step = train_program(config, num_images, jax.devices()[:num_devices])
    inputs = abstract_inputs(config, num_images, num_devices)
    exported = export.export(jax.jit(step), platforms=("cuda",))(*inputs)
    text = exported.mlir_module()
    return {
        "devices": num_devices,
        "module_bytes": len(exported.mlir_module_serialized),
        "collectives": len(re.findall(r"stablehlo\.all_reduce", text)),
        "seconds": time.monotonic() - begin,
    }


def out_of_memory(message: str) -> dict[str, float]:
    """Reads the compiler's complaint.

    Args:
      message: the error's text.

    Returns:
      "used" and "limit" in bytes.

    Raises:
      ValueError: if it is another error.
    """
    match = re.search(r"Used ([\d.]+)([BKMGT]) of ([\d.]+)([BKMGT]) hbm", message)
    if match is None:
        raise ValueError(f"the compiler failed: {message[:2000]}")
    used, used_unit, limit, limit_unit = match.groups()
    return {"used": float(used) * _SIZES[used_unit], "limit": float(limit) * _SIZES[limit_unit]}


def main(request: Path, answer: Path) -> int:
    """Answers one request.

    Args:
      request: JSON with "config", "num_images", "target", and "devices" for CUDA.
      answer: where to write what was found, or {"error"}.

    Returns:
      0.
    """
    import ml_collections

    asked = json.loads(request.read_text())
    config = ml_collections.ConfigDict(asked["config"])
    try:
        if asked["target"] == "cuda":
            found = lower_for_cuda(config, asked["num_images"], asked["devices"])
        else:
            found = compile_for_slice(config, asked["num_images"], asked["target"])
    except ValueError as error:
        found = {"error": str(error)}
    answer.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
