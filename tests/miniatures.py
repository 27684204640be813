"""Small copies of the real data sets: the authors' folders, file names and label formats, pictures of 8×8 pixels, invented scores.

`write_miniature(name, root)` writes a few rows; `full=True` every row that the authors published. Layouts and quirks are those of
datasets.md §2; `mirror=True` is the layout of the common mirror where it differs. No picture or score of the originals is used.
"""

import io
import json
import os
import shutil
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import savemat

KINDS = {".bmp": "BMP", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def write_miniature(name: str, root: Path, full: bool = False, mirror: bool = False) -> Path:
    "The folder of a new miniature; an old one at `root` is removed"
    root = Path(root)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    BUILDERS[name](root, full, mirror)
    return root


@cache
def _bytes(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, KINDS[suffix.lower()])
    return held.getvalue()


def write_pictures(root: Path, names) -> None:
    "The same small picture under every name; hard links, so that 250,000 of them take seconds and no room"
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    last = {}  # suffix: (file, links to it)
    for name in names:
        path, suffix = root / name, Path(name).suffix
        source, links = last.get(suffix, (None, 0))
        if source is None or links > 30_000:  # file systems limit the links to one file
            path.write_bytes(_bytes(suffix))
            last[suffix] = (path, 1)
        else:
            try:
                os.link(source, path)
            except OSError:  # a file system without hard links
                path.write_bytes(_bytes(suffix))
            last[suffix] = (source, links + 1)


def scores(n: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(n).uniform(low, high, n)


def write_live(root, full, mirror):
    sizes = dict(jp2k=(227, 169), jpeg=(233, 175), wn=(174, 145), gblur=(174, 145), fastfading=(174, 145))
    sizes = sizes if full else dict.fromkeys(sizes, (6, 4))
    stems = [f"source{i}.bmp" for i in range(29 if full else 2)]
    names, copies = [], []
    for folder, (files, distorted) in sizes.items():
        names += [f"{folder}/img{i}.bmp" for i in range(1, files + 1)]
        marks = np.arange(files) >= distorted  # the copies come last …
        copies += [
            *(np.random.default_rng(files).permutation(marks) if folder in ("jp2k", "jpeg") else marks)
        ]  # … or mixed
    copies = np.array(copies)
    write_pictures(root, [*names, *(f"refimgs/{stem}" for stem in stems)])
    first, second = scores(len(names), 17.90, 84.49), scores(len(names) + 1, -2.64, 111.77)[1:]
    first[copies] = 0  # the realigned scores of copies are not 0
    cells = np.empty((1, len(names)), dtype=object)
    cells[0] = [np.array([stems[i % len(stems)]]) for i in range(len(names))]
    savemat(root / "dmos.mat", {"dmos": first[None], "orgs": copies[None].astype(float)})
    savemat(root / "refnames_all.mat", {"refnames_all": cells})
    realigned = {
        "dmos_new": second[None],
        "dmos_std": np.full((1, len(names)), 1.5),
        "orgs": copies[None].astype(float),
    }
    savemat(root / "dmos_realigned.mat", realigned)


CSIQ_TOKENS = {  # word of the score sheet: folder, token of the file name
    "noise": ("awgn", "AWGN"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
    "fnoise": ("fnoise", "fnoise"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
}


def write_csiq(root, full, mirror):
    stems = [1600, *(f"butter_flower_{i}" for i in range(1, 30 if full else 3))]
    rows = [
        (stem, i, word, level)
        for i, word in enumerate(CSIQ_TOKENS, 1)
        for k, stem in enumerate(stems)
        for level in range(1, 6)
        if not (word == "contrast" and level > (4 if k < 26 or not full else 3))  # 26 × 4 + 4 × 3
    ]
    table = pd.DataFrame(rows, columns=["image", "dst_idx", "dst_type", "dst_lev"])
    table["dmos_std"], table["dmos"] = 0.1, scores(len(table), 0, 1)
    place = "{0}.{2}.{3}.png" if mirror else "{1}/{0}.{2}.{3}.png"  # the mirror is flat
    names = [
        "dst_imgs/" + place.format(r.image, *CSIQ_TOKENS[r.dst_type], r.dst_lev) for r in table.itertuples()
    ]
    write_pictures(root, [*names, *(f"src_imgs/{stem}.png" for stem in stems)])
    if mirror:
        lines = [f"{Path(name).name} {value:.6f}" for name, value in zip(names, table["dmos"], strict=True)]
        (root / "csiq_label.txt").write_text("\n".join(lines) + "\n")
        return
    with pd.ExcelWriter(
        root / "csiq.DMOS.xlsx"
    ) as book:  # three blank rows, the header in row 4, columns D to I, padding below
        padded = pd.concat([table, pd.DataFrame([[None] * 6] * 3, columns=table.columns)])
        padded.to_excel(book, sheet_name="all_by_image", startrow=3, startcol=3, index=False)
        pd.DataFrame({"a": ["#REF!"]}).to_excel(book, sheet_name="all_by_distortion")


def write_tid2013(root, full, mirror):
    stems, kinds = range(1, 26 if full else 4), range(1, 25) if full else (1, 8, 11, 13)
    rows = list(product(stems, kinds, range(1, 6)))
    label = [f"{'I' if (k, z) in ((1, 1), (11, 1), (13, 1)) else 'i'}{i:02d}_{k:02d}_{z}" for i, k, z in rows]
    label = [f"{name}.{'BMP' if name[3:] in ('_11_1', '_13_1') else 'bmp'}" for name in label]
    stored = [name.lower() for name in label] if mirror else label
    pristine = ["i25.bmp" if i == 25 else f"I{i:02d}.BMP" for i in stems]
    write_pictures(
        root, [*(f"distorted_images/{n}" for n in stored), *(f"reference_images/{n}" for n in pristine)]
    )
    values = scores(len(rows), 0.25, 7.2)
    text = "\r\n".join(f"{value:.5f} {name}" for value, name in zip(values, label, strict=True))
    (root / "mos_with_names.txt").write_text(text + "\r\n")
    (root / "mos_std.txt").write_text("\n".join(f"{0.1 * (i % 3):.5f}" for i in range(len(rows))) + "\n")
    (root / "metrics_values").mkdir()
    (root / "metrics_values" / "PSNR.txt").write_text("30.0\n" * len(rows))


def write_kadid10k(root, full, mirror):
    stems, kinds = range(1, 82 if full else 4), range(1, 26) if full else (1, 9, 18)
    rows = list(product(stems, kinds, range(1, 6)))
    names, pristine = [f"I{i:02d}_{k:02d}_{z:02d}.png" for i, k, z in rows], [f"I{i:02d}.png" for i in stems]
    folders = ("distorted_images", "reference_images") if mirror else ("images", "images")
    write_pictures(root, [*(f"{folders[0]}/{n}" for n in names), *(f"{folders[1]}/{n}" for n in pristine)])
    frame = pd.DataFrame({"dist_img": names, "ref_img": [f"I{i:02d}.png" for i, _, _ in rows]})
    frame["dmos"], frame["var"] = scores(len(rows), 1, 4.93).round(2), 0.7
    frame.to_csv(root / "dmos.csv", index=False)


def write_pipal(root, full, mirror):
    groups = dict(zip(range(7), (12, 16, 10, 24, 13, 14, 27) if full else (2, 1, 1, 1, 1, 1, 1), strict=True))
    numbers = [i for i in range(1, 251) if i % 5][:200] if full else [1, 2, 60]
    names, folders = [], "Dist_Imgs" if mirror else "Distortion_{}"
    (root / "Train_Label").mkdir()
    for place, number in enumerate(numbers):
        own = [f"A{number:04d}_{g:02d}_{i:02d}.bmp" for g, n in groups.items() for i in range(n)]
        names += [f"{folders.format(place * 4 // len(numbers) + 1)}/{name}" for name in own]
        comma = ", " if place % 2 else ","  # both are in circulation
        lines = [
            f"{name}{comma}{value:.4f}" for name, value in zip(own, scores(len(own), 917, 1835), strict=True)
        ]
        (root / "Train_Label" / f"A{number:04d}.txt").write_text("\n".join(lines) + "\n")
    write_pictures(root, [*names, *(f"Train_Ref/A{number:04d}.bmp" for number in numbers)])


def write_livec(root, full, mirror):
    numbers = sorted(map(str, range(3, 1165 if full else 15)))  # sorted as text: 10, 100, 1000, …
    names = [f"{n}.{'JPG' if int(n) % 2 else 'bmp'}" for n in numbers]
    training = [f"t{i}.bmp" for i in range(1, 8)]
    base = root / "ChallengeDB_release" if mirror else root  # some archives unpack twice
    write_pictures(base / "Images", [*names, *(f"trainingImages/{name}" for name in training)])
    cells = np.empty((len(names) + 7, 1), dtype=object)
    cells[:, 0] = [np.array([name]) for name in [*training, *names]]
    columns = {"AllImages_release": cells}
    columns["AllMOS_release"] = scores(len(cells), 3.42, 92.43)[None]
    columns["AllStdDev_release"] = scores(len(cells) + 1, 6.76, 28.59)[None, 1:]
    (base / "Data").mkdir()
    for name, values in columns.items():
        savemat(base / "Data" / f"{name}.mat", {name: values})


def write_koniq10k(root, full, mirror):
    n = 10073 if full else 12
    names = [f"{10004473376 + 7 * i}.jpg" for i in range(n)]
    write_pictures(root, [f"{size}/{name}" for size in ("1024x768", "512x384") for name in names])
    votes = np.random.default_rng(n).dirichlet(np.ones(5), n)
    mean = votes @ np.arange(1, 6)
    frame = pd.DataFrame(votes, columns=[f"c{i}" for i in range(1, 6)]).assign(c_total=105)
    frame.insert(0, "image_name", names)
    if mirror:  # the other file: mean vote, no split
        frame.assign(MOS=mean, SD=0.5, MOS_zscore=25 * (mean - 1)).to_csv(
            root / "koniq10k_scores_and_distributions.csv", index=False
        )
        return
    sizes = (7058, 1000, 2015) if full else (8, 2, 2)
    parts = np.repeat(["training", "validation", "test"], sizes)
    frame.assign(MOS=25 * (mean - 1), SD=0.5, set=np.random.default_rng(0).permutation(parts)).to_csv(
        root / "koniq10k_distributions_sets.csv", index=False
    )


def write_spaq(root, full, mirror):
    n = 11125 if full else 10
    names = [f"{i:05d}.jpg" for i in range(1, n + 1)]
    write_pictures(root / "TestImage", names)
    place = root / ("annotations" if mirror else "Annotations")
    place.mkdir()
    frame = pd.DataFrame({"Image name": names, "MOS": scores(n, 2, 96).round(2)})
    for i, name in enumerate(("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")):
        frame[name] = scores(n + i, 0.2, 98)[:n]
    frame.to_excel(place / "MOS and Image attribute scores.xlsx", index=False)
    scenes = (
        "Animal",
        "Cityscape",
        "Human",
        "Indoor scene",
        "Landscape",
        "Night scene",
        "Plant",
        "Still-life",
        "Others",
    )
    shares = np.eye(9)[np.arange(n) % 9]
    shares[::4] = (shares[::4] + np.roll(shares[::4], 1, axis=1)) / 2  # every fourth shows two scenes
    table = pd.DataFrame(shares, columns=scenes)
    table.insert(0, "Image name", names)
    table.to_excel(place / "Scene category labels.xlsx", index=False)


def write_flive(root, full, mirror):
    sizes = (
        dict(AVA=9081, EMOTIC=9788, JPEGImages=9963, VOC2012=9976)
        if full
        else dict.fromkeys(("AVA", "EMOTIC"), 5)
    )
    names = [f"voc_emotic_ava/{kind}__{i}.jpg" for kind, n in sizes.items() for i in range(n)]
    names += [
        f"blur_dataset/motion{i:04d}.{'JPG' if i % 24 == 1 else 'jpg'}" for i in range(999 if full else 2)
    ]
    names += [f"EE371R/rq{i}.jpg" for i in (59, 73, 85)] if full else []
    write_pictures(root / "database", names)
    values = scores(len(names), 0, 94.33)
    pd.DataFrame({"name": names, "mos": values}).to_csv(root / "labels_image.csv", index=False)
    order = np.random.default_rng(0).permutation(len(names))
    test, held = (1827, 7727) if full else (2, 2)
    listed = pd.DataFrame({"name_image": np.array(names)[order], "mos_image": values[order]})
    listed[:test].to_csv(root / "labels640.csv", index=False)
    rest = listed[test:].assign(is_valid=np.arange(len(names) - test) < held)
    rest.to_csv(root / "labels=640_padded.csv", index=False)


def write_agiqa3k(root, full, mirror):
    counts = {"sd1.5": 1200, "midjourney": 592, "AttnGAN": 300, "glide": 300, "xl2.2": 300, "DALLE2": 290}
    counts = counts if full else dict.fromkeys(counts, 2)
    names = [f"{generator}_normal_{i:03d}.jpg" for generator, n in counts.items() for i in range(n)]
    write_pictures(root / ("AGIQA-3K" if mirror else "."), names)
    frame = pd.DataFrame(
        {"name": names, "prompt": "statue of a man, stone, day", "adj1": "", "adj2": "", "style": ""}
    )
    frame["mos_quality"], frame["std_quality"] = scores(len(names), 0, 4.48), 0.3
    frame["mos_align"], frame["std_align"] = scores(len(names) + 1, 0.1, 4.28)[1:], 0.4
    frame.to_csv(root / "data.csv", index=False, lineterminator="\r\n")


def write_aigiqa20k(root, full, mirror):
    kinds = ("Dream", "LCM_SD1.5", "SDXL_Turbo", "MJ")
    sizes = {"train": 14000, "val": 2000, "test": 4000} if full else {"train": 8, "val": 2, "test": 2}
    number = 0
    for part, n in sizes.items():
        names = [f"{kinds[i % 4]}_{number + i:04d}.png" for i in range(n)]
        number += n
        write_pictures(root / part, names)
        frame = pd.DataFrame({"name": names, "prompt": "a lake,\nat dawn"})
        if part == "train" or mirror:  # the challenge kept the others back
            frame["mos"] = scores(n, 0.12, 4.98)
        frame.to_excel(root / f"info_{part}.xlsx", sheet_name="Sheet1", index=False)


def write_agin(root, full, mirror):
    names = [f"CoCosNet_{i}.png" for i in range(6049 if full else 12)]
    write_pictures(root / "images", names)
    frame = pd.DataFrame({"filename": names})
    for i, column in enumerate(("MOS_nat", "MOS_tech", "MOS_rat")):
        frame[column] = scores(len(names) + i, 1, 5)[: len(names)]
    frame.to_csv(root / "labels.csv", index=False)
    (root / "notes.csv").write_text("filename,remark\nCoCosNet_0.png,none\n")


def write_ava(root, full, mirror):
    n, listed, lost = (255530, 20000, 70) if full else (20, 6, 2)
    ids = np.arange(n) * 3 + 11  # as numbers, not in the order of their text
    votes = np.random.default_rng(n).multinomial(210, np.full(10, 0.1), n)
    columns = [np.arange(1, n + 1), ids, *votes.T, np.zeros(n, int), np.full(n, 22), np.full(n, 1396)]
    pd.DataFrame(np.stack(columns, 1)).to_csv(root / "AVA.txt", sep=" ", header=False, index=False)
    write_pictures(root / ("ava_images" if mirror else "images"), [f"{i}.jpg" for i in ids])
    test = [*ids[: listed - lost], *(ids[-1] + 1 + np.arange(lost))]  # some ids of the list have no votes
    (root / "aesthetics_image_lists").mkdir()
    (root / "aesthetics_image_lists" / "generic_test.jpgl").write_text("\n".join(map(str, test)) + "\n")
    sentence = lambda text: {"raw": text, "clean": text.lower(), "tokens": [], "sentid": ""}
    images = [
        {
            "filename": f"{i}.jpg",
            "split": "val" if i == ids[3] else "train",
            "sentids": "",
            "sentences": [sentence("Nice. #1!")] * 3,
        }
        for i in ids[:4]
    ]
    kept = root / "CLEAN_AVA_FULL_AFTER_SUBJECTIVE_CLEANING.json"
    kept.write_text(json.dumps({"dataset": "AVA", "images": images}))
    (root / "AVA_Comments_Full.txt").write_text("0#11#great light#what a view\n1#14#too dark#\n")


def write_aadb(root, full, mirror):
    sizes, leaking = (
        ({"Train": 8458, "Validation": 500, "TestNew": 1000}, 127)
        if full
        else ({"Train": 8, "Validation": 4, "TestNew": 4}, 2)
    )
    name, number, held = "farm1_{}_20013434330_b.jpg".format, 0, []
    for part, n in sizes.items():
        names = [name(number + i) for i in range(n)]
        number += n
        values = scores(n, 0, 1).round(2)
        if part == "TestNew":  # some names of the validation list come again
            names[-leaking:] = held[:leaking]
            write_pictures(
                root / "AADB_newtest", [f"{v:.3f}_{name}" for v, name in zip(values, names, strict=True)]
            )
        else:
            held = names
            write_pictures(
                root / ("datasetImages_warp256" if mirror else "datasetImages_originalSize"), names
            )
        place = root / "imgListFiles_label"
        place.mkdir(exist_ok=True)
        lines = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
        (place / f"imgList{part}Regression_score.txt").write_text("\n".join(lines) + "\n")


def write_waterloo(root, full, mirror):
    numbers = range(1, 4745 if full else 3)
    kinds = ("gblurConv", "wn", "jpeg", "jp2k")
    names = [
        f"distorted_images/{kind}/{n:05d}_{level}.bmp"
        for kind in kinds
        for n in numbers
        for level in range(1, 6)
    ]
    write_pictures(root, [*names, *(f"pristine_images/{n:05d}.bmp" for n in numbers)])


BUILDERS = {
    "live": write_live,
    "csiq": write_csiq,
    "tid2013": write_tid2013,
    "kadid10k": write_kadid10k,
    "pipal": write_pipal,
    "livec": write_livec,
    "koniq10k": write_koniq10k,
    "spaq": write_spaq,
    "flive": write_flive,
    "agiqa3k": write_agiqa3k,
    "aigiqa20k": write_aigiqa20k,
    "agin": write_agin,
    "ava": write_ava,
    "aadb": write_aadb,
    "waterloo": write_waterloo,
}
