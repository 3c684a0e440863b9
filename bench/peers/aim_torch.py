#!/usr/bin/env python3
"""AIM pretraining in PyTorch: the peer against which nextpatch's training step is timed.

The same model, loss and update as nextpatch from the same recipe, written as a careful PyTorch user would: SDPA, fused
AdamW, foreach clipping, autocast. Nothing is slowed down for the comparison; what may make PyTorch faster is a flag.

    aim_torch.py recipes/cifar10.yaml --precision bf16 --batch 128      time the step; one JSON line on stdout
    aim_torch.py recipes/aim_600m.yaml --device cuda --attention flex --compile --checkpointing
    aim_torch.py --golden DIR/pretrain-l3m                              prove that the model is the same, or exit 1

Needs torch and, for recipes, PyYAML. Letters in shapes: B images, N patches, D width, E head width, h heads, T = B*N.
"""

import argparse
import contextlib
import ctypes
import json
import math
import os
import resource
import statistics
import struct
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from prefixes import prefix_lengths

# ---- settings --------------------------------------------------------------------------------------------------------

# What a recipe may leave out: the released AIMv1 configuration. The shapes themselves have no default here.
DEFAULTS = {
    "model.channels": 3,
    "model.mlp_ratio": 4,
    "model.norm_eps": 1e-5,
    "model.head_block": "l3m",
    "model.pixel_target": "standardised",
    "model.pixel_mean": [0.485, 0.456, 0.406],
    "model.pixel_std": [0.229, 0.224, 0.225],
    "data.prefix": [1, -1],
    "optim.lr": 1e-3,
    "optim.betas": [0.9, 0.95],
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.05,
    "optim.grad_clip": 1.0,
    "train.batch": None,
    "precision": "auto",
    "threads": 0,
    "seed": 0,
}


class Settings:
    """A recipe as a flat map of dotted keys: file first, then `key=value` overrides, as nextpatch reads it."""

    def __init__(self, path, overrides):
        import yaml  # only here: --golden must run without it

        self.values = dict(DEFAULTS)
        with open(path, encoding="utf-8") as file:
            self._add("", yaml.safe_load(file) or {})
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                sys.exit(f"error: {override}: an override is key=value")
            self.values[key] = yaml.safe_load(value)

    def _add(self, prefix, node):
        for key, value in node.items():
            if isinstance(value, dict):
                self._add(f"{prefix}{key}.", value)
            else:
                self.values[prefix + key] = value

    def __getitem__(self, key):
        if key not in self.values:
            sys.exit(f"error: the recipe has no {key}, which the peer needs")
        return self.values[key]

    def number(self, key):
        return float(self[key])  # YAML 1.1 reads 1e-5 (no dot) as a string


