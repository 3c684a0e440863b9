"""The stages of scripts/gpu-check that measure: benches, and the peers in PyTorch."""

import json
import os
import re
import statistics

from gpu_check_run import BACKEND, DRY, python


def against(number, goal):
    return "measured" if DRY or goal is None else "met" if number >= goal else "missed"


def bench_attention(check):
    words = ["bench", "attention", f"backend={BACKEND}"]
    words += ["tokens=33", "head_width=16", "width=32", "rows=66", "rotate_mb=1"] if DRY else ["precision=bf16"]
    firsts = {}
    for row in check.json_lines("bench attention", words, 150):
        shape = (row["tokens"], row["head_width"])
        what = f"attention {row['pass']} {row['mask']} {row['version']}, N = {shape[0]}, d = {shape[1]}"
        first = firsts.setdefault(shape, row["version"])  # the version that training runs
        if "failure" in row:
            check.row(what, "skipped", detail=row["failure"])
            continue
        goal = None
        if (row["version"], row["baseline"], row["mask"], shape) == (first, "cudnn", "prefix", (256, 128)):
            goal = 1.25 if row["pass"] == "forward" else 1.2
        check.row(what, against(row["ratio"], goal),
                  f"{row['tflops_per_s']:.4g} TFLOP/s, {row['ratio']:.3g}x {row['baseline']} full",
                  f"{goal}x (H200)" if goal else "")


def bench_ops(check):
    words = ["bench", "ops", f"backend={BACKEND}"]
    words += ["images=1", "parameters=1000", "runs=2", "rotate_mb=1"] if DRY else ["precision=bf16"]
    for row in check.json_lines("bench ops", words, 60):
        goal = None if row["operator"] == "copy" else 3500
        check.row(f"operator {row['operator']}", against(row["gbytes_per_s"], goal),
                  f"{row['gbytes_per_s']:.4g} GB/s, {100 * row['share_of_copy']:.3g} % of a copy",
                  "" if DRY or goal is None else "3500 GB/s (H200)")


# Tried in this order until one fits: a smaller pass costs less than computing twice.
FITS = [(256, "none"), (128, "none"), (64, "none"), (128, "gelu_norm"), (64, "gelu_norm"), (32, "none"),
        (32, "gelu_norm"), (64, "block"), (32, "block"), (16, "block"), (8, "block")]


def bench_step(check, recipe, goal):
    """The first (pass, recompute) that fits; returns its overrides, for the peers."""
    small = ["train.batch=256", "steps=6", "warmup=2", "precision=bf16"]
    if DRY:
        small = ["train.batch=4", "steps=1", "warmup=1"]
    for micro, recompute in [(4, "none")] if DRY else FITS:
        words = ["bench", "step", check.path("recipes", recipe), *small, f"train.micro_batch={micro}",
                 f"train.recompute={recompute}", f"backend={BACKEND}", "--json", "--plans"]
        status, out, said, seconds = check.program(*words, limit=120)
        if status == 1 and re.search(r"memory|are available", said):
            continue
        what = f"step {recipe}, passes of {micro}, recompute {recompute}"
        if status != 0:
            check.row(what, "timeout" if status is None else "failed", detail=said, seconds=seconds)
            return None
        row = json.loads(out.splitlines()[-1]) | {"plans": check.records[-1]["errors"].splitlines()}
        check.raw.setdefault("bench step", []).append(row | {"recipe": recipe, "micro": micro, "recompute": recompute})
        number = f"{row['images_per_s']:.4g} images/s"
        if "mfu" in row:
            number += f", MFU {100 * row['mfu']:.3g} %, utilisation {100 * row['utilisation']:.3g} %"
        check.row(what, against(row["images_per_s"], goal), number, f"{goal} images/s (H200)" if goal else "", seconds)
        return micro, recompute
    check.row(f"step {recipe}", "skipped", detail="does not fit into this device's memory")
    return None


def passes_that_fit(check, recipe):
    """(pass, recompute) as above: from an earlier stage of this call, else tried anew."""
    found = [row for row in check.raw.get("bench step", []) if row["recipe"] == recipe]
    return (found[0]["micro"], found[0]["recompute"]) if found else bench_step(check, recipe, dict(STEPS)[recipe])


def bench_products(check):
    """Every algorithm that cuBLASLt offers for a step's products: raw results, and a row for the fused GELU."""
    program = check.path("bin", "products_bench")
    if DRY or not os.path.exists(program):
        return
    status, out, said, seconds = check.run([program], 90)
    if status != 0:
        check.row("products", "timeout" if status is None else "failed", detail=said, seconds=seconds)
        return
    lines = check.raw["products"] = [json.loads(line) for line in out.splitlines()]
    check.row("products: fused GELU beside the exact one", "measured",
              f"{lines[-1]['fused_gelu_largest_relative_difference']:.3g} off", seconds=seconds)


