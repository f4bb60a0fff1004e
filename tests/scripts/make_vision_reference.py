"""Writes tests/data/vision: how MiniCPM-V cuts images of many sizes, and what Pillow makes of pictures.

    python tests/scripts/make_vision_reference.py tests/data/vision

`slices.json` is the published algorithm in Python, whose `round` and `int` it leans on; where
transformers has it too (4.6's image processor; its cells are twice as wide, so that half a patch is
asked for), both must agree. Pictures follow a formula, so that only digests of results are kept; files
that test the decoder are kept, with the digest of `Image.open(file).convert("RGB")`.

Pillow is the version that MiniCPM-V's requirements pin. Since 13.0 (pull request 9549), Pillow resizes
columns first where the height shrinks much more than the width: bytes then differ by a few levels.

pip install transformers==5.24.0 torch==2.15.0 pillow==10.1.0 numpy
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

RESOLUTION, PATCH, MOST = 448, 14, 9
SIZES = [
    (1, 1), (1, 2), (2, 1), (13, 7), (14, 14), (21, 35), (100, 100), (447, 448), (448, 448), (448, 449), (449, 448),
    (448, 896), (896, 448), (500, 400), (640, 480), (480, 640), (800, 600), (1024, 768), (768, 1024), (1280, 720),
    (720, 1280), (1920, 1080), (1080, 1920), (1344, 1344), (1345, 1343), (2000, 2000), (3000, 1000), (1000, 3000),
    (4032, 3024), (3024, 4032), (8000, 100), (100, 8000), (10000, 1), (1, 10000), (65536, 1), (1, 65536), (65536, 4096),
    (4096, 65536), (16000, 16000), (633, 317), (317, 633), (634, 1267), (549, 549), (550, 1098), (776, 777), (1003, 901),
    (1200, 301), (301, 1200), (2500, 448), (448, 2500), (672, 672), (700, 861), (1777, 999), (999, 1777),
]
RESIZES = [
    ((37, 23), (37, 23)), ((37, 23), (20, 23)), ((37, 23), (37, 50)), ((37, 23), (14, 14)), ((37, 23), (112, 98)),
    ((1, 1), (28, 14)), ((3, 200), (56, 14)), ((200, 3), (14, 42)), ((150, 101), (149, 102)), ((640, 480), (518, 392)),
    ((640, 480), (42, 28)), ((97, 131), (392, 532)),
]
CUTS = [(900, 500), (320, 1200), (60, 40)]
MIDDLES = [(60, 40), (33, 71), (20, 20), (7, 19), (300, 41)]
SIDE = 20
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def picture(width, height):
    """A picture by a formula: smooth here, noisy there, with all values."""
    x, y, c = np.meshgrid(np.arange(width), np.arange(height), np.arange(3), indexing="xy")
    values = (x * x * (c + 3) + y * 37 * (c + 1) + x * y * 11) >> 2
    return Image.fromarray((values % 256).astype(np.uint8))


def digest(image):
    return hashlib.sha256(image.tobytes()).hexdigest()


def divided(length, by):
    return max(round(length / by) * by, by)


def best(width, height, enlarge):
    if width * height > RESOLUTION * RESOLUTION or enlarge:
        ratio = width / height
        height = int(RESOLUTION / math.sqrt(ratio))
        width = int(height * ratio)
    return divided(width, PATCH), divided(height, PATCH)


def plan(width, height):
    """Size of the whole; columns, rows and size of what is cut, or None."""
    shape = math.log(width / height)
    n = min(math.ceil(width * height / (RESOLUTION * RESOLUTION)), MOST)
    if n <= 1:
        return best(width, height, True), None
    grids = [(m, k // m) for k in (n - 1, n, n + 1) if k != 1 and k <= MOST for m in range(1, k + 1) if k % m == 0]
    error, chosen = math.inf, (1, 1)
    for grid in grids:
        distance = abs(shape - math.log(grid[0] / grid[1]))
        if distance < error:
            error, chosen = distance, grid
    cell = best(divided(width, chosen[0]) / chosen[0], divided(height, chosen[1]) / chosen[1], True)
    return best(width, height, False), [*chosen, cell[0] * chosen[0], cell[1] * chosen[1]]


def as_transformers(width, height):
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil as Processor

    they = Processor.__new__(Processor)
    scale = dict(scale_resolution=RESOLUTION, patch_size=PATCH // 2, downsample_mode="4x")
    grid = they.get_sliced_grid((height, width), MOST, RESOLUTION)
    whole = they.find_best_resize((height, width), allow_upscale=grid is None, **scale)
    if grid is None:
        return whole[::-1], None
    size = they.get_refine_size((height, width), grid, allow_upscale=True, **scale)
    return whole[::-1], [grid[1], grid[0], size[1], size[0]]


def cut(width, height):
    """Digests of the whole and of the slices."""
    image = picture(width, height)
    whole, grid = plan(width, height)
    made = [image.resize(whole, Image.Resampling.BICUBIC)]
    if grid:
        columns, rows, w, h = grid
        refined = image.resize((w, h), Image.Resampling.BICUBIC)
        w, h = w // columns, h // rows
        made += [refined.crop((i * w, j * h, (i + 1) * w, (j + 1) * h)) for j in range(rows) for i in range(columns)]
    return [digest(image) for image in made]


def clip(image):
    """What CLIP's processor in transformers makes of a picture, before it scales colours."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor

    size = {"height": SIDE, "width": SIDE}
    they = Processor(size={"shortest_edge": SIDE}, crop_size=size, do_rescale=False, do_normalize=False)
    made = they(image, return_tensors="np")["pixel_values"][0]
    return digest(Image.fromarray(made.transpose(1, 2, 0)))