class Shape:
    """The sizes of one model."""

    def __init__(self, size, patch, channels, width, blocks, heads, mlp_ratio, eps, head_width, head_blocks,
                 head_block):
        self.height, self.width_px = size
        self.patch, self.channels, self.mlp_ratio, self.eps = patch, channels, mlp_ratio, eps
        self.width, self.blocks, self.heads = width, blocks, heads
        self.head_width, self.head_blocks, self.head_block = head_width, head_blocks, head_block
        self.grid = (self.height // patch, self.width_px // patch)
        self.tokens = self.grid[0] * self.grid[1]
        self.patch_values = patch * patch * channels

    @classmethod
    def of_recipe(cls, s):
        size = s["model.image_size"]
        return cls(size if isinstance(size, list) else [size, size], s["model.patch_size"], s["model.channels"],
                   s["model.width"], s["model.blocks"], s["model.heads"], s["model.mlp_ratio"],
                   s.number("model.norm_eps"), s["model.head_width"], s["model.head_blocks"], s["model.head_block"])

    @classmethod
    def of_case(cls, case):
        size = case["image_size"]
        return cls(size if isinstance(size, list) else [size, size], case["patch_size"], case["channels"],
                   case["embed_dim"], case["num_blocks"], case["num_heads"], case["mlp_ratio"], case["norm_eps"],
                   case["head_embed_dim"], case["head_num_blocks"], case["head_block"])


# ---- model -----------------------------------------------------------------------------------------------------------


def sincos_table(grid, width):
    """[N, width]: half of the columns encodes the patch's column, half its row; each half sin, then cos."""
    rate = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [position.reshape(-1, 1) * rate for position in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


class Patchifier(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.proj = nn.Conv2d(shape.channels, shape.width, shape.patch, stride=shape.patch)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(self, images):  # [B, C, H, W] -> [B, N, D]
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class Preprocessor(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.patchifier = Patchifier(shape)
        self.register_buffer("positions", sincos_table(shape.grid, shape.width), persistent=False)

    def forward(self, images):
        return self.patchifier(images) + self.positions


class Attention(nn.Module):
    kind = "sdpa"  # what --attention chose, for every layer
    flex = staticmethod(flex_attention)

    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x, mask):  # [B, N, D], [B, 1, N, N] or the block mask of it
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.kind == "fp32":
            with torch.autocast(x.device.type, enabled=False):
                x = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        elif self.kind == "flex":
            x = self.flex(q, k, v, block_mask=mask)
        elif self.kind == "math":
            with sdpa_kernel(SDPBackend.MATH):
                x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, N, d]
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width, bias=False)
        self.fc2 = nn.Linear(ratio * width, width, bias=False)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.norm_1 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.attn = Attention(shape)
        self.norm_2 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.mlp = Mlp(shape.width, shape.mlp_ratio)

    def forward(self, x, mask):
        x = x + self.attn(self.norm_1(x), mask)
        return x + self.mlp(self.norm_2(x))


class Trunk(nn.Module):
    def __init__(self, shape, checkpointing):
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.post_trunk_norm = nn.LayerNorm(shape.width, eps=shape.eps)

    def forward(self, x, mask):
        for block in self.blocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if self.checkpointing else block(x, mask)
        return self.post_trunk_norm(x)


class HeadBlock(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.identity = shape.head_block == "l3m"  # the released code keeps x + norm_1(x) where attention would stand
        self.norm_1 = nn.LayerNorm(shape.head_width, eps=shape.eps)
        self.norm_2 = nn.LayerNorm(shape.head_width, eps=shape.eps)
        self.mlp = Mlp(shape.head_width, shape.mlp_ratio)

    def forward(self, x):
        if self.identity:
            x = x + self.norm_1(x)
        return x + self.mlp(self.norm_2(x))


class PixelHead(nn.Module):
    def __init__(self, shape, checkpointing):
        super().__init__()
        self.checkpointing = checkpointing
        self.decoder_projection = nn.Linear(shape.width, shape.head_width)
        self.decoder_blocks = nn.ModuleList(HeadBlock(shape) for _ in range(shape.head_blocks))
        self.decoder_norm = nn.LayerNorm(shape.head_width, eps=shape.eps)
        self.decoder_pred = nn.Linear(shape.head_width, shape.patch_values)
        self.register_buffer("positions", sincos_table(shape.grid, shape.head_width), persistent=False)

    def forward(self, x, kept):
        """x [B, N, D] -> [B, N, P*P*C]; with `kept` (indices into the T tokens) only those rows, [kept, P*P*C]."""
        if kept is None:
            x = self.decoder_projection(x) + self.positions
        else:
            x = self.decoder_projection(x.flatten(0, 1).index_select(0, kept))
            x = x + self.positions[kept % self.positions.shape[0]]
        for block in self.decoder_blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.decoder_pred(self.decoder_norm(x))


class Aim(nn.Module):
    """Trunk and pixel head, with the tensor names of the published checkpoints."""

    def __init__(self, shape, checkpointing=False):
        super().__init__()
        self.shape = shape
        self.preprocessor = Preprocessor(shape)
        self.trunk = Trunk(shape, checkpointing)
        self.head = PixelHead(shape, checkpointing)

    def forward(self, images, mask, kept=None):
        return self.head(self.trunk(self.preprocessor(images), mask), kept)


def initialise(model):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: the convolution seen as a linear layer
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def prefix_causal_mask(prefix, tokens):
    """[B, 1, N, N], true where query i may see key j: j <= i or j < S."""
    index = torch.arange(tokens, device=prefix.device)
    return (index[None, :] <= index[:, None]) | (index < prefix[:, None, None])[:, None]


def prefix_causal_blocks(prefix, tokens):
    """The same as FlexAttention takes it: which tiles are hidden, partial and full, for each image."""
    return create_block_mask(lambda b, h, i, j: (j <= i) | (j < prefix[b]), prefix.shape[0], None, tokens, tokens,
                             device=prefix.device)


def targets_of(images, patch):
    """[B, N, P*P*C]: patches in (row, column, channel) order, each standardised (variance unbiased)."""
    batch, channels, height, width = images.shape
    t = images.view(batch, channels, height // patch, patch, width // patch, patch)
    t = t.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)
    var, mean = torch.var_mean(t, dim=-1, keepdim=True)
    return (t - mean) * torch.rsqrt(var + 1e-6)


def counted_tokens(prefix, tokens):
    """[B, N] bool: the tokens k whose prediction, of patch k+1, counts in the loss: S <= k+1 < N."""
    following = torch.arange(1, tokens + 1, device=prefix.device)
    return (following >= prefix[:, None]) & (following < tokens)


def loss_of(pred, images, patch, counted, kept):
    """Mean squared error per patch, averaged over the counted tokens of the whole batch."""
    target = targets_of(images, patch)
    if kept is not None:
        return F.mse_loss(pred.float(), target.flatten(0, 1).index_select(0, kept + 1))
    error = (pred[:, :-1].float() - target[:, 1:]).square().mean(dim=-1)
    counted = counted[:, :-1]
    return (error * counted).sum() / counted.sum()


# ---- one training step -----------------------------------------------------------------------------------------------


class Trainer:
    def __init__(self, model, options, lr, betas, eps, weight_decay, clip):
        self.model, self.options, self.clip = model, options, clip
        self.device = torch.device(options.device)
        self.compiled = torch.compile(self._loss) if options.compile else self._loss
        self.blocks = prefix_causal_blocks
        if self.device.type == "cuda":  # without compilation FlexAttention holds all scores, and its mask N x N bits
            self.blocks = torch.compile(prefix_causal_blocks)
            Attention.flex = staticmethod(flex_attention if options.compile else torch.compile(flex_attention))
        parameters = list(model.parameters())
        groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
                  {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]  # biases and norms
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)

    def autocast(self):
        if self.options.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=not self.options.no_autocast_cache)

    def _loss(self, images, mask, counted, kept):
        with self.autocast():
            pred = self.model(images, mask, kept)
        return loss_of(pred, images, self.model.shape.patch, counted, kept), pred

    def loss(self, images, prefix):
        """images [B, C, H, W] normalised, prefix [B] -> scalar loss, prediction."""
        tokens = self.model.shape.tokens
        flex = self.options.attention == "flex"
        mask = self.blocks(prefix, tokens) if flex else prefix_causal_mask(prefix, tokens)
        if not flex and self.options.mask == "additive":
            low = self.options.precision == "bf16" and self.options.attention != "fp32"
            dtype = torch.bfloat16 if low else torch.float32
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)
        counted = counted_tokens(prefix, tokens)
        kept = counted.flatten().nonzero().flatten() if self.options.head_loss_tokens else None
        return self.compiled(images, mask, counted, kept)

    def update(self):
        """Clip, AdamW; returns the gradient norm before clipping."""
        limit = self.clip if self.clip > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True)
        self.optimizer.step()
        return norm