STEPS = (("aim_600m.yaml", 400), ("aim_1b.yaml", None), ("aim_3b.yaml", None))  # and images/s wished for


def stage_bench(check):
    bench_attention(check)
    bench_ops(check)
    bench_products(check)
    if DRY:
        bench_step(check, "demo.yaml", None)
        return
    for recipe, goal in STEPS:
        bench_step(check, recipe, goal)


# ---- training --------------------------------------------------------------------------------------------------------


def stage_recompute(check):
    """What train.recompute costs and saves: the same step with each setting."""
    recipe, fits = ("demo.yaml", (4, "none")) if DRY else ("aim_600m.yaml", passes_that_fit(check, "aim_600m.yaml"))
    if not fits:
        return
    base = None
    for recompute in ("none", "gelu_norm", "block"):
        words = ["bench", "step", check.path("recipes", recipe), f"train.batch={4 if DRY else 256}", "profile=0",
                 f"train.micro_batch={fits[0]}", f"train.recompute={recompute}", f"backend={BACKEND}",
                 *(["steps=1", "warmup=1"] if DRY else ["steps=6", "warmup=2", "precision=bf16"])]
        for row in check.json_lines("recompute", words, 120):
            base = base or row["median_s"]
            check.row(f"step {recipe}, passes of {fits[0]}, recompute {recompute}", "measured",
                      f"{row['median_s']:.4g} s, {row['median_s'] / base:.3g} of the first, {row['memory_gb']:.4g} GB")


