"""The stages of scripts/gpu-check that check: tests, golden cases, training, use, the sanitizer; and the table."""

import array
import glob
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
import traceback

from gpu_check_bench import (stage_bench, stage_peers_attention, stage_peers_step, stage_peers_step_large, stage_pretrain,
                             stage_recompute)
from gpu_check_run import BACKEND, DRY, DRY_TESTS, Check, find_device

NO_TESTS = "no test labelled gpu in the pack, or none that --only takes"


def nothing_to_check(check, what, why):
    """A row for a stage that found nothing to run: no pass, but where a dry run was made without it."""
    check.row(what, "skipped" if DRY else "failed", detail=why)


def stage_tests(check):
    tests = [] if DRY else check.tests()
    if DRY:
        tests = [t for t in check.manifest["tests"] if t["name"] in DRY_TESTS]
    if not tests:
        nothing_to_check(check, "tests", NO_TESTS)
    for test in tests:
        environment = dict(word.split("=", 1) for word in test["environment"])
        status, _, said, seconds = check.run([check.path("bin", test["program"]), *test["arguments"]], 180, environment)
        check.verdict(test["name"], status, said, seconds)


def stage_golden(check):
    cases = sorted(glob.glob(check.path("golden", "*", "case.json")))
    if DRY:
        cases = [c for c in cases if "pretrain-l3m" in c]
    if not cases or not os.path.exists(check.path("bin", "golden")):
        nothing_to_check(check, "golden cases", "no cases or no golden program in the pack")
        return
    for case in cases:
        folder = os.path.dirname(case)
        status, _, said, seconds = check.run([check.path("bin", "golden"), f"backend={BACKEND}", folder], 120)
        check.verdict(f"golden {os.path.basename(folder)}, fp32 and bf16", status, said, seconds)


# ---- training --------------------------------------------------------------------------------------------------------


def images_of(check):
    """CIFAR-10 where it was packed, else synthetic images of the same size."""
    if check.manifest["images"]:
        return check.path("images", "train"), "CIFAR-10"
    folder = os.path.join(check.scratch, "synth")
    check.program("synth", folder, "train=2000", "val=10", "size=32")
    return os.path.join(folder, "train"), "synth"


def train(check, name, steps, *words, limit=240, ranks=1):
    """Losses step by step of a fresh run named `name`, or None and why not."""
    run = os.path.join(check.scratch, name)
    images, _ = images_of(check)
    small = ["model.width=64", "model.heads=2", "model.blocks=2", "train.batch=8"] if DRY else []
    start = check.program if ranks == 1 else lambda *words, limit: check.ranks(ranks, *words, limit=limit)
    status, _, said, seconds = start(
        "pretrain", check.path("recipes", "cifar10.yaml"), f"data.train={images}", f"run.dir={run}",
        f"train.steps={steps}", f"checkpoint.every={steps}", "train.log_every=1", "seed=1", *small, *words, limit=limit)
    if status != 0:
        return None, said, seconds
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line["loss"] for line in lines if "loss" in line], "", seconds


def largest(values):
    """NaN where one is not finite, which max() drops unless it comes first, and where there is none."""
    values = list(values)
    return max(values) if values and all(map(math.isfinite, values)) else math.nan


def curve_distance(a, b, window):
    """Largest relative distance of two loss curves, each the mean of `window` steps; NaN: one is not finite."""
    def means(curve):
        return [sum(curve[i:i + window]) / window for i in range(0, len(curve) - window + 1, window)]
    return largest(abs(x - y) / y for x, y in zip(means(a), means(b)))