class Stopwatch:
    """Seconds from step to step: on a GPU by events, read when all is done, so that the device never waits for us."""

    def __init__(self, device):
        self.device, self.marks = device, []

    def mark(self):
        if self.device.type == "cuda":
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self):
        if self.device.type != "cuda":
            return [b - a for a, b in zip(self.marks, self.marks[1:])]
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1e3 for a, b in zip(self.marks, self.marks[1:])]


def reuse_freed_memory():
    """Let glibc keep what is freed: else each step gives its activations back and pays for the page faults again."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def measure(options):
    settings = Settings(options.recipe, options.overrides)
    shape = Shape.of_recipe(settings)
    if settings["model.pixel_target"] != "standardised":
        sys.exit(f"error: model.pixel_target {settings['model.pixel_target']}: the peer has only standardised")
    if options.precision is None:
        options.precision = settings["precision"]
    if options.precision not in ("fp32", "bf16"):
        sys.exit(f"error: precision {options.precision}: choose fp32 or bf16 (--precision)")
    batch = options.batch or settings["train.batch"] or sys.exit("error: the recipe has no train.batch: give --batch")
    threads = options.threads or settings["threads"]
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(settings["seed"])
    device = torch.device(options.device)

    model = Aim(shape, options.checkpointing)
    initialise(model)
    model.to(device)
    trainer = Trainer(model, options, settings.number("optim.lr"), [float(b) for b in settings["optim.betas"]],
                      settings.number("optim.eps"), settings.number("optim.weight_decay"),
                      settings.number("optim.grad_clip"))
    # All is made beforehand: no loading in the timing. A step has the prefix lengths that nextpatch's has.
    low, high = settings["data.prefix"]
    high = shape.tokens - 1 if high == -1 else high
    size = (batch, shape.channels, shape.height, shape.width_px)
    images = [torch.randint(0, 256, size, dtype=torch.uint8).to(device) for _ in range(4)]
    prefixes = [torch.tensor(prefix_lengths(settings["seed"], i, 0, low, high, batch)).to(device)
                for i in range(options.warmup + options.steps)]
    mean, std = (torch.tensor(settings[f"model.pixel_{s}"][: shape.channels], device=device).view(1, -1, 1, 1)
                 for s in ("mean", "std"))

    micro = options.micro_batch or batch
    if batch % micro:
        sys.exit(f"error: --micro-batch {micro} does not divide the batch of {batch}")

    def step(i):
        pixels, prefix = images[i % len(images)], prefixes[i]
        trainer.optimizer.zero_grad(set_to_none=True)
        targets, total = counted_tokens(prefix, shape.tokens).sum(), 0.0
        for p, s in zip(pixels.split(micro), prefix.split(micro)):
            loss, _ = trainer.loss((p.float() / 255 - mean) / std, s)
            if micro < batch:  # the mean over the whole batch's targets, not a mean of means
                loss = loss * (counted_tokens(s, shape.tokens).sum() / targets)
            loss.backward()
            total = total + loss.detach()
        trainer.update()
        return total

    watch = Stopwatch(device)
    for i in range(options.warmup + options.steps):
        if i == options.warmup:
            watch.mark()
        loss = step(i)
        if i >= options.warmup:
            watch.mark()
    seconds, loss = watch.seconds(), float(loss)

    median = statistics.median(seconds)
    result = {
        "median_s": median, "images_per_s": batch / median, "min_s": min(seconds), "max_s": max(seconds),
        "loss": loss, "batch": batch, "precision": options.precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.device,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "steps": options.steps, "warmup": options.warmup,
        "compile": options.compile, "head_loss_tokens": options.head_loss_tokens, "mask": options.mask,
        "attention": options.attention, "checkpointing": options.checkpointing,
        "micro_batch": micro, "autocast_cache": not options.no_autocast_cache,
        "keep_memory": not options.no_keep_memory, "recipe": options.recipe, "overrides": options.overrides,
    }
    if device.type == "cuda":
        result["peak_device_bytes"] = torch.cuda.max_memory_reserved(device)
        result["device_name"] = torch.cuda.get_device_name(device)
    print(json.dumps(result))
    if not math.isfinite(loss):
        sys.exit("error: the loss is not finite")


# ---- the proof that it is the same model -----------------------------------------------------------------------------


def read_safetensors(path):
    dtypes = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
              "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(memoryview(data)[begin:end], dtype=dtypes[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def relative(got, expected):
    return float((got.detach().cpu().float() - expected).norm() / expected.norm().clamp_min(1e-30))


def worse(a, b):
    return a if a > b or math.isnan(a) else b  # max() would drop a NaN


def check(options):
    """Train through a golden case; compare predictions, gradients, losses, norms and final weights."""
    options.precision = options.precision or "fp32"
    with open(os.path.join(options.golden, "case.json"), encoding="utf-8") as file:
        case = json.load(file)
    if case["kind"] != "pretrain":
        sys.exit(f"error: {options.golden} is a {case['kind']} case, not pretrain")
    weights, inputs, expect, tables = (read_safetensors(os.path.join(options.golden, f"{name}.safetensors"))
                                       for name in ("weights", "inputs", "expect", "positions"))
    if options.threads:
        torch.set_num_threads(options.threads)
    model = Aim(Shape.of_case(case), options.checkpointing)
    model.load_state_dict(weights, strict=True)
    model.to(options.device)
    trainer = Trainer(model, options, 0.0, case["betas"], case["adam_eps"], case["weight_decay"], case["grad_clip"])

    errors = {"positions": max(float((sincos_table(model.shape.grid, t.shape[1]) - t).abs().max())
                               for t in tables.values()),
              "pred": 0.0, "loss": 0.0, "grad_norm": 0.0, "grad": 0.0, "final": 0.0}
    for step in range(case["steps"]):
        images, prefix = (inputs[name][step].to(options.device) for name in ("images", "prefix_len"))
        with torch.set_grad_enabled(not options.forward_only):
            loss, pred = trainer.loss(images, prefix)
        if step == 0:
            counted = counted_tokens(prefix, model.shape.tokens).cpu()
            wanted = expect["pred"][counted] if options.head_loss_tokens else expect["pred"]
            errors["pred"] = relative(pred, wanted)
        if options.forward_only:
            errors = {"positions": errors["positions"], "pred": errors["pred"],
                      "loss": relative(loss, expect["loss"][0])}
            break
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            for name, p in model.named_parameters():
                grad = torch.zeros_like(p) if p.grad is None else p.grad  # the paper's head leaves norm_1 unused
                errors["grad"] = worse(errors["grad"], relative(grad, expect[f"grad.{name}"]))
        for group in trainer.optimizer.param_groups:
            group["lr"] = float(expect["lr"][step])
        for name, value in (("grad_norm", trainer.update()), ("loss", loss)):
            errors[name] = worse(errors[name], relative(value, expect[name][step]))
    for name, p in [] if options.forward_only else model.named_parameters():
        errors["final"] = worse(errors["final"], relative(p, expect[f"final.{name}"]))

    # fp32: the bounds of the golden cases. bf16: eight bits of mantissa, through every layer.
    fp32 = {"positions": 1e-6, "pred": 1e-4, "loss": 1e-4, "grad_norm": 1e-3, "grad": 1e-3, "final": 1e-3}
    bf16 = {"positions": 1e-6, "pred": 3e-2, "loss": 1e-2, "grad_norm": 5e-2, "grad": 1e-1, "final": 5e-2}
    bounds = fp32 if options.precision == "fp32" else bf16
    passed = all(errors[name] <= bounds[name] for name in errors)
    print(json.dumps({"golden": os.path.basename(os.path.normpath(options.golden)), "passed": passed,
                      "precision": options.precision, "errors": errors,
                      "bounds": {name: bounds[name] for name in errors}, "loss_last": loss.item()}))
    if not passed:
        sys.exit("error: the peer does not agree with the golden case")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="a nextpatch recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as nextpatch takes them")
    parser.add_argument("--golden", metavar="DIR", help="check against a pretrain golden case instead of timing")
    parser.add_argument("--precision", choices=["fp32", "bf16"],
                        help="bf16: autocast over fp32 weights; default: the recipe's")
    parser.add_argument("--batch", type=int, help="images a step; default: train.batch")
    parser.add_argument("--micro-batch", type=int, default=0, help="images in one pass; 0: the batch")
    parser.add_argument("--forward-only", action="store_true",
                        help="with --golden: predictions and loss alone (FlexAttention has no backward on a CPU)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timing starts")
    parser.add_argument("--threads", type=int, default=0, help="default: the recipe's, else PyTorch's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model and the loss")
    parser.add_argument("--head-loss-tokens", action="store_true", help="gather the tokens of the loss before the head")
    parser.add_argument("--mask", choices=["bool", "additive"], default="bool", help="how SDPA is given the mask")
    parser.add_argument("--attention", choices=["sdpa", "fp32", "math", "flex"], default="sdpa",
                        help="fp32: SDPA outside autocast; math: its unfused backend, on a CPU often faster; flex: "
                        "FlexAttention with the prefix mask as a block mask")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the blocks in the backward pass")
    parser.add_argument("--no-autocast-cache", action="store_true",
                        help="cast weights at each use; saves 2 bytes a parameter where a weight is used once a pass")
    parser.add_argument("--no-keep-memory", action="store_true", help="leave glibc's malloc as it is (slower)")
    options = parser.parse_intermixed_args()
    if (options.recipe is None) == (options.golden is None):
        parser.error("give a recipe or --golden DIR")
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps is at least 1, --warmup at least 0")
    Attention.kind = options.attention
    if not options.no_keep_memory:
        reuse_freed_memory()
    check(options) if options.golden else measure(options)


if __name__ == "__main__":
    main()
