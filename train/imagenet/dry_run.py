"""The pod on paper: compile the very step for a slice that is not there, and say what it costs.

python -m train --config imagenet --dry_run v5e:16x16    memory, FLOPs, collectives, bound
python -m train --config imagenet --dry_run cuda         proof that the step lowers for GPUs

Needs libtpu for slices (extra ``tpu``), no accelerator. Figures are the compiler's; times are
bounds at the vendor's peaks, not measurements.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monojax.training import Table, write_atomically
from monojax.training.workdir import plain_config
from train.imagenet.dry_run_costs import CHIPS, GIB, parse_slice, roofline

IMAGENET_TRAIN = 1_281_167
CUDA_DEVICES = 8  # simulated; the module is the same for more
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # silences libtpu; the slice's name decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened: two compilers may run at once
}
Compile = Callable[[dict[str, Any], str], dict[str, Any]]


def run(config: Any, workdir: Path, target: str) -> int:
    """Compiles, prints and writes the report.

    Args:
      config: the experiment's config.
      workdir: report files go there.
      target: slice or "cuda".

    Returns:
      0, or 1 if the batch does not fit the chips.

    Raises:
      ValueError: if there is no such slice, or the compiler fails otherwise.
      ImportError: without libtpu.
    """
    plain = plain_config(config)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    name = f"{target.replace(':', '_')}_batch{config.batch_size}"
    if target == "cuda":
        found = compile_in_child(plain, target)
        report = {"target": target, "batch_size": config.batch_size, **found}
        _write(workdir, name, report, _cuda_text(report))
        return 0
    report = price(plain, target, compile_in_child)
    _write(workdir, name, report, slice_table([report]).markdown())
    if report["fits"]:
        return 0
    print(f"train: {refusal(report)}", file=sys.stderr)
    return 1


def price(config: dict[str, Any], target: str, compile_step: Compile) -> dict[str, Any]:
    """What the step costs on a slice; where it does not fit, what the largest batch would cost.

    Args:
      config: plain config.
      target: slice.
      compile_step: ``(config, target) -> costs``, :func:`compile_in_child` or a stand-in.

    Returns:
      "target", "chips", "devices", "batch_size" (as asked), "fits"; of "compiled_batch", the
      asked one or the largest that fits: memory in bytes and the entries of `roofline`.

    Raises:
      ValueError: if there is no such slice, or nothing fits.
    """
    family, chips = parse_slice(target)
    costs = compile_step(config, target)
    report: dict[str, Any] = {
        "target": target,
        "chips": chips,
        "devices": costs["devices"],
        "hosts": costs["hosts"],
        "device_kind": costs["device_kind"],
        "batch_size": config["batch_size"],
        "fits": "used" not in costs,
        "memory_limit": CHIPS[family].memory,
    }
    batch = config["batch_size"]
    if not report["fits"]:
        report |= {"used": costs["used"], "limit": costs["limit"]}
        batch, costs = largest_batch(config, target, costs, compile_step)
    cores = costs["devices"] / chips
    report["compiled_batch"] = batch
    for key in ("arguments", "temporaries", "outputs", "aliased"):
        report[key] = cores * costs[key]
    report["collectives"], report["compile_seconds"] = costs["collectives"], costs["seconds"]
    return report | roofline(costs, family, chips, batch)


def largest_batch(
    config: dict[str, Any], target: str, costs: dict[str, Any], compile_step: Compile
) -> tuple[int, dict[str, Any]]:
    """The largest batch that fits, found by compiling.

    What is used grows linearly with the batch, nearly: a straight line through the arguments at
    batch 0 and the compiler's figure proposes the next batch, until one compiles.

    Args:
      config: plain config whose batch does not fit.
      target: slice.
      costs: of that batch: "devices", "argument_bytes", "used", "limit".
      compile_step: see :func:`price`.

    Returns:
      ``(batch, costs)``; the batch is a multiple of 8 per device, or less than 8 per device.

    Raises:
      ValueError: if not even one image per device fits.
    """
    devices = costs["devices"]
    rows = config["batch_size"] // devices
    while rows > 1:
        fixed = min(costs["argument_bytes"], 0.9 * costs["limit"])
        line = rows * (costs["limit"] - fixed) / max(costs["used"] - fixed, 1.0)
        rows = max(1, min(rows - 1, int(line)))
        rows = rows // 8 * 8 if rows >= 8 else rows
        smaller = {**config, "batch_size": rows * devices}
        costs = compile_step(smaller, target)
        if "used" not in costs:
            return rows * devices, costs
    raise ValueError(
        f"{target}: not even one image per device fits ({costs['used'] / GIB:.1f} GiB needed of "
        f"{costs['limit'] / GIB:.1f} GiB); use chips with more memory or a smaller model."
    )


def compile_in_child(config: dict[str, Any], target: str) -> dict[str, Any]:
    """Runs :mod:`train.imagenet.dry_run_child`.

    Args:
      config: plain config.
      target: slice or "cuda".

    Returns:
      What the child found.

    Raises:
      ValueError: if the compiler died, or found a mistake.
      ImportError: without libtpu.
    """
    environment = {**os.environ, **_ENVIRONMENT}
    if target == "cuda":
        flag = f"--xla_force_host_platform_device_count={CUDA_DEVICES}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    else:
        check_libtpu()
        environment.pop("XLA_FLAGS", None)  # flags of another backend abort libtpu
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked = {"config": config, "num_images": IMAGENET_TRAIN, "target": target}
        request.write_text(json.dumps({**asked, "devices": CUDA_DEVICES}))
        command = [sys.executable, "-m", "train.imagenet.dry_run_child", str(request), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode or not answer.exists():
            raise ValueError(child_died(target, done.returncode, done.stderr))
        found = json.loads(answer.read_text())
    if "error" in found:
        raise ValueError(f"{target}: {found['error']}")
    return found


def check_libtpu() -> None:
    """Raises unless libtpu can be imported.

    Raises:
      ImportError: naming the extra to install.
    """
    from monojax.base.extras import require

    require("libtpu", "tpu")


def child_died(target: str, code: int, stderr: str) -> str:
    """A message for a child that gave no answer.

    Args:
      target: what it compiled for.
      code: its exit status; negative for a signal.
      stderr: what it wrote.

    Returns:
      One or two sentences.
    """
    if code == -signal.SIGABRT:
        return (
            f"libtpu knows no slice {target}: it aborted. Slices that are known to work: "
            "v5e:2x4, v5e:4x4, v5e:8x8, v5e:16x16, v4:2x2x2, v4:4x4x4, v4:8x8x8, v5p:4x4x4, "
            "v5p:8x8x8, v6e:2x4, v6e:16x16."
        )
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit status {code}"
    last = "; ".join(line.strip() for line in stderr.strip().splitlines()[-3:])
    return f"the compiler for {target} {how}: {last[-800:]}"


def refusal(report: dict[str, Any]) -> str:
    """Why a batch is refused, and the largest that is not.

    Args:
      report: from :func:`price`, with "fits" False.

    Returns:
      One sentence.
    """
    return (
        f"a global batch of {report['batch_size']} does not fit {report['target']}: a device "
        f"needs {report['used'] / GIB:.2f} GiB of {report['limit'] / GIB:.2f} GiB. The largest "
        f"batch that does is {report['compiled_batch']} "
        f"(--config.batch_size={report['compiled_batch']})."
    )


def slice_table(reports: list[dict[str, Any]]) -> Table:
    """The reports side by side.

    Args:
      reports: from :func:`price`.

    Returns:
      Table; memory, FLOPs and bytes are per chip.
    """
    header = ["slice", "chips", "devices", "batch", "arguments GiB", "temporaries GiB"]
    header += ["limit GiB", "TFLOP", "memory GB", "collectives MB", "bound ms", "by", "images/s"]
    table = Table(header, "Per chip and step; times at the vendor's peaks, memory as XLA counts it")
    for report in reports:
        batch = str(report["batch_size"])
        if not report["fits"]:
            batch += f" does not fit; {report['compiled_batch']} does"
        table.add(
            report["target"],
            report["chips"],
            report["devices"],
            batch,
            f"{report['arguments'] / GIB:.2f}",
            f"{report['temporaries'] / GIB:.2f}",
            f"{report['memory_limit'] / GIB:.0f}",
            f"{report['flops'] / 1e12:.3f}",
            f"{report['bytes_accessed'] / 1e9:.2f}",
            f"{report['collective_bytes'] / 1e6:.1f}",
            f"{1e3 * report['step_s']:.2f}",
            report["bound"],
            f"{report['images_per_second']:,.0f}",
        )
    return table


def _cuda_text(report: dict[str, Any]) -> str:
    return (
        f"The step lowers for CUDA: {report['devices']} devices, global batch "
        f"{report['batch_size']}, {report['collectives']} all-reduce operations, a module of "
        f"{report['module_bytes'] / 1e6:.2f} MB, in {report['seconds']:.0f} s.\n"
    )


def _write(workdir: Path, name: str, report: dict[str, Any], text: str) -> None:
    """Prints the report and writes NAME.json and NAME.md."""
    print(text, flush=True)
    write_atomically(workdir / f"{name}.json", json.dumps(report, indent=2) + "\n")
    write_atomically(workdir / f"{name}.md", text)