def stage_train(check):
    """On equal data the curves differ by rounding alone: 1 % in fp32, 3 % in bf16, in means of 20 steps."""
    steps, window = (20, 5) if DRY else (200, 20)
    images = images_of(check)[1]
    cpu, why, seconds = train(check, "curve-cpu", steps, "backend=cpu", "precision=fp32", limit=300)
    if cpu is None:
        check.row("loss curve on the CPU", "failed", detail=why, seconds=seconds)
        return
    for precision, bound in (("fp32", 0.01), ("bf16", 0.03)):
        what = f"{steps} steps on {images} follow the CPU's loss, {precision}"
        curve, why, seconds = train(check, f"curve-{precision}", steps, f"backend={BACKEND}", f"precision={precision}",
                                    *(["threads=1"] if DRY else []))
        if curve is None:
            skipped = DRY and "bf16" in why
            check.row(what, "skipped" if skipped else "failed", detail=why, seconds=seconds)
            continue
        distance = curve_distance(curve, cpu, window) if len(curve) == len(cpu) == steps else float("nan")
        check.row(what, "passed" if distance <= bound else "failed", f"{100 * distance:.3g} % off",
                  f"{100 * bound:g} %", seconds)
    check.raw["loss on the CPU"] = cpu


def repeat(check, steps, ranks=1):
    """The same run twice: the weights at the end, and so every step between, have the same bits."""
    where = "" if ranks == 1 else f", {ranks} ranks"
    for precision in ("fp32",) if DRY else ("fp32", "bf16"):
        sums, what, spent = [], f"{steps} steps twice, the same bits, {precision}{where}", 0.0
        for turn in range(2):
            name = f"repeat-{ranks}-{precision}-{turn}"
            curve, why, seconds = train(check, name, steps, f"backend={BACKEND}", f"precision={precision}", ranks=ranks)
            spent += seconds
            if curve is None:
                check.row(what, "failed", detail=why, seconds=spent)
                break
            path = os.path.join(check.scratch, name, "checkpoints", f"step-{steps:08d}", "model.safetensors")
            with open(path, "rb") as file:
                sums.append(hashlib.sha256(file.read()).hexdigest())
        else:
            check.row(what, "passed" if sums[0] == sums[1] else "failed", sums[0][:16], seconds=spent,
                      detail="" if sums[0] == sums[1] else f"then {sums[1][:16]}")


def stage_repeat(check):
    repeat(check, 5 if DRY else 50)


def stage_ranks(check):
    """Several GPUs, where there are, or RANKS processes that share one: sums through NCCL, the loss of one GPU, the same
    bits twice."""
    ranks = int(os.environ.get("RANKS", check.gpus))
    if DRY or ranks < 2:
        check.row("ranks", "skipped", detail="dry run" if DRY else "one GPU, which RANKS=2 would share (NCCL 2.30)")
        return
    if ranks > check.gpus:
        check.row("ranks", "measured", f"{ranks} share a GPU", detail="whether they are right; times mean nothing")
    status, out, said, seconds = check.ranks(ranks, "bench", "allreduce", "--json", f"backend={BACKEND}")
    if check.verdict(f"bench allreduce, {ranks} ranks", status, said, seconds):
        lines = check.raw["bench allreduce"] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        last = lines[-1]
        check.row(f"sum of {last['bytes'] / 2**20:g} MiB over {ranks} ranks", "measured",
                  f"{last['gbytes_per_s']:.4g} GB/s a link")
    steps, window = 20, 5
    for precision, bound in (("fp32", 0.01), ("bf16", 0.03)):
        curves, what = {}, f"{steps} steps on {ranks} ranks follow the loss of one, {precision}"
        for n in (1, ranks):
            curves[n], why, seconds = train(check, f"ranks-{precision}-{n}", steps, f"backend={BACKEND}",
                                            f"precision={precision}", ranks=n)
            if curves[n] is None:
                check.row(what, "failed", detail=why, seconds=seconds)
                return
        distance = curve_distance(curves[ranks], curves[1], window)
        check.row(what, "passed" if distance <= bound else "failed", f"{100 * distance:.3g} % off", f"{100 * bound:g} %")
    repeat(check, steps, ranks)
    program = check.path("bin", "test_gpu_ranks")
    if os.path.exists(program):
        status, out, said, seconds = check.run([program], 420)
        if status == 77:  # four ranks on fewer GPUs, and NCCL is too old for that
            check.row("gpu.ranks", "skipped", detail=out.strip().splitlines()[-1], seconds=seconds)
        else:
            check.verdict("gpu.ranks", status, said, seconds)


