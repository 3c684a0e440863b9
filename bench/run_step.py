#!/usr/bin/env python3
"""Time a training step: `nextpatch bench step` beside the PyTorch peer, interleaved in one run.

    PYTHON=~/torch/bin/python bench/run_step.py recipes/cifar10.yaml train.batch=128 --threads 2 --out step.json
    bench/run_step.py recipes/aim_600m.yaml train.batch=256 --device cuda --precision bf16 --out step.json

Every round runs each program once in turn, so that whatever else the machine does falls on all alike; a program's
result is the median over rounds of its median seconds a step. The ratio is peer seconds / nextpatch seconds: above 1
nextpatch is faster. It is given against every variant of the peer, and the fastest one is the one to quote. Without
PyTorch under $PYTHON (default: the interpreter of this script) only nextpatch is timed. This script itself needs only
the standard library.
"""

import argparse
import os
import shlex
import statistics
import sys

from common import PYTHON, ROOT, Budget, header, run, torch_version, words, write_json

PEER = os.path.join(ROOT, "bench", "peers", "aim_torch.py")

# Names of peer variants and their flags.
VARIANTS = {
    "torch": [],
    "torch-losstokens": ["--head-loss-tokens"],
    "torch-mathattn": ["--attention", "math"],
    "torch-mathattn-losstokens": ["--attention", "math", "--head-loss-tokens"],
    "torch-fp32attn": ["--attention", "fp32"],
    "torch-compile": ["--compile"],
    "torch-compile-losstokens": ["--compile", "--head-loss-tokens"],
    # On a GPU. Checkpointing is how the released training code ships; without it a batch may only fit in passes.
    "torch-sdpa-checkpointing": ["--compile", "--checkpointing"],
    "torch-flex": ["--attention", "flex", "--compile"],
    "torch-flex-checkpointing": ["--attention", "flex", "--compile", "--checkpointing"],
    "torch-flex-micro64": ["--attention", "flex", "--compile", "--micro-batch", "64"],
    "torch-flex-micro64-losstokens": ["--attention", "flex", "--compile", "--micro-batch", "64", "--head-loss-tokens"],
    "torch-flex-micro128": ["--attention", "flex", "--compile", "--micro-batch", "128"],
    "torch-flex-micro128-losstokens": ["--attention", "flex", "--compile", "--micro-batch", "128",
                                       "--head-loss-tokens"],
}
USUAL = {
    "cpu": ["torch", "torch-losstokens", "torch-mathattn", "torch-mathattn-losstokens"],
    "cuda": ["torch-flex-checkpointing", "torch-flex", "torch-flex-micro64", "torch-flex-micro64-losstokens"],
}


def commands_of(options, precision, torch_found):
    ours = [options.program, "bench", "step", options.recipe] + options.overrides + [f"precision={precision}"]
    ours += ["--json", f"steps={options.steps}", f"warmup={options.warmup}", f"backend={options.device}"]
    ours += ([f"threads={options.threads}"] if options.threads else []) + shlex.split(options.program_args)
    commands = {"nextpatch": ours}
    for variant in options.variants if torch_found else []:
        peer = [PYTHON, PEER, options.recipe] + options.overrides + ["--precision", precision]
        peer += ["--device", options.device]
        peer += ["--steps", str(options.steps), "--warmup", str(options.warmup)] + VARIANTS[variant]
        peer += ["--threads", str(options.threads)] if options.threads else []
        commands[variant] = peer + shlex.split(options.peer_args)
    return commands


