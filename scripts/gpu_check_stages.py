"""The stages of scripts/gpu-check: what runs on the GPU machine, from an unpacked archive."""

import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback

BACKEND = os.environ.get("GPU_CHECK_BACKEND", "cuda")
DRY = BACKEND == "cpu"
DRY_TESTS = ("unit.ops_gelu", "unit.ops_late")  # what stands for the tests labelled gpu in a dry run


def fail(text):
    print(f"error: gpu-check: {text}", file=sys.stderr)
    sys.exit(1)


# ---- running ---------------------------------------------------------------------------------------------------------


def python():
    return os.environ.get("PYTHON", "python3")


def cuda_libraries():
    """Folders of CUDA's libraries: the toolkit's, and what came with PyTorch, where cuDNN often is and nowhere else."""
    code = "import glob, nvidia; print(*(lib for root in nvidia.__path__ for lib in glob.glob(root + '/*/lib')))"
    try:
        found = subprocess.run([python(), "-c", code], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return ["/usr/local/cuda/lib64", *found.split()]


class Check:
    """The packed files, the time left, and a row for everything that ran."""

    def __init__(self, root, out, minutes, only):
        self.root, self.out, self.deadline = root, out, time.monotonic() + 60 * minutes
        self.only = re.compile(only)
        self.rows, self.raw, self.records = [], {}, []
        with open(os.path.join(root, "manifest.json"), encoding="utf-8") as file:
            self.manifest = json.load(file)
        self.environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self.libraries = ":".join([os.environ.get("LIBS", os.path.join(root, "lib")), *cuda_libraries(),
                                   os.environ.get("LD_LIBRARY_PATH", "")])
        self.wrapper = os.path.join(root, "nextpatch")  # for programs that must not see our libraries themselves
        with open(self.wrapper, "w", encoding="utf-8") as file:
            program = shlex.quote(self.path("bin", "nextpatch"))
            file.write(f'#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(self.libraries)} exec {program} "$@"\n')
        os.chmod(self.wrapper, 0o755)
        self.scratch = os.path.join(root, "scratch")
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.makedirs(self.scratch)

    def path(self, *names):
        return os.path.join(self.root, *names)

    def row(self, what, result, number="", goal="", seconds=0.0, detail=""):
        """result: passed, failed, skipped, timeout, measured, met, missed."""
        self.rows.append({"what": what, "result": result, "number": number, "goal": goal, "seconds": round(seconds, 1),
                          "detail": detail})
        print(f"{result:9} {what}{': ' + number if number else ''}{' (' + detail + ')' if detail else ''}", flush=True)

    def run(self, command, limit, environment=None):
        """(exit status or None when out of time, stdout, stderr's last line, seconds). Ours see our libraries."""
        if any(word.startswith(self.path("bin") + os.sep) for word in command):
            environment = (environment or {}) | {"LD_LIBRARY_PATH": self.libraries}
        left, start = self.deadline - time.monotonic(), time.monotonic()
        if left < 1:
            return None, "", "no time left: run this stage in a call of its own", 0.0
        try:
            program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       errors="replace", cwd=self.root, env=self.environment | (environment or {}),
                                       start_new_session=True)
        except OSError as error:
            return 127, "", str(error), 0.0
        try:
            out, err = program.communicate(timeout=min(limit, left))
            status = program.returncode
        except BaseException as stopped:
            os.killpg(program.pid, signal.SIGKILL)  # its children too: they would keep the GPU busy
            try:
                out, err = program.communicate(timeout=5)
            except subprocess.TimeoutExpired:  # a session of its own still holds the pipes
                out, err = "", ""
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            status = None
        seconds = time.monotonic() - start
        said = (err.strip() or out.strip()).splitlines()
        words = [os.path.relpath(w, self.root) if w.startswith(self.root) else w for w in command]
        self.records.append({"command": words, "status": status, "seconds": round(seconds, 2), "output": out[-4000:],
                             "errors": err[-16000:]})
        last = said[-1][:300] if said else "nothing said"
        return status, out, f"stopped after {seconds:.0f} s" if status is None else last, seconds

    def tests(self):
        """The tests labelled gpu, of which --only may choose."""
        return [t for t in self.manifest["tests"] if t["gpu"] and self.only.search(t["name"])]

    def program(self, *words, limit=120, environment=None):
        return self.run([self.path("bin", "nextpatch"), *words], limit, environment)

    def verdict(self, what, status, said, seconds, number="", goal=""):
        """A row for a command that passes with exit status 0; 77: it skipped itself."""
        result = {None: "timeout", 0: "passed", 77: "skipped"}.get(status, "failed")
        self.row(what, result, number, goal, seconds, "" if result == "passed" else said)
        return result == "passed"

    def json_lines(self, what, words, limit):
        """Results of `nextpatch WORDS --json`; when it breaks off a row says why, and those before that count."""
        status, out, said, seconds = self.program(*words, "--json", limit=limit)
        if status != 0:
            self.row(what, "timeout" if status is None else "failed", seconds=seconds, detail=said)
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
        self.raw.setdefault(what, []).extend(lines)
        return lines


