"""Shared fixtures. Eight simulated devices, so that pmap is tested in every run."""

import os

_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def x64():
    """Float64 inside the test."""
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        from jax.experimental import enable_x64 as enable
    with enable(True):
        yield


@pytest.fixture(scope="module")
def quick_compiles():
    """LLVM's optimiser off: for files that compile many programs and run each of them once."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture
def checkout() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The shared data: MONOJAX_DATA, or the folder beside the checkout; skips without it."""
    path = Path(os.environ.get("MONOJAX_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("no data: set MONOJAX_DATA to a folder laid out as BUILD.md says")
    return path
