"""Small copies of the real data sets: the authors' folders, file names and label formats, pictures of 8×8 pixels.

`write_miniature(name, root)` writes a few rows with invented scores; `full=True` every row that the authors published, with the
real scores where label tables lie in `../shared/labels`, else with invented ones. Layouts and quirks are those of docs/datasets.md §2;
`mirror=True` is the layout of the common mirror where it differs. No picture of the originals is used.
"""

import io
import json
import os
import shutil
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from openpyxl import Workbook
from PIL import Image
from scipy.io import savemat

from iqa_repro.data.dataset import published_scores

KINDS = {".bmp": "BMP", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


LABELS = Path(__file__).resolve().parents[2] / "shared" / "labels"  # real scores, where somebody has them
REAL = {  # data set: table of its real scores
    **{name: name for name in ("live", "csiq", "tid2013", "kadid10k", "pipal", "koniq10k", "spaq", "flive")},
    **{
        "livec": "clive",
        "agiqa3k": "agiqa3k",
        "aigiqa20k": "aigiqa20k_train",
        "aadb": "aadb",
        "ava": "ava_subset",
    },
}


def has_real(name: str) -> bool:
    return name in REAL and (LABELS / f"{REAL[name]}.csv").is_file()


def real_table(name: str) -> pd.DataFrame:
    "A table of real scores (its README says where each column comes from)"
    text = dict.fromkeys(("image", "ref", "name_image", "name_patch", "adj1", "adj2", "style", "prompt"), str)
    path = LABELS / f"{REAL.get(name, name)}.csv"
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def write_miniature(
    name: str,
    root: Path,
    full: bool = False,
    mirror: bool = False,
    real: bool | None = None,  # None: where full and the scores are at hand
    times: int = 1,  # of the small size: more pictures and references
) -> Path:
    "The folder of a new miniature; an old one at `root` is removed"
    real = full and has_real(name) if real is None else real
    if real and not full:
        raise ValueError("real scores belong to all rows: full=True")
    root = Path(root)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    BUILDERS[name](root, full, mirror, real_table(name) if real else None, times)
    return root


@contextmanager
def scores_unchecked():
    "Within the block invented scores pass for published ones: for tests of anything but the comparison itself"
    known = dict(published_scores())
    published_scores().clear()
    try:
        yield
    finally:
        published_scores().update(known)


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


def write_live(root, full, mirror, real, times):
    sizes = dict(jp2k=(227, 169), jpeg=(233, 175), wn=(174, 145), gblur=(174, 145), fastfading=(174, 145))
    sizes = sizes if full else dict.fromkeys(sizes, (6 * times, 4 * times))
    stems = [f"source{i}.bmp" for i in range(29 if full else 2 * times)]
    names, copies = [], []
    for folder, (files, distorted) in sizes.items():
        names += [f"{folder}/img{i}.bmp" for i in range(1, files + 1)]
        marks = np.arange(files) >= distorted  # the copies come last …
        copies += [
            *(np.random.default_rng(files).permutation(marks) if folder in ("jp2k", "jpeg") else marks)
        ]  # … or mixed
    copies = np.array(copies)
    first, second = scores(len(names), 17.90, 84.49), scores(len(names) + 1, -2.64, 111.77)[1:]
    deviations, references = np.full(len(names), 1.5), [stems[i % len(stems)] for i in range(len(names))]
    if real is not None:  # 779 known scores; those of the copies stay invented
        known, entries = real.set_index("image"), real_table("live_dmos_original_982")
        assert entries["image"].tolist() == names
        copies, stems = entries["is_reference"].to_numpy() == 1, sorted(known["ref"].unique())
        first[~copies], second[~copies], deviations[~copies] = (
            known.loc[np.array(names)[~copies], column]
            for column in ("dmos_original", "dmos_realigned", "std")
        )
        references = [known["ref"].get(name, stems[i % 29]) for i, name in enumerate(names)]
    write_pictures(root, [*names, *(f"refimgs/{stem}" for stem in stems)])
    first[copies] = 0  # the realigned scores of copies are not 0
    cells = np.empty((1, len(names)), dtype=object)
    cells[0] = [np.array([reference]) for reference in references]
    savemat(root / "dmos.mat", {"dmos": first[None], "orgs": copies[None].astype(float)})
    savemat(root / "refnames_all.mat", {"refnames_all": cells})
    realigned = {
        "dmos_new": second[None],
        "dmos_std": deviations[None],
        "orgs": copies[None].astype(float),
    }
    savemat(root / "dmos_realigned.mat", realigned)
    for folder in sizes:  # source, picture, parameter of the distortion (0 for copies)
        rows = [i for i, name in enumerate(names) if name.startswith(f"{folder}/")]
        lines = [
            f"{references[i]} {Path(names[i]).name} {0 if copies[i] else 0.1 + i / 100:.4f}" for i in rows
        ]
        (root / folder / "info.txt").write_text("\r\n".join(lines) + "\r\n")


CSIQ_TOKENS = {  # word of the score sheet: folder, token of the file name
    "noise": ("awgn", "AWGN"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
    "fnoise": ("fnoise", "fnoise"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
}


def write_csiq(root, full, mirror, real, times):
    stems = [1600, *(f"butter_flower_{i}" for i in range(1, 30 if full else 2 + times))]
    rows = [
        (stem, i, word, level)
        for i, word in enumerate(CSIQ_TOKENS, 1)
        for k, stem in enumerate(stems)
        for level in range(1, 6)
        if not (word == "contrast" and level > (4 if k < 26 or not full else 3))  # 26 × 4 + 4 × 3
    ]
    table = pd.DataFrame(rows, columns=["image", "dst_idx", "dst_type", "dst_lev"])
    table["dmos_std"], table["dmos"] = 0.1, scores(len(table), 0, 1)
    if real is not None:
        words = {token: word for word, (_, token) in CSIQ_TOKENS.items()}
        stems = sorted(real["ref"].str.removesuffix(".png").unique())
        stems = [int(stem) if stem.isdigit() else stem for stem in stems]  # as the sheet's cell has it
        table = pd.DataFrame(
            {
                "image": [int(stem) if stem.isdigit() else stem for stem in real["ref"].str[:-4]],
                "dst_idx": [[*CSIQ_TOKENS].index(words[token]) + 1 for token in real["distortion"]],
                "dst_type": real["distortion"].map(words),
                "dst_lev": real["level"],
                "dmos_std": real["std"],
                "dmos": real["dmos"],
            }
        )
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
        table.to_excel(book, sheet_name="all_by_image", startrow=3, startcol=3, index=False)
        note = pd.DataFrame([["rows of padding above"]])
        note.to_excel(book, sheet_name="all_by_image", startrow=len(table) + 6, index=False, header=False)
        pd.DataFrame({"a": ["#REF!"]}).to_excel(book, sheet_name="all_by_distortion")


def write_tid2013(root, full, mirror, real, times):
    stems, kinds = range(1, 26 if full else 3 + times), range(1, 25) if full else (1, 8, 11, 13)
    rows = list(product(stems, kinds, range(1, 6)))
    label = [f"{'I' if (k, z) in ((1, 1), (11, 1), (13, 1)) else 'i'}{i:02d}_{k:02d}_{z}" for i, k, z in rows]
    label = [f"{name}.{'BMP' if name[3:] in ('_11_1', '_13_1') else 'bmp'}" for name in label]
    values = scores(len(rows), 0.25, 7.2)
    deviations = [0.1 * (i % 3) for i in range(len(rows))]
    if real is not None:
        assert [Path(name).name for name in real["image"]] == label  # the mixed case is the authors'
        values, deviations = real["mos"], real["std"]
    stored = [name.lower() for name in label] if mirror else label
    pristine = ["i25.bmp" if i == 25 else f"I{i:02d}.BMP" for i in stems]
    write_pictures(
        root, [*(f"distorted_images/{n}" for n in stored), *(f"reference_images/{n}" for n in pristine)]
    )
    text = "\r\n".join(f"{value:.5f} {name}" for value, name in zip(values, label, strict=True))
    (root / "mos_with_names.txt").write_text(text + "\r\n")
    (root / "mos_std.txt").write_text("\n".join(f"{value:.5f}" for value in deviations) + "\n")
    (root / "metrics_values").mkdir()
    (root / "metrics_values" / "PSNR.txt").write_text("30.0\n" * len(rows))


def write_kadid10k(root, full, mirror, real, times):
    stems, kinds = range(1, 82 if full else 3 + times), range(1, 26) if full else (1, 9, 18)
    rows = list(product(stems, kinds, range(1, 6)))
    names, pristine = [f"I{i:02d}_{k:02d}_{z:02d}.png" for i, k, z in rows], [f"I{i:02d}.png" for i in stems]
    folders = ("distorted_images", "reference_images") if mirror else ("images", "images")
    write_pictures(root, [*(f"{folders[0]}/{n}" for n in names), *(f"{folders[1]}/{n}" for n in pristine)])
    frame = pd.DataFrame({"dist_img": names, "ref_img": [f"I{i:02d}.png" for i, _, _ in rows]})
    frame["dmos"], frame["var"] = scores(len(rows), 1, 4.93).round(2), 0.7
    if real is not None:
        assert [Path(name).name for name in real["image"]] == names
        frame["dmos"], frame["var"] = real["mos"], real["std"]
    frame.to_csv(root / "dmos.csv", index=False)


def write_pipal(root, full, mirror, real, times):
    groups = dict(zip(range(7), (12, 16, 10, 24, 13, 14, 27) if full else (2, 1, 1, 1, 1, 1, 1), strict=True))
    numbers = [i for i in range(1, 251) if i % 5][:200] if full else [*range(1, 2 + times), 60]
    rated = {
        f"A{number:04d}": [f"A{number:04d}_{g:02d}_{i:02d}.bmp" for g, n in groups.items() for i in range(n)]
        for number in numbers
    }
    rated = {stem: dict(zip(own, scores(len(own), 917, 1835), strict=True)) for stem, own in rated.items()}
    if real is not None:
        train = real[real["split"] == "train"]
        rated = {
            stem: dict(zip(own["image"], own["mos"], strict=True))
            for stem, own in train.groupby(train["image"].str[:5])
        }
    names, folders = [], "Dist_Imgs" if mirror else "Distortion_{}"
    (root / "Train_Label").mkdir()
    for place, (stem, own) in enumerate(rated.items()):
        names += [f"{folders.format(place * 4 // len(rated) + 1)}/{name}" for name in own]
        comma = ", " if place % 2 else ","  # both are in circulation
        lines = [f"{name}{comma}{value:.4f}" for name, value in own.items()]
        (root / "Train_Label" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    write_pictures(root, [*names, *(f"Train_Ref/{stem}.bmp" for stem in rated)])
    others = [f"A{number:04d}" for number in range(1, 251) if f"A{number:04d}" not in rated]
    held = others[: 25 if full else 2]  # the validation part
    own = [f"{stem}_10_{i:02d}.bmp" for stem in held for i in range(40 if full else 2)]
    write_pictures(root, [*(f"Val_Dist/{name}" for name in own), *(f"Val_Ref/{stem}.bmp" for stem in held)])
    lines = [f"{name},{value:.4f}" for name, value in zip(own, scores(len(own), 868.3, 1857), strict=True)]
    (root / "pipal21_val.txt").write_text("\n".join(lines) + "\n")


def write_livec(root, full, mirror, real, times):
    numbers = sorted(map(str, range(3, 1165 if full else 3 + 12 * times)))  # sorted as text: 10, 100, 1000, …
    training = [f"t{i}.bmp" for i in range(1, 8)]
    names = [*training, *(f"{n}.{'JPG' if int(n) % 2 else 'bmp'}" for n in numbers)]
    values, deviations = scores(len(names), 3.42, 92.43), scores(len(names) + 1, 6.76, 28.59)[1:]
    if real is not None:
        real = real.sort_values("index_in_mat")
        names = [Path(name).name for name in real["image"]]
        values, deviations = real["mos"].to_numpy(), real["std"].to_numpy()
        assert names[:7] == training
    base = root / "ChallengeDB_release" if mirror else root  # some archives unpack twice
    write_pictures(base / "Images", [*names[7:], *(f"trainingImages/{name}" for name in training)])
    for name in {"1024.JPG", "1113.JPG"} & set(names):  # the two pictures that are not 500×500
        (base / "Images" / name).unlink()
        Image.new("RGB", (10, 8)).save(base / "Images" / name, "JPEG")
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = [np.array([name]) for name in names]
    columns = {"AllImages_release": cells}
    columns |= {"AllMOS_release": values[None], "AllStdDev_release": deviations[None]}
    (base / "Data").mkdir()
    for name, held in columns.items():
        savemat(base / "Data" / f"{name}.mat", {name: held})


def write_koniq10k(root, full, mirror, real, times):
    n, shares = 10073 if full else 12 * times, [f"c{i}" for i in range(1, 6)]
    votes = np.random.default_rng(n).dirichlet(np.ones(5), n)
    frame = pd.DataFrame(votes, columns=shares).assign(c_total=105)
    frame.insert(0, "image_name", [f"{10004473376 + 7 * i}.jpg" for i in range(n)])
    hundred, deviations = 25 * (votes @ np.arange(1, 6) - 1), np.full(n, 0.5)
    parts = np.repeat(
        ["training", "validation", "test"], (7058, 1000, 2015) if full else (8 * times, 2 * times, 2 * times)
    )
    parts = np.random.default_rng(0).permutation(parts)
    if real is not None:
        frame = real[["image", *shares, "c_total"]].rename(columns={"image": "image_name"})
        frame["image_name"] = [Path(name).name for name in real["image"]]
        hundred, deviations, parts = real["mos_0_100"], real["sd_1_5"], real["set"]
    mean = frame[shares].to_numpy() @ np.arange(1, 6)
    write_pictures(
        root, [f"{size}/{name}" for size in ("1024x768", "512x384") for name in frame["image_name"]]
    )
    if mirror:  # the other file: mean vote, no split
        frame.assign(MOS=mean, SD=deviations, MOS_zscore=hundred).to_csv(
            root / "koniq10k_scores_and_distributions.csv", index=False
        )
        return
    frame.assign(MOS=hundred, SD=deviations, set=parts).to_csv(
        root / "koniq10k_distributions_sets.csv", index=False
    )


SPAQ_SCENES = [
    "Animal",
    "Cityscape",
    "Human",
    "Indoor scene",
    "Landscape",
    "Night scene",
    "Plant",
    "Still-life",
    "Others",
]
SPAQ_ATTRIBUTES = ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
SPAQ_EXIF = [
    "Focal length",
    "F-number",
    "Exposure time",
    "ISO",
    "Brightness",
    "Flash",
    "Time",
    "",
]  # Time: two columns


def write_spaq(root, full, mirror, real, times):
    n = 11125 if full else 10 * times
    names = [f"{i:05d}.jpg" for i in range(1, n + 1)]
    values = scores(n, 2, 96).round(2)
    attributes = np.stack([scores(n + i, 0.2, 98)[:n] for i in range(5)], 1)
    shares = np.eye(9)[np.arange(n) % 9]
    shares[::4] = (shares[::4] + np.roll(shares[::4], 1, axis=1)) / 2  # every fourth shows two scenes
    exif = np.tile([4.2, 1.7, 0.1, 200, -1.21, 0, -1, 0], (n, 1))
    exif[3, 2] = 1_000_000
    if real is not None:
        names, values = [Path(name).name for name in real["image"]], real["mos"]
        attributes, shares, exif = (
            real.filter(like=like).to_numpy(float) for like in ("attr_", "p_", "exif_")
        )
    write_pictures(root / "TestImage", names)
    place = root / ("annotations" if mirror else "Annotations")
    place.mkdir()
    sheets = {
        "MOS and Image attribute scores": (["MOS", *SPAQ_ATTRIBUTES], np.column_stack([values, attributes])),
        "Scene category labels": (SPAQ_SCENES, shares),
        "EXIF_tags": (SPAQ_EXIF, exif),
    }
    for title, (columns, cells) in sheets.items():
        book = Workbook(write_only=True)
        sheet = book.create_sheet("Sheet1")
        sheet.append(["Image name", *columns])
        for name, row in zip(names, cells.tolist(), strict=True):
            sheet.append([name, *row])
        book.save(place / f"{title}.xlsx")


def write_flive(root, full, mirror, real, times):
    sizes = (
        dict(AVA=9081, EMOTIC=9788, JPEGImages=9963, VOC2012=9976)
        if full
        else dict.fromkeys(("AVA", "EMOTIC"), 5 * times)
    )
    names = [f"voc_emotic_ava/{kind}__{i}.jpg" for kind, n in sizes.items() for i in range(n)]
    names += [
        f"blur_dataset/motion{i:04d}.{'JPG' if i % 24 == 1 else 'jpg'}" for i in range(999 if full else 2)
    ]
    names += [f"EE371R/rq{i}.jpg" for i in (59, 73, 85)] if full else []
    labels = pd.DataFrame({"name": names, "mos": scores(len(names), 0, 94.33)})
    if real is not None:
        labels = real[["image", "mos"]].rename(columns={"image": "name"})
    n, boxes = len(labels), np.random.default_rng(0).integers(0, 40, (len(labels), 3, 4))
    listed = labels.rename(columns={"name": "name_image", "mos": "mos_image"}).assign(
        width_image=100, height_image=80, top_image=0, left_image=0, bottom_image=80, right_image=100
    )
    listed.insert(0, "name_patch", [f"patches/{Path(name).name}" for name in listed["name_image"]])
    for k in (1, 2, 3):
        top, left, height, width = boxes[:, k - 1].T + np.array([[0], [0], [1], [1]])
        listed[f"mos_patch_{k}"] = scores(n + k, 0, 99)[:n]
        listed[f"width_patch_{k}"], listed[f"height_patch_{k}"] = width, height
        listed[f"top_patch_{k}"], listed[f"left_patch_{k}"] = top, left
        listed[f"bottom_patch_{k}"], listed[f"right_patch_{k}"] = top + height, left + width
    order = np.random.default_rng(0).permutation(n)
    test, held = (1827, 7727) if full else (2, 2)
    first, rest = listed.iloc[order[:test]], listed.iloc[order[test:]]
    if real is not None:  # the test list is known, the validation rows are not
        first = real_table("flive_labels640_test_patches")
        rest = listed[~listed["name_image"].isin(first["name_image"])]
    first.to_csv(root / "labels640.csv", index=False)
    rest.assign(is_valid=np.arange(n - test) < held).to_csv(root / "labels=640_padded.csv", index=False)
    labels.to_csv(root / "labels_image.csv", index=False)
    base = [Path(name).name for name in (*first["name_image"], *rest["name_image"])]
    patches = pd.DataFrame(
        {
            "name": [f"patches/{name}_patch_{k}.jpg" for k in (1, 2, 3) for name in base],
            "mos": [v for k in (1, 2, 3) for part in (first, rest) for v in part[f"mos_patch_{k}"]],
        }
    )
    patches.to_csv(root / "labels_patch.csv", index=False)
    write_pictures(root / "database", [*labels["name"], *patches["name"]])


def write_agiqa3k(root, full, mirror, real, times):
    counts = {"sd1.5": 1200, "midjourney": 592, "AttnGAN": 300, "glide": 300, "xl2.2": 300, "DALLE2": 290}
    counts = counts if full else dict.fromkeys(counts, 2 * times)
    names = [f"{generator}_normal_{i:03d}.jpg" for generator, n in counts.items() for i in range(n)]
    frame = pd.DataFrame(
        {"name": names, "prompt": "statue of a man, stone, day", "adj1": "", "adj2": "", "style": ""}
    )
    frame["mos_quality"], frame["std_quality"] = scores(len(names), 0, 4.48), 0.3
    frame["mos_align"], frame["std_align"] = scores(len(names) + 1, 0.1, 4.28)[1:], 0.4
    if real is not None:
        frame = real.rename(columns={"image": "name", "mos": "mos_quality", "std": "std_quality"})[
            frame.columns
        ]
    write_pictures(root / ("AGIQA-3K" if mirror else "."), frame["name"])
    frame.to_csv(root / "data.csv", index=False, lineterminator="\r\n")


def write_aigiqa20k(root, full, mirror, real, times):
    kinds = ("Dream", "LCM_SD1.5", "SDXL_Turbo", "MJ")  # some hold underscores and points
    sizes = {"train": 14000, "val": 2000, "test": 4000} if full else {"train": 8 * times, "val": 2, "test": 2}
    number = 0
    for part, n in sizes.items():
        names = [f"{kinds[i % 4]}_{number + i:04d}.png" for i in range(n)]
        number += n
        frame = pd.DataFrame({"name": names, "prompt": "a lake,\nat dawn"})
        if part == "train" or mirror:  # the challenge kept the others back
            frame["mos"] = scores(n, 0.12, 4.98)
        if part == "train" and real is not None:
            frame = real.rename(columns={"image": "name"})[["name", "prompt", "mos"]]
            frame["prompt"] += (
                ",\nas it was"  # the originals have line breaks; the table at hand has blanks for them
            )
        write_pictures(root / part, frame["name"])
        frame.to_excel(root / f"info_{part}.xlsx", sheet_name="Sheet1", index=False)


def write_agin(root, full, mirror, real, times):
    names = [f"CoCosNet_{i}.png" for i in range(6049 if full else 12 * times)]
    write_pictures(root / "images", names)
    frame = pd.DataFrame({"filename": names})
    for i, column in enumerate(("MOS_nat", "MOS_tech", "MOS_rat")):
        frame[column] = scores(len(names) + i, 1, 5)[: len(names)]
    frame.to_csv(root / "labels.csv", index=False)
    (root / "notes.csv").write_text("filename,remark\nCoCosNet_0.png,none\n")


def _votes(n):
    "Counts of the votes 1 … 10; pictures differ in what people think of them"
    rng = np.random.default_rng(n)
    middle = rng.uniform(1, 10, (n, 1))
    shares = np.exp(-((np.arange(1, 11) - middle) ** 2) / 4)
    return rng.multinomial(210, shares / shares.sum(1, keepdims=True))


def write_ava(root, full, mirror, real, times):
    n, listed, lost = (255530, 20000, 70) if full else (20 * times, 6 * times, 2)
    ids = np.arange(n) * 3 + 11  # as numbers, not in the order of their text
    votes = _votes(n)
    missing = ids[-1] + 1 + np.arange(lost)
    test = ids[: listed - lost]
    if real is not None:  # real ids and, for 25,551 of them, real votes; the others are invented
        exact = real["mos_precision"] == "exact"
        known = real["image"].str.removesuffix(".jpg").astype(int)
        missing = np.array([11714, 11723, 11739, *missing[3:]])  # three of the 70 are known by name
        ids = np.setdiff1d(np.arange(1, 960_000), [*known, *missing])[: n - len(known)]
        ids = np.concatenate([known[exact], known[~exact], ids])
        votes[: exact.sum()] = real.loc[exact, [f"n{i}" for i in range(1, 11)]]
        test = known[real["in_official_generic_test"] == 1].to_numpy()
    columns = [np.arange(1, n + 1), ids, *votes.T, np.zeros(n, int), np.full(n, 22), np.full(n, 1396)]
    pd.DataFrame(np.stack(columns, 1)).to_csv(root / "AVA.txt", sep=" ", header=False, index=False)
    write_pictures(root / ("ava_images" if mirror else "images"), [f"{i}.jpg" for i in ids])
    test, told = [*test, *missing], ids[-4 * times :]  # some ids of the list have no votes
    (root / "aesthetics_image_lists").mkdir()
    (root / "aesthetics_image_lists" / "generic_test.jpgl").write_text("\n".join(map(str, test)) + "\n")
    sentence = lambda text: {"raw": text, "clean": text.lower(), "tokens": [], "sentid": ""}
    said = lambda i: (
        "Nice. #1!",
        f"Great light in number {i}.",
        "Too dark for me",
    )  # one holds the raw file's mark
    images = [
        {
            "filename": f"{i}.jpg",
            "split": "val" if i == told[3] else "train",
            "sentids": "",
            "sentences": [sentence(text) for text in said(i)],
        }
        for i in told
    ]
    kept = root / "CLEAN_AVA_FULL_AFTER_SUBJECTIVE_CLEANING.json"
    kept.write_text(json.dumps({"dataset": "AVA", "images": images}))
    lines = ["#".join((str(k), str(i), *said(i))) for k, i in enumerate(told)]
    (root / "AVA_Comments_Full.txt").write_text(
        "\n".join([*lines, f"{len(lines)}#{ids[0]}#of a test picture#", ""])
    )


AADB_WORDS = ["BalacingElements", "ColorHarmony", "Content", "DoF", "Light", "MotionBlur", "Object"]  # (sic)
AADB_WORDS += ["Repetition", "RuleOfThirds", "Symmetry", "VividColor"]


def write_aadb(root, full, mirror, real, times):
    sizes, leaking = (
        ({"Train": 8458, "Validation": 500, "TestNew": 1000}, 127)
        if full
        else ({"Train": 8 * times, "Validation": 4 * times, "TestNew": 4 * times}, 2)
    )
    name, number, lists = "farm1_{}_20013434330_b.jpg".format, 0, {}
    for part, n in sizes.items():
        rows = pd.DataFrame({"image": [name(number + i) for i in range(n)], "mos": scores(n, 0, 1).round(2)})
        lists[part] = rows.assign(
            **{word: scores(n + i, 0, 1)[:n].round(1) for i, word in enumerate(AADB_WORDS)}
        )
        number += n
    again = lists["Validation"][:leaking].to_numpy()  # some rows of the validation list come again
    lists["TestNew"].iloc[-leaking:] = again
    if real is not None:
        words = {"train": "Train", "val": "Validation", "test": "TestNew"}
        lists = {word: real[real["split"] == split] for split, word in words.items()}
    place = root / "imgListFiles_label"
    place.mkdir()
    photos = root / ("datasetImages_warp256" if mirror else "datasetImages_originalSize")
    for part, rows in lists.items():
        names = rows["image"]
        if part == "TestNew":
            marked = [f"{value:.3f}_{name}" for value, name in zip(rows["mos"], names, strict=True)]
            write_pictures(root / "AADB_newtest", marked)
        else:
            write_pictures(photos, names)
        for what in ("score", *AADB_WORDS):
            values = rows["mos" if what == "score" else what]
            text = "".join(f"{name} {value}\n" for name, value in zip(names, values, strict=True))
            (place / f"imgList{part}Regression_{what}.txt").write_text(text)
    older = "".join(f"{name} 0.5\n" for name in lists["Train"]["image"][:4])
    (place / "imgListTestRegression_score.txt").write_text(older)  # the older test list, not to be used


def write_waterloo(root, full, mirror, real, times):
    numbers = range(1, 4745 if full else 2 + times)
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
