"""The pod on paper: arithmetic with stand-ins; the quick model compiled where libtpu is."""

import functools
import json

import pytest
from pods import FAKE

from train.__main__ import CONFIGS, main
from train.arguments import parse
from train.imagenet import dry_run, dry_run_costs, dry_run_table
from train.imagenet.dry_run_child import out_of_memory

GIB = dry_run_costs.GIB


def test_slices():
    assert dry_run_costs.parse_slice("v5e:16x16") == ("v5e", 256)
    assert dry_run_costs.parse_slice("v5p:8x8x8") == ("v5p", 512)
    for name in ("v5e", "v3:2x2", "v5e:2", "v5e:2x", "2x4", "cuda:2x4"):
        with pytest.raises(ValueError, match=r"is no slice; give FAMILY:AxB"):
            dry_run_costs.parse_slice(name)
    for name, most in (("v5e:16x32", 256), ("v6e:32x16", 256), ("v4:8x8x16", 512)):
        with pytest.raises(ValueError, match=f"up to {most} chips"):
            dry_run_costs.parse_slice(name)


def test_collectives_are_counted_with_their_bytes():
    hlo = """
  %p = f32[8,16]{1,0} parameter(0)
  %all-reduce.1 = f32[8,16]{1,0:T(8,128)} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  %r = (f32[4]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-start(%a, %b, %c), channel_id=2
  %d = (f32[4]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-done(%r)
  %g = (bf16[4]{0}, bf16[32]{0}) all-gather-start(%x), dimensions={0}
  %s = u8[3]{0} collective-permute(%y), source_target_pairs={{0,1}}
  %f = f32[9]{0} fusion(%all-reduce.1), calls=%all-reduce_fusion
"""
    assert dry_run_costs.collectives(hlo) == {
        "all-reduce": {"count": 2, "bytes": 4 * 128 + 16 + 12 + 4},
        "all-gather": {"count": 1, "bytes": 64},
        "collective-permute": {"count": 1, "bytes": 3},
    }


def costs(devices=8, flops=1.97e12, memory=8.19e9, reduced=4e6):
    found = {"devices": devices, "hosts": 2, "device_kind": "TPU v5 lite", "seconds": 1.0}
    moved = {"all-reduce": {"count": 3, "bytes": reduced}}
    return found | {"flops": flops, "bytes_accessed": memory, "collectives": moved}


def test_the_bound_is_the_slowest_of_three():
    """10 ms of arithmetic and of memory on v5e; 8 devices send 2 * 7/8 of the reduced bytes."""
    got = dry_run_costs.roofline(costs(reduced=4e9), "v5e", 8, 1024)
    assert got["compute_s"] == pytest.approx(0.01) and got["memory_s"] == pytest.approx(0.01)
    assert got["wire_bytes"] == pytest.approx(7e9)
    assert got["links_s"] == got["step_s"] == pytest.approx(7e9 / 200e9) and got["bound"] == "links"
    assert got["images_per_second"] == pytest.approx(1024 / 0.035)
    got = dry_run_costs.roofline(costs(memory=2 * 8.19e9), "v5e", 8, 1024)
    assert got["bound"] == "memory" and got["step_s"] == pytest.approx(0.02)


def test_chips_of_two_devices_add_up():
    got = dry_run_costs.roofline(costs(devices=128), "v4", 64, 1024)
    assert got["flops"] == 2 * 1.97e12 and got["bytes_accessed"] == 2 * 8.19e9
    assert got["collective_bytes"] == 8e6


def line(limit=16.0, fixed=1.0, each=0.1):
    """A stand-in for the compiler: memory that grows on a straight line; notes what was asked."""
    asked = []

    def compile_step(config, target):
        batch = config["batch_size"]
        asked.append(batch)
        used = (fixed + each * batch / 8) * GIB
        found = costs() | {"argument_bytes": fixed * GIB}
        if used > limit * GIB:
            return found | {"used": used, "limit": limit * GIB}
        parts = dict(arguments=fixed * GIB, temporaries=used - fixed * GIB, outputs=0, aliased=0)
        return found | parts

    return compile_step, asked


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does():
    compile_step, asked = line()
    report = dry_run.price({"batch_size": 4096}, "v5e:2x4", compile_step)
    # 1 + 0.1 rows <= 16 GiB: 150 rows a device, in eights 144.
    assert not report["fits"] and report["compiled_batch"] == 144 * 8 and asked == [4096, 1152]
    said = dry_run.refusal(report)
    assert "batch of 4096 does not fit v5e:2x4: a device needs 52.20 GiB of 16.00 GiB" in said
    assert "--config.batch_size=1152" in said
    assert "4096 does not fit; 1152 does" in dry_run.slice_table([report]).markdown()
    assert report["images_per_second"] == pytest.approx(1152 / report["step_s"])


def test_a_batch_that_fits():
    compile_step, asked = line()
    report = dry_run.price({"batch_size": 1024}, "v5e:2x4", compile_step)
    assert report["fits"] and report["compiled_batch"] == 1024 and asked == [1024]
    assert report["arguments"] == GIB and report["temporaries"] == pytest.approx(12.8 * GIB)
    assert report["chips"] == report["devices"] == 8


def test_few_rows_and_none():
    compile_step, _ = line(each=3.0)
    assert dry_run.price({"batch_size": 80}, "v5e:2x4", compile_step)["compiled_batch"] == 40
    compile_step, _ = line(fixed=20.0)
    with pytest.raises(ValueError, match="not even one image per device fits"):
        dry_run.price({"batch_size": 80}, "v5e:2x4", compile_step)