def find_device(check):
    """What doctor says; ends the run in one line where there is no GPU to check."""
    status, out, said, seconds = check.program("doctor", "--json")
    if status != 0:
        fail(f"nextpatch does not start here: {said}")
    doctor = json.loads(out)
    check.raw["doctor"] = doctor
    names = [text for key, text in doctor.get("GPU", {}).items() if re.fullmatch(r"GPU \d+", key)]
    if not DRY and not names:
        fail(f"no GPU on this machine ({doctor.get('GPU', {}).get('GPUs', 'doctor names none')}); "
             "GPU_CHECK_BACKEND=cpu is a dry run")
    check.row("doctor", "passed", names[0] if names and not DRY else doctor["processor"]["model"], seconds=seconds)


def stage_tests(check):
    tests = [] if DRY else check.tests()
    if DRY:
        tests = [t for t in check.manifest["tests"] if t["name"] in DRY_TESTS]
    if not tests:
        check.row("tests", "skipped", detail="this build has no test labelled gpu")
    for test in tests:
        environment = dict(word.split("=", 1) for word in test["environment"])
        status, _, said, seconds = check.run([check.path("bin", test["program"]), *test["arguments"]], 180, environment)
        if status == 77:  # this machine has a GPU: a test that does not see it has not passed
            status, said = 1, f"skipped itself: {said}"
        check.verdict(test["name"], status, said, seconds)


def stage_golden(check):
    cases = sorted(glob.glob(check.path("golden", "*", "case.json")))
    if DRY:
        cases = [c for c in cases if "pretrain-l3m" in c]
    if not cases or not os.path.exists(check.path("bin", "golden")):
        check.row("golden cases", "skipped", detail="no cases or no golden program in the pack")
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


def train(check, name, steps, *words, limit=240):
    """Losses step by step of a fresh run named `name`, or None and why not."""
    run = os.path.join(check.scratch, name)
    images, _ = images_of(check)
    small = ["model.width=64", "model.heads=2", "model.blocks=2", "train.batch=8"] if DRY else []
    status, _, said, seconds = check.program(
        "pretrain", check.path("recipes", "cifar10.yaml"), f"data.train={images}", f"run.dir={run}",
        f"train.steps={steps}", f"checkpoint.every={steps}", "train.log_every=1", "seed=1", *small, *words, limit=limit)
    if status != 0:
        return None, said, seconds
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line["loss"] for line in lines if "loss" in line], "", seconds


def curve_distance(a, b, window):
    """Largest relative distance of two loss curves, each the mean of `window` steps."""
    def means(curve):
        return [sum(curve[i:i + window]) / window for i in range(0, len(curve) - window + 1, window)]
    return max(abs(x - y) / y for x, y in zip(means(a), means(b)))


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


def stage_repeat(check):
    """The same run twice: the weights at the end, and so every step between, have the same bits."""
    steps = 5 if DRY else 50
    for precision in ("fp32",) if DRY else ("fp32", "bf16"):
        sums, what, spent = [], f"{steps} steps twice, the same bits, {precision}", 0.0
        for turn in range(2):
            name = f"repeat-{precision}-{turn}"
            curve, why, seconds = train(check, name, steps, f"backend={BACKEND}", f"precision={precision}")
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


# ---- sanitizer -------------------------------------------------------------------------------------------------------


def stage_sanitizer(check):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    tests = check.tests()
    if DRY or not sanitizer or not tests:
        why = "no compute-sanitizer here" if not sanitizer else "this build has no test labelled gpu"
        why = "dry run" if DRY else why
        check.row("compute-sanitizer", "skipped", detail=why)
        return
    for tool in ("memcheck", "racecheck"):
        for test in tests:
            if tool == "racecheck" and test["program"] == "test_gpu_ops_matmul":
                continue  # cuBLASLt's kernels, not ours
            environment = dict(word.split("=", 1) for word in test["environment"])
            status, out, said, seconds = check.run(
                [sanitizer, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", "1",
                 check.path("bin", test["program"]), *test["arguments"]], 240, environment)
            if status not in (0, None) and "Device not supported" in out:
                check.row(f"{tool} {test['name']}", "skipped", detail="compute-sanitizer refuses this device")
                continue
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", out)
            check.verdict(f"{tool} {test['name']}", status, summary[-1] if summary else said, seconds)