# ---- sanitizer -------------------------------------------------------------------------------------------------------


# Why not. The other tests race the kernels of a model's passes one by one.
WHOLE_PASSES = "whole passes of a model: minutes"
NOT_RACECHECKED = {"test_gpu_ops_matmul": "cuBLASLt's kernels, not ours", "test_gpu_ops_prepared": WHOLE_PASSES,
                   "test_gpu_model": WHOLE_PASSES, "test_gpu_model_recompute": WHOLE_PASSES,
                   "test_gpu_attentive_head": WHOLE_PASSES, "test_gpu_optimiser": WHOLE_PASSES,
                   "test_gpu_attention": "as many heads as fill a GPU, and cuDNN's kernels: minutes"}


def stage_sanitizer(check):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    tests = check.tests()
    if DRY or not tests:
        nothing_to_check(check, "compute-sanitizer", "dry run" if DRY else NO_TESTS)
        return
    if not sanitizer:
        check.row("compute-sanitizer", "skipped", detail="no compute-sanitizer here")
        return
    for tool in ("memcheck", "racecheck"):
        for test in tests:
            if tool == "racecheck" and test["program"] in NOT_RACECHECKED:
                check.row(f"{tool} {test['name']}", "skipped", detail=NOT_RACECHECKED[test["program"]])
                continue
            environment = dict(word.split("=", 1) for word in test["environment"])
            status, out, said, seconds = check.run(
                [sanitizer, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", "1",
                 check.path("bin", test["program"]), *test["arguments"]], 240, environment)
            if status not in (0, None) and "Device not supported" in out:
                check.row(f"{tool} {test['name']}", "skipped", detail="compute-sanitizer refuses this device")
                continue
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", out)
            check.verdict(f"{tool} {test['name']}", status, summary[-1] if summary else said, seconds)


# ---- use ----


def array_of(path):
    """The float32 values of a .npy file."""
    with open(path, "rb") as file:
        data = file.read()
    start = 10 + int.from_bytes(data[8:10], "little")
    values = array.array("f")
    values.frombytes(data[start:])
    return values


def features_distance(ours, theirs):
    """Largest distance in parts of their largest value; NaN: lengths differ, nothing there, or not finite."""
    if len(ours) != len(theirs):
        return math.nan
    return largest(abs(a - b) for a, b in zip(ours, theirs)) / (largest(map(abs, theirs)) or math.nan)


def stage_use(check):
    """What is done with a trained model, on the GPU: probe; eval, loss and features as the CPU's; complete."""
    _, why, seconds = train(check, "use", 5 if DRY else 200, f"backend={BACKEND}", "precision=fp32")
    model = os.path.join(check.scratch, "use")
    if why:
        check.row("a model to use", "failed", detail=why, seconds=seconds)
        return
    data, out = os.path.join(check.scratch, "synth-use"), lambda name: os.path.join(check.scratch, name)
    check.program("synth", data, "train=200", "val=100", "size=32")
    where, probe = [f"backend={BACKEND}", "precision=fp32"], out("probe.safetensors")
    status, _, said, seconds = check.program("probe", model, f"data={data}", f"out={probe}", "probe.epochs=1", *where)
    check.verdict("probe", status, said, seconds)
    scores, losses = {}, {}
    for backend in dict.fromkeys((BACKEND, "cpu")):
        result = out(f"eval-{backend}.json")
        words = ["eval", probe, f"data={data}", f"json={result}", f"backend={backend}", "precision=fp32"]
        status, _, said, seconds = check.program(*words)
        if check.verdict(f"eval, {backend}", status, said, seconds):
            with open(result, encoding="utf-8") as file:
                scores[backend] = json.load(file)["top1"]
        words = ["loss", model, f"data={data}", f"json={result}", f"backend={backend}", "precision=fp32"]
        status, _, said, seconds = check.program(*words)
        if check.verdict(f"loss, {backend}", status, said, seconds):
            with open(result, encoding="utf-8") as file:
                losses[backend] = json.load(file)["loss"]
        words = ["features", model, os.path.join(data, "val"), f"out={out(backend + '.npy')}", f"backend={backend}"]
        status, _, said, seconds = check.program(*words, "precision=fp32")
        check.verdict(f"features, {backend}", status, said, seconds)
    if len(losses) == 2:
        off = abs(losses[BACKEND] / losses["cpu"] - 1)
        check.row("loss as on the CPU", "passed" if off <= 1e-4 else "failed", f"{off:.3g} of it off", "1e-4")
    if len(scores) == 2:
        off = abs(scores["cpu"] - scores[BACKEND])
        check.row("eval as on the CPU", "passed" if off <= 1 else "failed", f"top-1 {off:.3g} % off", "1 %")
        off = features_distance(array_of(out(BACKEND + ".npy")), array_of(out("cpu.npy")))
        result = "passed" if off <= 1e-3 else "failed"
        check.row("features as on the CPU", result, f"{off:.3g} of the largest off", "1e-3")
    picture = sorted(glob.glob(os.path.join(data, "val", "*", "*.png")))[0]
    status, _, said, seconds = check.program("complete", model, picture, f"out={out('next.png')}", *where)
    check.verdict("complete", status, said, seconds)