def test_efficiency_is_reckoned_from_the_parts(tmp_path, capsys):
    """10 ms of work, 4 GB reduced: 2 (n - 1) / n * 20 ms on the links, 3 collectives."""
    for target, chips in (("v5e:2x4", 8), ("v5e:16x16", 256)):
        found = costs(devices=chips, reduced=4e9)
        found |= dict(arguments=GIB, temporaries=GIB, outputs=0, aliased=0)
        answer = functools.partial(lambda found, config, target: found, found)
        report = dry_run.price({"batch_size": 4 * chips}, target, answer)
        (tmp_path / f"{target.replace(':', '_')}.json").write_text(json.dumps(report))
    assert dry_run_table.main(tmp_path, tmp_path) == 0
    small, large = (40 * (n - 1) / n for n in (8, 256))  # ms on the links
    row = (tmp_path / "scaling.csv").read_text().splitlines()[-1].split(",")
    assert row[0] == "256" and float(row[5]) == pytest.approx(large, abs=0.01)
    assert row[7] == f"{100 * small / large:.1f}%"
    assert row[8] == f"{100 * (10 + small) / (10 + large):.1f}%"
    latency = [3 * 2 * hops * 1e-3 for hops in (1 + 2, 8 + 8)]
    assert row[9] == f"{100 * (10 + small + latency[0]) / (10 + large + latency[1]):.1f}%"
    assert (tmp_path / "slices.md").read_text().count("| v5e:") == 2
    assert dry_run_table.main(tmp_path / "nothing", tmp_path) == 1
    assert "no report" in capsys.readouterr().err


def test_the_compilers_complaint_is_read():
    said = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
    said += " hbm. Used 18.51G of 15.75G hbm. Exceeded hbm capacity by 2.76G."
    assert out_of_memory(said) == {"used": 18.51 * GIB, "limit": 15.75 * GIB}
    with pytest.raises(ValueError, match="the compiler failed: INTERNAL"):
        out_of_memory("INTERNAL: something else")


def test_a_dead_child_is_explained():
    assert "libtpu knows no slice v5e:16x32" in dry_run.child_died("v5e:16x32", -6, "")
    said = dry_run.child_died("v5e:2x4", -9, "a\nb\n")
    assert "was killed by signal 9: a; b" in said


def test_command_line(tmp_path, capsys):
    assert main([*FAKE, "--dry_run=v5e:16x32", f"--workdir={tmp_path}"]) == 1
    assert "up to 256 chips" in capsys.readouterr().err
    assert main(["--config=main:quick", "--dry_run=v5e:2x4"]) == 1
    assert "experiment 'penalties' has no dry run; imagenet has" in capsys.readouterr().err


@pytest.mark.slow
def test_the_step_lowers_for_cuda(tmp_path, capsys):
    assert main([*FAKE, "--dry_run=cuda", f"--workdir={tmp_path}"]) == 0
    report = json.loads((tmp_path / "dry_run" / "cuda_batch16.json").read_text())
    assert report["devices"] == 8 and report["collectives"] >= 20  # a batch norm each, gradients
    assert "The step lowers for CUDA: 8 devices" in capsys.readouterr().out


QUICK = ("--config=imagenet:quick", "--config.model.dtype=bfloat16", "--config.data.size=32")


@pytest.mark.slow  # the compiler takes half a minute for each
def test_the_quick_model_compiles_for_v5e(tmp_path):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu (extra tpu)")
    reports = {}
    for target, batch in (("v5e:2x4", 32), ("v5e:4x4", 64)):
        argv = [*QUICK, f"--config.batch_size={batch}", f"--dry_run={target}"]
        assert main([*argv, f"--workdir={tmp_path}"]) == 0
        name = f"{target.replace(':', '_')}_batch{batch}"
        reports[target] = json.loads((tmp_path / "dry_run" / f"{name}.json").read_text())
        assert target in (tmp_path / "dry_run" / f"{name}.md").read_text()
    small, large = reports["v5e:2x4"], reports["v5e:4x4"]
    assert (small["chips"], small["devices"], small["hosts"]) == (8, 8, 2)
    assert large["hosts"] == 4
    # Work per chip does not grow with the number of chips.
    assert large["flops"] == pytest.approx(small["flops"], rel=0.01)
    assert large["collective_bytes"] == pytest.approx(small["collective_bytes"], rel=0.01)
    # All gradients travel, in float32, and little else: batch statistics and metrics.
    import jax

    from train.imagenet.model import abstract_inputs

    config = parse([*QUICK], CONFIGS)[0]
    state, _ = abstract_inputs(config, 250, 8)
    gradients = sum(4 * leaf.size // 8 for leaf in jax.tree.leaves(state.params))
    assert gradients <= small["collective_bytes"] <= 1.2 * gradients
    assert small["arguments"] >= 2 * gradients  # parameters and momentum
    assert 0 < small["temporaries"] < small["memory_limit"]


@pytest.mark.slow
def test_a_slice_that_libtpu_does_not_have(tmp_path, capsys):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu (extra tpu)")
    assert main([*QUICK, "--dry_run=v5p:1x3x5", f"--workdir={tmp_path}"]) == 1
    assert "v5p:1x3x5" in capsys.readouterr().err