def stage_pretrain(check):
    """A run as a user starts it: images read, decoded and augmented while the GPU computes, metrics of every step."""
    data, run = os.path.join(check.scratch, "synth-pretrain"), os.path.join(check.scratch, "pretrain")
    recipe, steps = ("demo.yaml", 3) if DRY else ("aim_600m.yaml", 20)
    fits = (4, "none") if DRY else passes_that_fit(check, recipe)
    check.program("synth", data, f"train={32 if DRY else 512}", "val=10", f"size={32 if DRY else 256}", limit=60)
    if not fits:
        return
    status, _, said, seconds = check.program(
        "pretrain", check.path("recipes", recipe), f"data.train={os.path.join(data, 'train')}", f"run.dir={run}",
        f"train.steps={steps}", f"train.batch={8 if DRY else 256}", f"train.micro_batch={fits[0]}", "train.log_every=1",
        f"train.recompute={fits[1]}", f"checkpoint.every={10 * steps}", f"backend={BACKEND}", limit=200)
    if not check.verdict(f"pretrain {recipe}", status, said, seconds):
        return
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if "images_per_s" in row]
    late = rows[len(rows) // 2:]
    check.raw["pretrain"] = rows
    middle = {key: statistics.median(row[key] for row in late) for key in ("images_per_s", "data_wait_share")}
    check.row(f"pretrain {recipe}, images from disk", "measured",
              f"{middle['images_per_s']:.4g} images/s, data wait {100 * middle['data_wait_share']:.2g} %")


# ---- peers -----------------------------------------------------------------------------------------------------------


PEER_SHAPES = ("--head-width", "128", "64", "--tokens", "256", "1024", "576", "196")  # the goal's first: time may be up


def budget(check, most):
    """Words by which a script of bench/ ends, with what it has, before this call's time does."""
    return ["--budget", str(int(max(1, min(most, check.left() - 20))))]


def peer_attention(check):
    out = os.path.join(check.scratch, "peer-attention.json")
    words = [*PEER_SHAPES, "--rounds", "1", "--timeout", "150"]  # a start compiles anew
    if DRY:
        words = ["--tokens", "33", "--head-width", "16", "--width", "32", "--rows", "66", "--rotate-mb", "1",
                 "--precision", "fp32", "--rounds", "1", "--runs", "1", "--warmup", "1"]
    status, _, said, seconds = check.run([python(), check.path("bench", "run_attention.py"), "--device", BACKEND,
                                          "--program", check.wrapper, "--out", out, *words, *budget(check, 460)], 480)
    if not check.verdict("attention beside PyTorch", status, said, seconds):
        return
    with open(out, encoding="utf-8") as file:
        check.raw["peers attention"] = json.load(file)
    for row in check.raw["peers attention"]["rows"]:
        if row["program"] == "torch" and "ratio_to_nextpatch" in row:
            check.row(f"attention {row['pass']} {row['mask']} of PyTorch {row['version']}, N = {row['tokens']}, "
                      f"d = {row['head_width']}", "measured", f"{row['ratio_to_nextpatch']:.3g}x nextpatch's time")
    for goal, turn in ((1.25, "forward"), (1.2, "backward")):  # bench attention's goals, by PyTorch's cuDNN
        seconds = {}
        for row in check.raw["peers attention"]["rows"]:
            if "median_s" in row and (row["tokens"], row["head_width"], row["pass"]) == (256, 128, turn):
                seconds.setdefault((row["program"], row["version"] if row["program"] == "torch" else "", row["mask"]),
                                   row["median_s"])
        ours, theirs = seconds.get(("nextpatch", "", "prefix")), seconds.get(("torch", "sdpa-cudnn", "full"))
        if ours and theirs:
            check.row(f"attention {turn} prefix beside PyTorch sdpa-cudnn full, N = 256, d = 128",
                      against(theirs / ours, goal), f"{theirs / ours:.3g}x", f"{goal}x (H200)", 0)


def peer_step(check, recipe, variants, ours):
    """nextpatch and the peer's variants, one after the other; a row each, those that ran with their ratio."""
    out = os.path.join(check.scratch, "peer-step.json")
    words = [recipe, "train.batch=256", *ours, "--precision", "bf16", "--steps", "6", "--timeout", "200"]
    if DRY:
        words = [recipe, "train.batch=2", "--precision", "fp32", "--steps", "1", "--warmup", "1"]
    words[0] = check.path("recipes", words[0])
    status, _, said, seconds = check.run(
        [python(), check.path("bench", "run_step.py"), "--device", BACKEND, "--program", check.wrapper,
         "--out", out, "--rounds", "1", "--program-args", "profile=0", *words, *budget(check, 540),
         "--variants", *variants], 560)
    if not check.verdict(f"step {recipe} beside PyTorch", status, said, seconds):
        return []
    with open(out, encoding="utf-8") as file:
        record = json.load(file)
    check.raw.setdefault("peers step", []).append(record)
    for row in record["rows"][1:]:
        if row["failure"]:  # what does not fit or is not in this PyTorch is the peer's matter
            check.row(f"step {recipe} of PyTorch {row['program']}", "skipped", detail=row["failure"])
    return [row for row in record["rows"][1:] if row.get("ratio")]


def peer_variants(check, recipe):
    """With FlexAttention, compiled. A batch of 256 fits into an H200 with checkpointing, as the released code ships, or
    else in passes of 128 (AIM-3B: 64); into less in passes of 64. AIM-0.6B's last was taught to put loss tokens alone
    through the head, as nextpatch does."""
    if DRY:
        return ["torch"]
    sizes = [float(text) for text in re.findall(r"([0-9.]+) GiB", json.dumps(check.raw["doctor"].get("GPU", {})))]
    large = max(sizes, default=0) > 120 and recipe != "aim_3b.yaml"
    passes = "torch-flex-micro128" if large else "torch-flex-micro64"
    return ["torch-flex-checkpointing", passes, *([passes + "-losstokens"] if recipe == "aim_600m.yaml" else [])]


def has_torch(check, what):
    """Whether peers can run; a row says so where they cannot."""
    status, _, said, seconds = check.run([python(), "-c", "import torch, yaml"], 60)
    if status is None:
        check.row(what, "timeout", detail=said, seconds=seconds)
    elif status != 0:
        check.row(what, "skipped", detail=f"no PyTorch with PyYAML under {python()} (PYTHON= names another)")
    return status == 0


def stage_peers_attention(check):
    if has_torch(check, "attention beside PyTorch"):
        status, _, said, seconds = check.run(
            [python(), check.path("bench", "peers", "attention_torch.py"), "--check", "--device", BACKEND], 120)
        check.verdict("PyTorch's masks are ours", status, said, seconds)
        peer_attention(check)


def peers_step(check, recipe, goals):
    fits = None if DRY else passes_that_fit(check, recipe)
    ours = [f"train.micro_batch={fits[0]}", f"train.recompute={fits[1]}"] if fits else []
    rows = peer_step(check, recipe, peer_variants(check, recipe), ours)
    fastest = min(rows, key=lambda row: row["median_s"], default=None)
    for row in rows:
        goal = None
        if goals:
            goal = 1.5 if row["program"].endswith("-checkpointing") else 1.2 if row is fastest else None
        check.row(f"step {recipe} of PyTorch {row['program']}", against(row["ratio"], goal),
                  f"{row['ratio']:.3g}x nextpatch's time", f"{goal}x (H200)" if goal and not DRY else "")


def stage_peers_step(check):
    if has_torch(check, "step beside PyTorch"):
        peers_step(check, "demo.yaml" if DRY else "aim_600m.yaml", True)


def stage_peers_step_large(check):
    """The larger models, for which no goal is set."""
    if DRY:
        check.row("steps of AIM-1B and AIM-3B beside PyTorch", "skipped", detail="dry run")
    elif has_torch(check, "step beside PyTorch"):
        for recipe in ("aim_1b.yaml", "aim_3b.yaml"):
            peers_step(check, recipe, False)
