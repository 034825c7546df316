"""Shared fixtures. Eight simulated devices, so that pmap is tested in every run."""

import contextlib
import ctypes
import gc
import os

_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jaxlib  # noqa: E402
import pytest  # noqa: E402

_LIBC = ctypes.CDLL(None) if os.name == "posix" else None
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def x64():
    """Float64 inside the test."""
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        from jax.experimental import enable_x64 as enable
    with enable(True):
        yield


_UNOPTIMISED = "jax_disable_most_optimizations"


@contextlib.contextmanager
def _optimiser(node):
    """LLVM's optimiser is on for tests (or modules) marked `slow` or `optimised`, else off.

    Most tests compile many programs and run each of them once.
    """
    before = jax.config.read(_UNOPTIMISED)
    keep = any(node.get_closest_marker(name) for name in ("slow", "optimised"))
    jax.config.update(_UNOPTIMISED, not keep)
    yield
    jax.config.update(_UNOPTIMISED, before)


@pytest.fixture(scope="module", autouse=True)
def _module_optimiser(request):
    with _optimiser(request.node):
        yield


@pytest.fixture(autouse=True)
def _test_optimiser(request):
    with _optimiser(request.node):
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget():
    """Compiled programs go with their module: a worker stays below 2 GiB."""
    yield
    jax.clear_caches()
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):  # glibc keeps freed pages otherwise
        _LIBC.malloc_trim(0)


def _compile_faster(config):
    """Fusions by XLA's older emitter in the quick run: half of the CPU time of compiling.

    jaxlib 0.11 has no choice any more, and ends at a flag that it does not know. The slow tests
    (`-m slow`) compile as a user's programs do.
    """
    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
    if version < (0, 11) and "not slow" in config.getoption("markexpr", ""):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Compiled programs are kept on disk, so that running the tests again is quick."""
    _compile_faster(config)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and hasattr(config, "cache"):
        folder = config.cache.mkdir("jax")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_collection_finish():
    """What was imported stays: the collector need not look at it after every module."""
    gc.collect()
    gc.freeze()


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