# ---- benches ---------------------------------------------------------------------------------------------------------


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


def stage_bench(check):
    bench_attention(check)
    bench_ops(check)
    if DRY:
        bench_step(check, "demo.yaml", None)
        return
    for recipe, goal in (("aim_600m.yaml", 400), ("aim_1b.yaml", None), ("aim_3b.yaml", None)):
        bench_step(check, recipe, goal)


# ---- peers -----------------------------------------------------------------------------------------------------------


def peer_attention(check):
    out = os.path.join(check.scratch, "peer-attention.json")
    words = ["--tokens", "256", "1024", "--rounds", "1", "--timeout", "150"]  # a start compiles anew
    if DRY:
        words = ["--tokens", "33", "--head-width", "16", "--width", "32", "--rows", "66", "--rotate-mb", "1",
                 "--precision", "fp32", "--rounds", "1", "--runs", "1", "--warmup", "1"]
    status, _, said, seconds = check.run([python(), check.path("bench", "run_attention.py"), "--device", BACKEND,
                                          "--program", check.wrapper, "--out", out, *words], 460)
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


def peer_step(check, variant, ours):
    """One variant of the peer beside nextpatch; its row, with the ratio, or None."""
    out = os.path.join(check.scratch, "peer-step.json")
    words = ["aim_600m.yaml", "train.batch=256", *ours, "--precision", "bf16", "--steps", "6"]
    if DRY:
        words = ["demo.yaml", "train.batch=2", "--precision", "fp32", "--steps", "1", "--warmup", "1"]
    words[0] = check.path("recipes", words[0])
    status, _, said, seconds = check.run(
        [python(), check.path("bench", "run_step.py"), "--device", BACKEND, "--program", check.wrapper,
         "--out", out, "--rounds", "1", "--program-args", "profile=0", *words, "--variants", variant], 240)
    if status != 0:
        check.row(f"step of PyTorch {variant}", "timeout" if status is None else "failed", detail=said, seconds=seconds)
        return None
    with open(out, encoding="utf-8") as file:
        record = json.load(file)
    check.raw.setdefault("peers step", []).append(record)
    row = next(r for r in record["rows"] if r["program"] == variant)
    if row["failure"]:  # what does not fit or is not in this PyTorch is the peer's matter
        check.row(f"step of PyTorch {variant}", "skipped", detail=row["failure"], seconds=seconds)
        return None
    return row | {"seconds": seconds}


def passes_that_fit(check):
    """Overrides of the largest pass of AIM-0.6B that fits: from the bench stage of this call, else tried anew."""
    found = [row for row in check.raw.get("bench step", []) if row["recipe"] == "aim_600m.yaml"]
    fits = (found[0]["micro"], found[0]["recompute"]) if found else bench_step(check, "aim_600m.yaml", 400)
    return [f"train.micro_batch={fits[0]}", f"train.recompute={fits[1]}"] if fits else []


PEER_VARIANTS = ("torch-flex-checkpointing", "torch-flex", "torch-flex-micro64", "torch-flex-micro64-losstokens")


def has_torch(check, what):
    """Whether peers can run; a row says so where they cannot."""
    status, _, _, _ = check.run([python(), "-c", "import torch, yaml"], 60)
    if status != 0:
        check.row(what, "skipped", detail=f"no PyTorch with PyYAML under {python()} (PYTHON= names another)")
    return status == 0


def stage_peers_attention(check):
    if has_torch(check, "attention beside PyTorch"):
        status, _, said, seconds = check.run(
            [python(), check.path("bench", "peers", "attention_torch.py"), "--check", "--device", BACKEND], 120)
        check.verdict("PyTorch's masks are ours", status, said, seconds)
        peer_attention(check)


def stage_peers_step(check):
    if not has_torch(check, "step beside PyTorch"):
        return
    ours = [] if DRY else passes_that_fit(check)
    rows = [peer_step(check, variant, ours) for variant in (("torch",) if DRY else PEER_VARIANTS)]
    rows = [row for row in rows if row and row.get("ratio")]
    fastest = min(rows, key=lambda row: row["median_s"], default=None)
    for row in rows:
        goal = 1.5 if row["program"].endswith("-checkpointing") else 1.2 if row is fastest else None
        check.row(f"step of PyTorch {row['program']}", against(row["ratio"], goal),
                  f"{row['ratio']:.3g}x nextpatch's time", f"{goal}x (H200)" if goal and not DRY else "",
                  row["seconds"])


STAGES = {"tests": stage_tests, "golden": stage_golden, "train": stage_train, "repeat": stage_repeat,
          "sanitizer": stage_sanitizer, "bench": stage_bench, "peers_attention": stage_peers_attention,
          "peers_step": stage_peers_step}

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