def time_precision(options, precision, torch_found, budget):
    """Interleaved rounds; one record per program."""
    commands = commands_of(options, precision, torch_found)
    results, failures = {name: [] for name in commands}, {}
    for number in range(options.rounds):
        for name, command in commands.items():
            if name in failures:
                continue
            result, why = run(command, budget.limit(options.timeout))
            if result is None:
                if not results[name] or budget.limit(1) > 0:
                    failures[name] = why
                print(f"{precision} {name}: {why}", file=sys.stderr)
            else:
                results[name].append(result)
                place = f"{precision} round {number + 1}/{options.rounds}"
                print(f"{place} {name}: {result['median_s']:.4g} s", file=sys.stderr)
    rows = []
    for name, command in commands.items():
        row = {"program": name, "precision": precision, "command": words(command), "failure": failures.get(name)}
        if results[name] and name not in failures:
            seconds = [r["median_s"] for r in results[name]]
            middle = min(results[name], key=lambda r: abs(r["median_s"] - statistics.median(seconds)))
            row |= {"median_s": statistics.median(seconds), "rounds_s": seconds, "images_per_s": middle["images_per_s"],
                    "ratio": None, "result": middle}
        rows.append(row)
    ours = rows[0].get("median_s")
    for row in rows[1:]:
        if ours and row.get("median_s"):
            row["ratio"] = row["median_s"] / ours
    return rows


def memory_of(result):
    """Gigabytes that a program took, where it says so."""
    taken = result.get("memory_taken_gb") or result.get("peak_device_bytes", result.get("peak_rss_bytes", 0)) / 1e9
    return f"{taken:.3g}" if taken else ""


def table(rows):
    lines = ["| precision | program | s/step | spread | images/s | GFLOP/s | of product | GB | ratio to nextpatch |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if "median_s" not in row:
            lines.append(f"| {row['precision']} | {row['program']} | failed: {row['failure']} | | | | | | |")
            continue
        spread = f"{min(row['rounds_s']):.4g}..{max(row['rounds_s']):.4g}"
        rate, peak = row["result"].get("gflops_per_s"), row["result"].get("matrix_peak_gflops")
        cells = [row["precision"], row["program"], f"{row['median_s']:.4g}", spread, f"{row['images_per_s']:.4g}",
                 f"{rate:.4g}" if rate else "", f"{100 * rate / peak:.0f} %" if rate and peak else "",
                 memory_of(row["result"]),
                 f"{row['ratio']:.2f}" if row["ratio"] else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="given to both programs")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both")
    parser.add_argument("--rounds", type=int, default=3, help="times each program is started")
    parser.add_argument("--steps", type=int, default=5, help="timed steps in one start")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timing")
    parser.add_argument("--threads", type=int, default=0, help="of both; default: the recipe's")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS,
                        help="of the peer; default: those usual on the device")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "nextpatch"))
    parser.add_argument("--program-args", default="", help="further words for `nextpatch bench step`")
    parser.add_argument("--peer-args", default="", help="further words for every peer variant")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for one start of one program")
    parser.add_argument("--budget", type=int, default=0,
                        help="seconds for all together: what is not done by then counts as failed; 0: no limit")
    parser.add_argument("--out", help="write everything as JSON here")
    options = parser.parse_intermixed_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    options.variants = options.variants or USUAL[options.device]

    torch_found = torch_version("torch, yaml")
    if not torch_found:
        print(f"{PYTHON} lacks torch or PyYAML: reported without the ratio (PYTHON chooses another)", file=sys.stderr)
    record = header("step", torch_found) | {"recipe": options.recipe, "overrides": options.overrides}
    budget, rows = Budget(options.budget), []
    for precision in options.precision:
        rows += time_precision(options, precision, torch_found, budget)
    record["rows"] = rows
    print(table(rows))
    for precision in options.precision:
        rivals = [r for r in rows if r["precision"] == precision and r.get("ratio")]
        if rivals:
            best = min(rivals, key=lambda r: r["median_s"])
            print(f"{precision}: {best['ratio']:.2f}x the fastest peer ({best['program']})")
    if options.out:
        write_json(options.out, record)
    if any(row["program"] == "nextpatch" and row["failure"] for row in rows):
        sys.exit("error: nextpatch was not timed")


if __name__ == "__main__":
    main()
