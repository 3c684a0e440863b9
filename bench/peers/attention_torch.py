#!/usr/bin/env python3
"""The attention operator in PyTorch: the peers of `nextpatch bench attention`: same shapes, masks and JSON lines.

    attention_torch.py --device cuda                        every version this device has, one JSON line a case
    attention_torch.py --check                              versions agree with a float64 reference, or exit 1

Versions: sdpa-mask (scaled_dot_product_attention with the prefix mask as a boolean tensor), sdpa-flash, sdpa-cudnn and
sdpa-math (full and causal, by that backend), flex (FlexAttention with the prefix as a block mask, compiled on a GPU).
Masks are made before the clock starts. A case that a version refuses is reported with "failure" and skipped.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time

import torch
import torch._dynamo
import torch._functorch.config
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from prefixes import prefix_lengths

MASKS = ("prefix", "causal", "full")

# ---- versions --------------------------------------------------------------------------------------------------------


class Case:
    """One shape and mask: prefix lengths [B] (causal 0, full N) and what each version needs of them."""

    def __init__(self, images, tokens, heads, width, mask, seed, device):
        self.images, self.tokens, self.heads, self.width = images, tokens, heads, width
        self.mask, self.device = mask, device
        lengths = {"prefix": prefix_lengths(seed, 0, tokens, 1, max(tokens - 1, 1), images), "causal": [0] * images,
                   "full": [tokens] * images}
        self.lengths = lengths[mask]
        self.pairs = heads * sum(s * s + (tokens * (tokens + 1) - s * (s + 1)) // 2 for s in self.lengths)
        self.prefix = torch.tensor(self.lengths, device=device)

    def boolean(self):
        """[B, 1, N, N], true where query i sees key j."""
        index = torch.arange(self.tokens, device=self.device)
        return ((index[None] <= index[:, None]) | (index < self.prefix[:, None, None]))[:, None]

    def blocks(self):
        prefix = self.prefix
        return create_block_mask(lambda b, h, i, j: (j <= i) | (j < prefix[b]), self.images, None, self.tokens,
                                 self.tokens, device=self.device)


def sdpa(backend):
    def make(case):
        def attend(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=case.mask == "causal")
        return attend
    return make


def sdpa_mask(case):
    mask = case.boolean()
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex(case):
    call = flex_attention
    if case.device.type == "cuda":
        call = torch.compile(flex_attention, dynamic=False)
    mask = case.blocks()
    return lambda q, k, v: call(q, k, v, block_mask=mask)


# Name → (masks, devices, what makes it for a case).
VERSIONS = {
    "sdpa-mask": (("prefix",), ("cpu", "cuda"), sdpa_mask),
    "sdpa-flash": (("causal", "full"), ("cpu", "cuda"), sdpa(SDPBackend.FLASH_ATTENTION)),
    "sdpa-cudnn": (("causal", "full"), ("cuda",), sdpa(SDPBackend.CUDNN_ATTENTION)),
    "sdpa-math": (("causal", "full"), ("cpu",), sdpa(SDPBackend.MATH)),
    "flex": (("prefix",), ("cpu", "cuda"), flex),
}


def inputs_of(case, dtype, requires_grad):
    """q, k, v and dout [B, h, N, d], lying in memory as [B, N, h, d], as a qkv product leaves them."""
    size = (case.images, case.tokens, case.heads, case.width)
    made = [torch.empty(size, dtype=dtype, device=case.device).uniform_(-1, 1).transpose(1, 2) for _ in range(4)]
    for t in made[:3]:
        t.requires_grad_(requires_grad)
    return made


# ---- timing ----------------------------------------------------------------------------------------------------------


def times(device, body, warmup, runs):
    """Seconds of each run; on a GPU by events, all queued before any is read."""
    if device.type != "cuda":
        seconds = []
        for turn in range(warmup + runs):
            start = time.perf_counter()
            body(turn)
            seconds.append(time.perf_counter() - start)
        return seconds[warmup:]
    for turn in range(warmup):
        body(turn)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    marks[0].record()
    for turn in range(runs):
        body(warmup + turn)
        marks[turn + 1].record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]


class Run:
    """One version on one case, forward or backward, with buffers that turns take in rotation."""

    def __init__(self, name, case, backward, options):
        self.name, self.case, self.backward, self.options, self.seconds = name, case, backward, options, []
        self.dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        self.attend = VERSIONS[name][2](case)
        tensor = case.images * case.tokens * case.heads * case.width * self.dtype.itemsize
        self.count = min(max(int(options.rotate_mb * 1e6 / (8 * tensor)) + 1, 2), 64)

    def round(self):
        """Buffers live for a round alone: all cases' at once would not fit."""
        sets = [inputs_of(self.case, self.dtype, self.backward) for _ in range(self.count)]
        if self.backward:
            outs = [self.attend(*s[:3]) for s in sets]

            def body(turn):
                i = turn % self.count
                torch.autograd.grad(outs[i], sets[i][:3], sets[i][3], retain_graph=True)
        else:
            def body(turn):
                with torch.no_grad():
                    self.attend(*sets[turn % self.count][:3])
        self.seconds += times(self.case.device, body, self.options.warmup, self.options.runs)

    def result(self):
        case, factor = self.case, 10 if self.backward else 4
        median, ordered = statistics.median(self.seconds), sorted(self.seconds)
        rows, width = case.images * case.tokens, case.heads * case.width
        moved = rows * ((8 if self.backward else 4) * width * self.dtype.itemsize + 4 * case.heads)
        return self.labels() | {
            "pairs": case.pairs, "median_s": median, "p99_s": ordered[round(0.99 * (len(ordered) - 1))],
            "min_s": ordered[0], "runs": len(ordered), "tflops_per_s": factor * case.pairs * case.width / median / 1e12,
            "gbytes_per_s": moved / median / 1e9}

    def labels(self):
        case = self.case
        return {"program": "torch", "version": self.name, "mask": case.mask,
                "pass": "backward" if self.backward else "forward", "precision": self.options.precision,
                "images": case.images, "tokens": case.tokens, "heads": case.heads, "head_width": case.width}