def padded(image):
    """A square of CLIP's mean colour with the picture in its middle, as LLaVA 1.5 hands it to CLIP's processor."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in CLIP_MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def files(folder):
    """One file per mode that the decoder must read as Pillow does."""
    base = picture(41, 29)
    grey = base.convert("L")
    alpha = grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    rgba, la, palette = base.convert("RGBA"), Image.merge("LA", (grey, alpha)), base.quantize(60)
    rgba.putalpha(alpha)
    made = {
        "rgb.png": base, "rgba.png": rgba, "grey.png": grey, "grey-alpha.png": la, "palette.png": palette,
        "bits.png": grey.point(lambda v: 255 * (v > 120)).convert("1"),
    }
    for name, image in made.items():
        image.save(folder / name)
    palette.save(folder / "palette-transparent.png", transparency=3)
    smooth = picture(3, 3).resize((64, 48), Image.Resampling.BICUBIC)
    smooth.save(folder / "colour.jpg", quality=92, subsampling=0)
    smooth.convert("L").save(folder / "grey.jpg", quality=92)
    names = [*made, "palette-transparent.png", "colour.jpg", "grey.jpg"]
    return {name: Image.open(folder / name).convert("RGB") for name in names}


def main():
    assert PIL.__version__ == "10.1.0", PIL.__version__
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    for width, height in SIZES:
        ours = plan(width, height)
        assert ours == as_transformers(width, height), (width, height, ours, as_transformers(width, height))
        table.append({"size": [width, height], "whole": ours[0], "grid": ours[1]})
    resized = [
        {"from": a, "to": b, "sha256": digest(picture(*a).resize(b, Image.Resampling.BICUBIC))} for a, b in RESIZES
    ]
    cuts = [{"size": size, "sha256": cut(*size)} for size in CUTS]
    middles = [{"size": size, "sha256": clip(picture(*size))} for size in MIDDLES]
    squares = [{"size": size, "sha256": clip(padded(picture(*size)))} for size in MIDDLES]
    read = files(folder)
    decoded = {name: {"size": image.size, "sha256": digest(image)} for name, image in read.items()}
    for name, image in read.items():
        if name.endswith(".jpg"):
            # Decoders of JPEG may round otherwise: all values are kept.
            decoded[name]["rgb"] = image.tobytes().hex()
    (folder / "slices.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n")
    content = {"resized": resized, "cut": cuts, "middle": middles, "padded": squares, "decoded": decoded}
    (folder / "pictures.json").write_text(json.dumps(content, indent=1) + "\n")


main()