STAGES = {"tests": stage_tests, "golden": stage_golden, "train": stage_train, "repeat": stage_repeat,
          "ranks": stage_ranks, "use": stage_use, "sanitizer": stage_sanitizer, "bench": stage_bench, "recompute": stage_recompute, "pretrain": stage_pretrain,
          "peers_attention": stage_peers_attention, "peers_step": stage_peers_step,
          "peers_step_large": stage_peers_step_large}

# ---- the table -------------------------------------------------------------------------------------------------------


def keep(check, stages):
    """The record so far as JSON; its path. After every stage: a call that is cut off leaves what it had."""
    sys.path.insert(0, check.path("bench"))
    from common import machine  # packed beside us
    record = {"benchmark": "gpu-check", "command": "gpu-check run " + " ".join(stages),
              "commit": check.manifest["commit"], "dry_run": DRY, "when": time.strftime("%Y-%m-%d %H:%M:%S"),
              "machine": machine(), "rows": check.rows, "results": check.raw, "commands": check.records}
    os.makedirs(check.out, exist_ok=True)
    path = os.path.join(check.out, f"gpu-check-{'-'.join(stages) if list(stages) != list(STAGES) else 'all'}.json")
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
    os.replace(path + ".part", path)
    return path


def finish(check, path):
    width = max(len(row["what"]) for row in check.rows)
    print(f"\n{'what':{width}}  {'result':9} {'number':42} {'goal':18} seconds")
    for row in check.rows:
        number = row["number"] or row["detail"][:42]
        print(f"{row['what']:{width}}  {row['result']:9} {number:42} {row['goal']:18} {row['seconds']:7}")
    bad = [row["what"] for row in check.rows if row["result"] in ("failed", "timeout")]
    count = {kind: sum(row["result"] == kind for row in check.rows) for kind in ("passed", "skipped", "met", "missed")}
    print(f"{len(bad)} failed, {count['passed']} passed, {count['skipped']} skipped; goals: {count['met']} met, "
          f"{count['missed']} missed{'; a dry run on the CPU: numbers mean nothing' if DRY else ''}\n{path}")
    if bad:
        sys.exit(1)


def run(stages, root, out, minutes, only):
    """All `stages` of the archive unpacked at `root`; the table; leaves through sys.exit(1) when a check failed."""
    check = Check(root, out, minutes, only)
    find_device(check)
    path = None
    for stage in stages:
        print(f"== {stage}", flush=True)
        try:
            STAGES[stage](check)
        except Exception as error:  # pylint: disable=broad-except  # the other stages' numbers are worth more
            traceback.print_exc()
            check.row(f"stage {stage}", "failed", detail=f"{type(error).__name__}: {error}")
        path = keep(check, stages)
    shutil.rmtree(check.scratch, ignore_errors=True)
    finish(check, path)