def why(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def measure_shape(options, device, tokens, width):
    images = options.images or -(-options.rows // tokens)
    heads = max(options.width // width, 1)
    runs = []
    for backward, mask in itertools.product((False, True), options.masks):
        case = Case(images, tokens, heads, width, mask, options.seed, device)
        for name in options.versions:
            masks, devices, _ = VERSIONS[name]
            if mask in masks and device.type in devices:
                runs.append(Run(name, case, backward, options))
    failures = {}
    for _ in range(options.rounds):
        for run in runs:
            if run not in failures:
                try:
                    run.round()
                except Exception as error:  # whatever a version says that cannot do this case: it is reported
                    failures[run] = why(error)
    for run in runs:
        print(json.dumps(run.labels() | {"failure": failures[run]} if run in failures else run.result()), flush=True)


# ---- the proof that masks are the same -------------------------------------------------------------------------------


def reference(case, q, k, v):
    scores = (q.double() @ k.double().transpose(-1, -2)) / math.sqrt(case.width)
    return scores.masked_fill(~case.boolean(), -math.inf).softmax(-1) @ v.double()


def check(options, device):
    """Every version's forward, and backward where it has one, against float64 on small shapes."""
    worst, failed = {}, []
    options.precision = "fp32"
    for tokens, mask, (name, (masks, devices, make)) in itertools.product((7, 64, 130), MASKS, VERSIONS.items()):
        if mask not in masks or device.type not in devices:
            continue
        case = Case(3, tokens, 2, 32, mask, options.seed, device)
        dtype = torch.bfloat16 if name in ("sdpa-flash", "sdpa-cudnn") and device.type == "cuda" else torch.float32
        q, k, v, dout = inputs_of(case, dtype, True)
        wanted = reference(case, q, k, v)
        pairs = list(zip(torch.autograd.grad(wanted, (q, k, v), dout.double()), "qkv"))
        no_backward = name == "flex" and device.type == "cpu"
        if no_backward:
            q, k, v = (t.detach() for t in (q, k, v))
        out = make(case)(q, k, v)
        errors = {"out": (out.double() - wanted).abs().max().item()}
        if not no_backward:
            for got, (want, letter) in zip(torch.autograd.grad(out, (q, k, v), dout), pairs):
                errors["d" + letter] = (got.double() - want.double()).abs().max().item()
        bound = 5e-2 if dtype == torch.bfloat16 else 1e-4
        for what, error in errors.items():
            key = f"{name} {what}"
            worst[key] = max(worst.get(key, 0.0), error)
            if not error <= bound:
                failed.append(f"{key}, {mask}, N = {tokens}: {error:.3g}")
    if prefix_lengths(0, 0, 256, 1, 255, 5) != [75, 152, 236, 169, 224]:
        failed.append("prefix lengths are not those that nextpatch draws")
    print(json.dumps({"check": "attention_torch", "passed": not failed, "largest_errors": worst}))
    if failed:
        sys.exit("error: " + "; ".join(failed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--check", action="store_true", help="compare with a float64 reference instead of timing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--tokens", type=numbers, default=[196, 256, 576, 1024])
    parser.add_argument("--head-width", type=numbers, default=[64, 128])
    parser.add_argument("--width", type=int, default=1536, help="of the model: width / head width heads")
    parser.add_argument("--rows", type=int, default=65536, help="tokens of all images together")
    parser.add_argument("--images", type=int, default=0, help="0: from --rows")
    parser.add_argument("--masks", type=words, default=list(MASKS))
    parser.add_argument("--versions", type=words, default=list(VERSIONS))
    parser.add_argument("--runs", type=int, default=20, help="timed runs of a case in a round")
    parser.add_argument("--warmup", type=int, default=5, help="runs before them")
    parser.add_argument("--rounds", type=int, default=3, help="in which all versions and masks of a shape take turns")
    parser.add_argument("--rotate-mb", type=float, default=256, help="buffers that runs take turns on, together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU")
    options = parser.parse_args()
    for known, given, flag in ((MASKS, options.masks, "--masks"), (VERSIONS, options.versions, "--versions")):
        for word in given:
            if word not in known:
                parser.error(f"{flag}: {word}: choose from {', '.join(known)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch._functorch.config.donated_buffer = False  # backward runs again and again on one graph
    for limit in ("recompile_limit", "cache_size_limit"):  # beyond it FlexAttention would quietly run unfused
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 1 << 16)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    if options.check:
        check(options, device)
        return
    for width, tokens in itertools.product(options.head_width, options.tokens):
        measure_shape(options, device, tokens, width)


if __name__ == "__main__":
    main()
