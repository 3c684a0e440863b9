"""The machinery of scripts/gpu-check: running programs of an unpacked archive within limits, and a row for each."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

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
        self.gpus = 0
        with open(os.path.join(root, "manifest.json"), encoding="utf-8") as file:
            self.manifest = json.load(file)
        self.environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self.libraries = ":".join([*filter(None, [os.environ.get("LD_LIBRARY_PATH")]),
                                   os.environ.get("LIBS", os.path.join(root, "lib")), *cuda_libraries()])
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

    def left(self):
        """Seconds."""
        return self.deadline - time.monotonic()

    def run(self, command, limit, environment=None):
        """(exit status or None when out of time, stdout, stderr's last line, seconds). Ours see our libraries."""
        if any(word.startswith(self.path("bin") + os.sep) for word in command):
            environment = (environment or {}) | {"LD_LIBRARY_PATH": self.libraries}
        left, start = self.left(), time.monotonic()
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
        """The tests labelled gpu, of which --only may choose; that of ranks is in a stage of its own."""
        return [t for t in self.manifest["tests"] if t["gpu"] and t["name"] != "gpu.ranks" and self.only.search(t["name"])]

    def program(self, *words, limit=120, environment=None):
        return self.run([self.path("bin", "nextpatch"), *words], limit, environment)

    def ranks(self, count, *words, limit=120):
        """`nextpatch WORDS` `count` times, as torchrun starts it; the exit status of one that failed, if one did. More than
        there are GPUs share the first, which NCCL allows from 2.30 on."""
        script = """
            for rank in $(seq 0 $((WORLD_SIZE - 1))); do
              RANK=$rank LOCAL_RANK=$rank "$@" & pids="$pids $!"
            done
            status=0
            for pid in $pids; do wait $pid || status=$?; done
            exit $status"""
        environment = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        if count > self.gpus:
            environment |= {"CUDA_VISIBLE_DEVICES": "0", "NCCL_MULTI_RANK_GPU_ENABLE": "1"}
        return self.run(["sh", "-c", script, "ranks", self.path("bin", "nextpatch"), *words], limit, environment)

    def verdict(self, what, status, said, seconds, number="", goal=""):
        """A row for a command that passes with exit status 0. 77 is a program that skipped itself, for want of a GPU or
        of cases: here, where both are, it checked nothing, and that is a failure."""
        if status == 77:
            said = f"skipped itself: {said}"
        result = {None: "timeout", 0: "passed"}.get(status, "failed")
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
    check.gpus = len(names)
    if not DRY and not names:
        fail(f"no GPU on this machine ({doctor.get('GPU', {}).get('GPUs', 'doctor names none')}); "
             "GPU_CHECK_BACKEND=cpu is a dry run")
    check.row("doctor", "passed", names[0] if names and not DRY else doctor["processor"]["model"], seconds=seconds)
