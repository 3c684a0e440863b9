"""What the scripts of this folder share: describing the machine, running a program, keeping what it said."""

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = os.environ.get("PYTHON", sys.executable)


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit():
    """Of the checkout; of what was packed, where this folder is no checkout (scripts/gpu-check)."""
    packed = os.path.join(ROOT, "commit")
    if os.path.exists(packed):
        with open(packed, encoding="utf-8") as file:
            return file.read().strip()
    return output_of(["git", "describe", "--always", "--dirty"])


def torch_version(modules="torch"):
    """Of the PyTorch under $PYTHON; "" where it or another of `modules` is missing."""
    return output_of([PYTHON, "-c", f"import {modules}; print(torch.__version__)"])


def gpus():
    """Name, driver, memory and clock limits of each GPU, as nvidia-smi says; [] without it."""
    asked = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    lines = output_of(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]).splitlines()
    return [dict(zip(asked.split(","), (cell.strip() for cell in line.split(",")))) for line in lines]


def machine():
    cpu = json.loads(output_of(["lscpu", "--json"]) or '{"lscpu": []}')["lscpu"]
    model = next((row["data"] for row in cpu if row["field"] == "Model name:"), platform.processor())
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(), "load_average": os.getloadavg()[0], "gpus": gpus()}


def words(command):
    """A command as another checkout would type it: paths in this one are relative, the interpreter has no folder."""
    return shlex.join(os.path.relpath(word, ROOT) if word.startswith(ROOT + os.sep) else
                      os.path.basename(word) if word == PYTHON else word for word in command)


class Budget:
    """The time of a whole script: what it measured before that ran out is kept."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds if seconds else float("inf")

    def limit(self, timeout):
        """Seconds for the next program: `timeout`, or what is left."""
        return min(timeout, self.end - time.monotonic())


def run_lines(command, timeout):
    """The JSON results of a program, one a line of its stdout; or ([], why not)."""
    if timeout < 1:
        return [], "no time left"
    try:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
    except OSError as error:
        return [], str(error)
    try:
        out, said = program.communicate(timeout=timeout)
    except BaseException as stopped:
        os.killpg(program.pid, signal.SIGKILL)  # with what it started: compilers of PyTorch would hold the pipes
        program.communicate()
        if not isinstance(stopped, subprocess.TimeoutExpired):
            raise
        return [], f"no result within {timeout:.0f} s"
    lines = out.strip().splitlines()
    if program.returncode != 0 or not lines:
        said = (said or out).strip().splitlines()
        return [], f"exit status {program.returncode}: {said[-1] if said else 'nothing said'}"
    try:
        return [json.loads(line) for line in lines], None
    except ValueError:
        return [], f"not a result: {lines[-1][:120]}"


def run(command, timeout):
    """The one result of a program that times something; or (None, why not)."""
    results, why = run_lines(command, timeout)
    if why:
        return None, why
    seconds = results[-1].get("median_s", 0)
    return (results[-1], None) if seconds > 0 else (None, f"median_s is {seconds}")


def write_json(path, record):
    """Whole or not at all."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
    os.replace(path + ".part", path)


def header(benchmark, torch_found):
    """What every record begins with."""
    return {"benchmark": benchmark, "command": shlex.join(os.path.relpath(w, ROOT) if w.startswith(ROOT + os.sep) else w
                                                          for w in sys.argv),
            "commit": commit(), "machine": machine(), "torch": torch_found or None}
