#!/usr/bin/env python3
"""Time the attention operator: `nextpatch bench attention` beside its peers in PyTorch, interleaved in one run.

    bench/run_attention.py --device cuda --out attention.json
    PYTHON=~/torch/bin/python bench/run_attention.py --tokens 256 --head-width 64 --rows 1024 --width 256 --threads 2

Every shape runs each program in turn, --rounds times; a case's result is the median over rounds of its median. The
same prefix lengths are drawn on both sides: where the pairs that two programs count differ, that is an error. Ratio:
seconds of a case over those of nextpatch (its first version) for the same shape, pass and mask: above 1 nextpatch is
faster. Without PyTorch under $PYTHON only nextpatch is timed. This script itself needs only the standard library.
"""

import argparse
import os
import shlex
import statistics
import sys

from common import PYTHON, ROOT, Budget, header, run_lines, torch_version, words, write_json

PEER = os.path.join(ROOT, "bench", "peers", "attention_torch.py")
CASE = ("pass", "mask")


def commands_of(options, tokens, width, torch_found):
    shape = {"tokens": tokens, "head_width": width, "width": options.width, "rows": options.rows,
             "images": options.images, "runs": options.runs, "warmup": options.warmup, "rotate_mb": options.rotate_mb}
    ours = [options.program, "bench", "attention", "--json", "rounds=1", f"backend={options.device}"]
    ours += [f"precision={options.precision}", f"seed={options.seed}"] + [f"{k}={v}" for k, v in shape.items()]
    peer = [PYTHON, PEER, "--rounds", "1", "--device", options.device, "--precision", options.precision]
    peer += ["--seed", str(options.seed)]
    for key, value in shape.items():
        peer += ["--" + key.replace("_", "-"), str(value)]
    if options.threads:
        ours += [f"threads={options.threads}"]
        peer += ["--threads", str(options.threads)]
    commands = {"nextpatch": ours + shlex.split(options.program_args)}
    if torch_found:
        commands["torch"] = peer + shlex.split(options.peer_args)
    return commands


def time_shape(options, tokens, width, torch_found, budget):
    """Interleaved rounds of one shape: a row a case, and what failed."""
    commands, seen, failures = commands_of(options, tokens, width, torch_found), {}, {}
    for number in range(options.rounds):
        for program, command in commands.items():
            if program in failures:
                continue
            results, why = run_lines(command, budget.limit(options.timeout))
            if why:
                failures[program] = why
            for result in results:
                key = (program, result["version"]) + tuple(result[k] for k in CASE)
                seen.setdefault(key, []).append(result)
            print(f"N = {tokens}, d = {width}, round {number + 1}/{options.rounds}: {program}: {why or 'done'}",
                  file=sys.stderr)
    rows = []
    for results in seen.values():
        refused = next((r["failure"] for r in results if "failure" in r), None)
        row = dict(results[0]) if refused else middle_of(results)
        rows.append(row | {"command": words(commands[row["program"]])})
    return rows, failures


def middle_of(results):
    """The round whose median is the middle one, with all rounds' medians beside it."""
    seconds = [r["median_s"] for r in results]
    return min(results, key=lambda r: abs(r["median_s"] - statistics.median(seconds))) | {"rounds_s": seconds}


def compare(rows):
    """Ratios to nextpatch's first version, same shape, pass and mask; returns a message where the work differs."""
    def case(row):
        return tuple(row[k] for k in ("tokens", "head_width") + CASE)

    ours = {}
    for row in rows:
        if row["program"] == "nextpatch" and "median_s" in row:
            ours.setdefault(case(row), row)
    for row in rows:
        mine = ours.get(case(row))
        if not mine or "median_s" not in row:
            continue
        if abs(row["pairs"] - mine["pairs"]) > 1e-5 * mine["pairs"]:
            return f"{row['version']} counts {row['pairs']:g} pairs, nextpatch {mine['pairs']:g}: {case(row)}"
        row["ratio_to_nextpatch"] = row["median_s"] / mine["median_s"]
    return None


def table(rows):
    lines = ["| N | d | B | pass | mask | program | version | ms | TFLOP/s | GB/s | ratio to nextpatch |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row[k] for k in ("tokens", "head_width", "images", "pass", "mask", "program", "version")]
        if "median_s" in row:
            ratio = row.get("ratio_to_nextpatch")
            cells += [f"{1e3 * row['median_s']:.4g}", f"{row['tflops_per_s']:.4g}", f"{row['gbytes_per_s']:.4g}",
                      f"{ratio:.2f}" if ratio else ""]
        else:
            cells += [f"refused: {row['failure']}", "", "", ""]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 256, 576, 1024])
    parser.add_argument("--head-width", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--width", type=int, default=1536, help="of the model: width / head width heads")
    parser.add_argument("--rows", type=int, default=65536, help="tokens of all images together")
    parser.add_argument("--images", type=int, default=0, help="0: from --rows")
    parser.add_argument("--rounds", type=int, default=3, help="times each program is started")
    parser.add_argument("--runs", type=int, default=20, help="timed runs of a case in one start")
    parser.add_argument("--warmup", type=int, default=5, help="runs before them")
    parser.add_argument("--rotate-mb", type=int, default=256, help="buffers that runs take turns on, together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU, of both programs")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "nextpatch"))
    parser.add_argument("--program-args", default="", help="further words for `nextpatch bench attention`")
    parser.add_argument("--peer-args", default="", help="further words for attention_torch.py")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one start of one program")
    parser.add_argument("--budget", type=int, default=0,
                        help="seconds for all together: what is not done by then counts as failed; 0: no limit")
    parser.add_argument("--out", help="write everything as JSON here")
    options = parser.parse_args()

    torch_found = torch_version()
    if not torch_found:
        print(f"{PYTHON} lacks torch: reported without peers (PYTHON chooses another)", file=sys.stderr)
    record, rows, failures, budget = header("attention", torch_found), [], {}, Budget(options.budget)
    for width in options.head_width:
        for tokens in options.tokens:
            shape_rows, failed = time_shape(options, tokens, width, torch_found, budget)
            rows += shape_rows
            failures.update({f"{program}, N = {tokens}, d = {width}": why for program, why in failed.items()})
    differs = compare(rows)
    print(table(rows))
    for what, why in failures.items():
        print(f"failed: {what}: {why}")
    if options.out:
        write_json(options.out, record | {"rows": rows, "failures": failures})
    if differs:
        sys.exit(f"error: not the same work: {differs}")
    if any(what.startswith("nextpatch") for what in failures):
        sys.exit("error: nextpatch was not timed")


if __name__ == "__main__":
    main()
