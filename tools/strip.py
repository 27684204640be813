"""The strip of README.md: one photograph, blurred more and more, with the score of each copy.

    python tools/strip.py            # writes docs/images/strip.png and docs/images/photograph.png
    python tools/strip.py --check    # are the committed scores those that the scorer gives?

The photograph is NASA's portrait of Eileen Collins (public domain, shipped with scikit-image); the weights are those of the package.
"""

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

import iqa_repro
from iqa_repro.data.distortions import distort
from iqa_repro.data.world.photographs import cut_scene

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
LEVELS = range(6)  # 0: as it is; 1 to 5: KADID-10k's levels of Gaussian blur


def blurred() -> list[np.ndarray]:
    "Six (160, 160, 3) images in 0 … 1"
    photograph = cut_scene("astronaut", seed=1, size=160)
    return [distort(photograph, "gaussian_blur", level) if level else photograph for level in LEVELS]


def scores(images: list[np.ndarray]) -> list[str]:
    "Quality of each image with the demonstration weights, two places"
    values = iqa_repro.load("clipiqa")([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    return [f"{value:.2f}" for value in values]


def draw(images: list[np.ndarray], told: list[str]) -> None:
    "Write both pictures, without a date in them"
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(9, 1.85), layout="constrained")
    for level, (ax, image) in enumerate(zip(axes, images, strict=True)):
        ax.imshow(image)
        ax.set_title(f"blur {level}: {told[level]}", fontsize=10)
        ax.axis("off")
    figure.savefig(IMAGES / "strip.png", dpi=100, metadata={"Software": None})
    Image.fromarray((images[0] * 255).round().astype("uint8")).save(IMAGES / "photograph.png", optimize=True)


def main(arguments: list[str]) -> int:
    "0, or 1 when README tells other scores"
    images = blurred()
    told = scores(images)
    if arguments == ["--check"]:
        alt = re.search(
            r"!\[([^\]]*)\]\(docs/images/strip\.png\)", (ROOT / "README.md").read_text(encoding="utf-8")
        )
        found = re.findall(r"\d\.\d\d", alt[1]) if alt else []
        print(
            "the scores are those of README.md" if found == told else f"README.md tells {found}, not {told}"
        )
        return int(found != told)
    IMAGES.mkdir(parents=True, exist_ok=True)
    draw(images, told)
    print(", ".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
