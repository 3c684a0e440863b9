"""Makes pillow.safetensors: what Pillow makes of small images, for the tests of csrc/image.

    make_seeds FOLDER && python make_pillow.py FOLDER        (Pillow 9.4.0, NumPy)

decode.NAME.{file,RGB,L}     a file of FOLDER and its convert("RGB"), convert("L")
source, source-grey          the image that the others start from
resize.I.{args,out}          args: grey, top, left, height, width, out height, out width, interpolation (0 nearest, 1 bilinear, 2 bicubic)
eval.I.{args,out}            args: grey, in height, in width (a corner of the source), out height, out width
jitter.I.{order,factors,out} brightness, contrast, saturation, hue, as torchvision 0.14 applies them to a Pillow image
"""
import json
import math
import os
import random
import struct
import sys
import warnings

import numpy as np
from PIL import Image, ImageEnhance, __version__

assert __version__ == "9.4.0"
warnings.simplefilter("ignore")  # palettes with transparency
random.seed(7)
tensors = {}


def eval_crop(image, height, width):
    """torchvision.transforms.Resize(ceil(short / 0.875), bicubic), CenterCrop((height, width))."""
    size = math.ceil(min(height, width) / 0.875)
    w, h = image.size
    short, long = min(w, h), max(w, h)
    new = (size, int(size * long / short)) if w <= h else (int(size * long / short), size)
    image = image.resize(new, Image.BICUBIC)
    w, h = image.size
    if width > w or height > h:
        left, top = max((width - w) // 2, 0), max((height - h) // 2, 0)
        right, bottom = max((width - w + 1) // 2, 0), max((height - h + 1) // 2, 0)
        padded = Image.new(image.mode, (w + left + right, h + top + bottom))
        padded.paste(image, (left, top))
        image = padded
        w, h = image.size
    top, left = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))
    return image.crop((left, top, left + width, top + height))


def jitter(image, order, brightness, contrast, saturation, hue):
    for step in order:
        if step == 0:
            image = ImageEnhance.Brightness(image).enhance(brightness)
        elif step == 1:
            image = ImageEnhance.Contrast(image).enhance(contrast)
        elif step == 2:
            image = ImageEnhance.Color(image).enhance(saturation)
        elif image.mode == "RGB":
            h, s, v = image.convert("HSV").split()
            turned = np.asarray(h) + np.uint8(int(hue * 255) & 255)
            image = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
    return image


folder = sys.argv[1]
for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    tensors[f"decode.{name}.file"] = np.fromfile(path, np.uint8)
    for mode in "RGB", "L":
        tensors[f"decode.{name}.{mode}"] = np.asarray(Image.open(path).convert(mode))

y, x, c = np.mgrid[0:61, 0:83, 0:3]
values = 128 + 90 * np.sin(x / (5 + 3 * c) + y / 9) + np.random.default_rng(3).normal(0, 30, x.shape)
source = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
sources = source, source.convert("L")
tensors["source"], tensors["source-grey"] = map(np.asarray, sources)

sizes = [(32, 32), (61, 83), (20, 83), (61, 20), (1, 1), (64, 90), (7, 110), (13, 14)]
for i, (height, width) in enumerate(sizes * 2):
    grey, how = int(i % 5 == 4), i % 3
    top, left = (0, 0) if i < 9 else (random.randint(0, 40), random.randint(0, 60))
    h, w = (61, 83) if i < 9 else (random.randint(1, 61 - top), random.randint(1, 83 - left))
    out = sources[grey].crop((left, top, left + w, top + h))
    out = out.resize((width, height), [Image.NEAREST, Image.BILINEAR, Image.BICUBIC][how])
    tensors[f"resize.{i}.args"] = np.array([grey, top, left, h, w, height, width, how], np.int32)
    tensors[f"resize.{i}.out"] = np.asarray(out)

evals = [(61, 83, 32, 32), (61, 40, 28, 35), (33, 83, 28, 70), (40, 41, 28, 70), (61, 83, 57, 20), (16, 83, 14, 14), (50, 50, 35, 90)]
for i, (h, w, height, width) in enumerate(evals):
    grey = i % 2
    tensors[f"eval.{i}.args"] = np.array([grey, h, w, height, width], np.int32)
    tensors[f"eval.{i}.out"] = np.asarray(eval_crop(sources[grey].crop((0, 0, w, h)), height, width))

orders = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2), (0, 3, 2, 1), (3, 1, 0, 2)]
for i, order in enumerate(orders):
    factors = [random.uniform(0, 2), random.uniform(0, 2), random.uniform(0, 2), random.uniform(-0.5, 0.5)]
    if i == 4:
        factors = [0.0, 1.0, 0.0, -0.5]
    grey = int(i == 5)
    tensors[f"jitter.{i}.order"] = np.array((grey,) + order, np.int32)
    tensors[f"jitter.{i}.factors"] = np.array(factors)
    tensors[f"jitter.{i}.out"] = np.asarray(jitter(sources[grey], order, *factors))

types = {"uint8": "U8", "int32": "I32", "float64": "F64"}
header, data = {}, b""
for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
    bytes_ = np.ascontiguousarray(array).tobytes()
    header[name] = {"dtype": types[str(array.dtype)], "shape": array.shape, "data_offsets": [len(data), len(data) + len(bytes_)]}
    data += bytes_
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "pillow.safetensors"), "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text + data)
