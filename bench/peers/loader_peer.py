"""loader_peer.py IMAGE...: the work of bench/loader_bench.c done by Pillow, as torchvision's transforms call it.

One thread; files are read before the clock starts; each figure is the best of three passes over all images.
With NEXTPATCH_LOADER_BENCH=path/to/loader_bench that program runs on the same files first and the ratio is printed too."""
import io
import json
import math
import os
import random
import subprocess
import sys
import time
import warnings

import numpy as np
from PIL import Image, ImageEnhance, __version__

SIZE, REPEATS = 224, 3
warnings.simplefilter("ignore")


def random_box(width, height):
    for _ in range(10):
        area = width * height * random.uniform(0.4, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return left, top, left + w, top + h
    side = min(width, height)
    return 0, 0, side, side


def jitter(image):
    hue = random.uniform(-0.1, 0.1)
    for step in random.sample(range(4), 4):
        if step == 0:
            image = ImageEnhance.Brightness(image).enhance(random.uniform(0.6, 1.4))
        elif step == 1:
            image = ImageEnhance.Contrast(image).enhance(random.uniform(0.6, 1.4))
        elif step == 2:
            image = ImageEnhance.Color(image).enhance(random.uniform(0.8, 1.2))
        else:
            h, s, v = image.convert("HSV").split()
            turned = np.asarray(h) + np.uint8(int(hue * 255) & 255)
            image = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
    return image


def one(data, augmented):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if not augmented:
        return
    image = image.crop(random_box(*image.size)).resize((SIZE, SIZE), Image.BICUBIC)
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    if random.random() < 0.8:
        jitter(image)


def best(files, augmented):
    seconds = []
    for _ in range(REPEATS):
        random.seed(0)
        start = time.perf_counter()
        for data in files:
            one(data, augmented)
        seconds.append(time.perf_counter() - start)
    return len(files) / min(seconds)


def main(paths):
    ours = None
    if "NEXTPATCH_LOADER_BENCH" in os.environ:
        ours = json.loads(subprocess.check_output([os.environ["NEXTPATCH_LOADER_BENCH"]] + paths))
        print(json.dumps(ours))
    files = [open(path, "rb").read() for path in paths]
    peer = {"program": f"Pillow {__version__}", "images": len(files), "threads": 1,
            "decode_images_per_s": round(best(files, False), 1),
            "decode_augment_images_per_s": round(best(files, True), 1)}
    print(json.dumps(peer))
    if ours:
        keys = "decode_images_per_s", "decode_augment_images_per_s"
        print(json.dumps({"ratio": {key: round(ours[key] / peer[key], 2) for key in keys}}))


if __name__ == "__main__":
    main(sys.argv[1:])
