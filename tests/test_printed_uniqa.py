"""Every typed number and fact of UniQA against the paper's text, whose tables are read here from their own heads.

The text mixes line numbers into Tables 7 and 8, shortens the second head of Tables 1 and 15 to its first two cells and misreads
three names. A star means an ensemble of prompts or an unfrozen backbone, as the caption says; in Table 13, whose caption explains
a star, the second of two rows "Ours" lost it.
"""

import re
from itertools import cycle, islice

import pandas as pd
import pytest
from printed_text import assert_same, bare, dataset, spread, store, text_of, typed

from iqa_repro.study.printed import FOLDER

TEXT, pytestmark = text_of("uniqa")

FACTS = (7, 9, 10)  # tables without results
ABLATIONS = (6, 16)  # tables with three columns of names and blocks of rows
NAMES = {"LoDA": "LoDa", "PAIAA": "PA-IAA"}  # one spelling in all tables of both papers
NAMES |= {"MetalQA": "MetaIQA", "CLIQQA": "CLIP-IQA", "CLIIQA": "CLIP-IQA"}  # misread in the text
NAMES |= {
    "Single Prompt": "single prompt",
    "Antonym Prompt": "antonym prompt",
    "Ours adapter": "UniQA adapter",
}
NAMES |= {"w/o Strategy": "w/o strategy", "IR Strategy": "IR", "AR Strategy": "AR", "AIR Strategy": "AIR"}
BLOCKS = {
    "different pre-training data": "pre-training data",
    "data purification strategy": "purification",
    "the proposed adapter": "adapter",
    "different MLLMs": "captioner",
}
PARTS = ("quality", "aesthetics", "comments")  # Y_IQA, Y_IAA, Y_IAA+


def tables(text):
    "Table number → (caption, rows of cells): the lines with bars below a caption"
    found = {}
    for line in text.splitlines():
        if caption := re.match(r"(?:\d{3} )?Table (\d+): (.*)", line):
            rows = []
            found[int(caption[1])] = caption[2], rows
        elif line.startswith("|") and not line.startswith("|--"):
            cells = [re.sub(r"^(8[89]|9\d)\d (?=\S)", "", bare(cell)) for cell in line[1:-1].split("|")]
            rows.append(cells)
    return found


def uncited(cell):
    "A cell without '(Su et al., 2020)', 'Ma et al. (2017)', 'Kim & Lee (2016)' or '(Zhong et al.)'"
    cell = re.sub(r" \([A-Z][^()]*(\d{4}[a-z]?|et al\.)\)$", "", cell)
    return re.sub(r" [A-Z]\w+ (et al\.|& [A-Z]\w+) \(\d{4}[a-z]?\)$", "", cell)


def column_of(words, caption):
    "(data set, setting, metric) that the words over a column say, and the caption where they do not"
    subject = re.search(r"Results on (?:the )?([\w-]+)", caption)
    place, setting = subject and dataset(subject[1]), "full"
    metric = re.search("SRCC|PLCC", caption.split("Higher")[0])
    metric = metric and metric[0].lower()
    for word in words:
        if word in ("SRCC", "PLCC"):
            metric = word.lower()
        elif word.isdigit() or word in ("Technical", "Rationality", "Naturalness"):
            setting = word.lower()
        else:
            place = dataset(word)
    assert place and metric, (words, caption)
    return place, setting, metric


def read_head(rows, names, caption):
    "(rows of the head, what each column of values holds)"
    first = next(n for n, row in enumerate(rows) if any(re.match(r"0\.\d", cell) for cell in row))
    width = max(map(len, rows)) - names
    heads = [row[names:] for row in rows[:first] if any(row[names:])]
    heads = [spread(head) if "" in head else list(islice(cycle(head), width)) for head in heads]
    return first, [column_of(words, caption) for words in zip(*heads, strict=True)]


def method_of(cells, caption, seen):
    "(our name of a row, its setting where the row says one)"
    if set(cells) <= {"✓", "×"}:
        ticked = [part for part, cell in zip(PARTS, cells, strict=True) if cell == "✓"]
        return " + ".join(ticked) or "no pre-training", None
    name = uncited(cells[0])
    star = name.endswith("*") or name in seen
    seen.add(name)
    plain, tuned, _ = name.rstrip("*").partition("+Finetune")
    plain = "UniQA" if plain == "Ours" else NAMES.get(plain, plain)
    method = plain + star * (", ensemble" if "ensemble" in caption else ", unfrozen")
    if "zero-shot setting" in caption:  # Table 4
        return method, "zero-shot" if star or plain == "UniQA" else "trained on flive"
    return method, "zero-shot" if "AIGIQA" in caption and not tuned else None


def read_results(text):
    "(artefact, method, data set, setting, metric) → value, of all tables of results"
    numbers = {}
    for table, (caption, rows) in tables(text).items():
        if table in FACTS:
            continue
        names, seen, block = 3 if table in ABLATIONS else 1, set(), None
        first, columns = read_head(rows, names, caption)
        for n, row in enumerate(rows):
            if started := re.match(r"Ablation on (.*)", row[0]):
                block = BLOCKS[started[1]]
            elif n >= first:
                method, own = method_of(row[:names] if row[1] else row[:1], caption, seen)
                for (place, setting, metric), value in zip(columns, row[names:], strict=True):
                    if value != "-":
                        key = (f"table{table}", method, place, own or block or setting, metric)
                        store(numbers, key, float(value))
    return numbers


def read_fact_tables(text):
    "(place, subject, fact) → words of Tables 7, 9 and 10"
    heads = {"Dataset Type": "type", "Dataset Size": "pictures", "Number of distortions": "distortions"}
    heads |= {"Task": "task", "Epoch": "epochs", "Batch size": "batch", "Learning rate": "lr"}
    words = {"Synthetic": "synthetic", "Authentic": "authentic", "IQA": "quality", "IAA": "aesthetics"}
    found, all_tables = {}, tables(text)
    for table in (7, 9):
        (_, *facts), *rows = all_tables[table][1]
        for name, *values in rows:
            for fact, value in zip(facts, values, strict=True):
                if value != "-":
                    key = (f"table{table}", dataset(uncited(name)), heads[fact])
                    store(found, key, words.get(value, value.replace(",", "")))
    groups = [row for row in all_tables[10][1] if row != ["Task", "Prompt"]]
    for name, prompt in zip(spread([row[0] for row in groups]), [row[1] for row in groups], strict=True):
        for part in name.split(", "):
            number = sum(key[1] == dataset(part) for key in found if key[0] == "table10") + 1
            store(found, ("table10", dataset(part), f"group {number}"), prompt)
    return found


# place → its head in the text; then what its sentences say, in the order of the groups
SECTIONS = {
    "section5.1": "# 5.1 ",
    "section5.2": "# 5.2 ",
    "appendixA": "# A.3 ",
    "appendixB": "# B.2 ",
    "appendixC": "# C ",
}
PICTURES = "pictures,training pictures,validation pictures,test pictures"
SENTENCES = [
    ("section5.1", "flive", "pictures", r"FLIVE \(.{,30}\) is an .{,40} contains ([\d,]+) images"),
    ("section5.1", "ava", "pictures,test pictures", r"AVA comprises (\d+k) images, with the test set of ([\d,]+) images"),
    ("section5.1", "aadb", PICTURES, r"AADB .{,20} ([\d,]+) images in total, with ([\d,]+) .{,20} (\d+) .{,30} ([\d,]+) images for testing"),
    ("section5.1", "ava_captions", "pictures,captions", r"([\d,]+) images paired with ([\d.]+ million) captions"),
    ("section5.2", "pre-training", "lr,weight decay", r"learning rate of (\S+) and weight decay of ([\d.]+)\."),
    ("section5.2", "pre-training", "epochs,batch", r"for (\d+) epochs with a batch size of (\d+)\."),
    ("section5.2", "purification", "K", r"\$K = (\d)\$ to refine"),
    ("section5.2", "evaluation", "training share,test share", r"(\d+%) of the images .{,20} training and the remaining (\d+%)"),
    ("section5.2", "evaluation", "splits", r"repeat this process (\d+) times"),
    ("appendixA", "evaluation", "crops", r"into (\d+) image patches"),
    ("appendixA", "evaluation", "crop side", r"resolution of \$(\d+) "),
    ("appendixB", "aigiqa20k", PICTURES, r"([\d,]+) images in total, with ([\d,]+) .{,20} ([\d,]+) images for validation, and ([\d,]+) images for testing"),
    ("appendixB", "aigiqa20k", "lr,epochs", r"learning rate of \$(\S+)\$ for the adapter and train the model for (\d+) epochs"),
    ("appendixB", "eciqad", "pictures", r"ECIQAD \(.{,20}\) is .{,90} containing (\d+) images"),
    ("appendixB", "eciqad", "splits,split,epochs", r"experiment (\d+) times with an (\S+) data split .{,60} for (\d+) epochs"),
    ("appendixB", "agin", "pictures,split,splits", r"includes (\d+) images\. .{,60} into (\S+)\. We repeat this process (\d+) times"),
    ("appendixB", "agin", "epochs", r"train the model for (\d+) epochs\. As shown in Table 13"),
    ("appendixC", "all", "pictures,captions", r"has ([\d,]+) images, with ([\d,]+) captions"),
    ("appendixC", "quality", "pictures", r"IQA includes ([\d,]+) images"),
    ("appendixC", "aesthetics", "pictures", r"IAA includes ([\d,]+) images"),
    ("appendixC", "quality", "captions a picture", r"(three) captions for each IQA image"),
    ("appendixC", "aesthetics", "captions a picture", r"(one) caption for each IAA image"),
    ("appendixC", "quality", "captions", r"([\d,]+) generated IQA captions"),
    ("appendixC", "aesthetics", "captions", r"([\d,]+) IAA captions"),
    ("appendixC", "all", "words of most texts", r"in most texts is between (\d+ and \d+)"),
    ("appendixC", "all", "words of many texts", r"number of words between (\d+-\d+)"),
]  # fmt: skip


def plain(word):
    "A printed number as we type it"
    for pattern, made in {
        r"(\d+)k": lambda m: f"{m[1]}000",
        r"([\d.]+) million": lambda m: f"{float(m[1]) * 1e6:.0f}",
        r"(\d+)%": lambda m: f"{int(m[1]) / 100}",
        r"(\d+) and (\d+)": lambda m: f"{m[1]}-{m[2]}",
        r"three|one": lambda m: {"three": "3", "one": "1"}[m[0]],
    }.items():
        if match := re.fullmatch(pattern, word):
            return made(match)
    return word.replace(",", "")


def read_sentences(text):
    "(place, subject, fact) → number that a sentence of that section says"
    found, prose = {}, re.sub(r"(?m)^(\||Table ).*\n", "", text)  # tables stand in the middle of sentences
    for place, subject, facts, pattern in SENTENCES:
        section = re.split(r"\n#+ ", prose[prose.index(SECTIONS[place]) :], maxsplit=1)[0]
        (said,) = re.findall(pattern, " ".join(section.split()))
        values = said if isinstance(said, tuple) else (said,)
        for fact, value in zip(facts.split(","), values, strict=True):
            store(found, (place, subject, fact), plain(value))
    for caption, _ in tables(
        text
    ).values():  # the rate of the unfrozen backbone stands under each starred table
        if rate := re.search(r"smaller learning rate of\s+\$(\S+)\$", caption):
            store(
                found,
                ("appendixB", dataset(re.search(r"Results on ([\w-]+)", caption)[1]), "backbone lr"),
                rate[1],
            )
    return found


def read_facts(text):
    return read_fact_tables(text) | read_sentences(text)


def typed_facts():
    facts = pd.read_csv(FOLDER / "uniqa_facts.csv", dtype=str)
    return facts.set_index(["place", "subject", "fact"])["value"].to_dict()


@pytest.fixture(scope="module")
def text():
    return TEXT.read_text(encoding="utf-8")


def test_each_typed_number_is_printed_and_each_printed_number_typed(text):
    paper, ours = read_results(text), typed("uniqa")
    assert {key[0] for key in paper} == {f"table{n}" for n in range(1, 17) if n not in FACTS}
    assert_same(paper, ours)
    decimals = re.findall(
        r"(?<![\d.])0\.\d{2,4}(?!\d)", "\n".join(line for line in text.splitlines() if line.startswith("|"))
    )
    assert len(decimals) == len(ours), "a number in a table was not read"


def test_each_typed_fact_is_printed_and_each_printed_fact_typed(text):
    assert_same(read_facts(text), typed_facts())


@pytest.mark.parametrize("old, new, key", [
    ("931 0.929", "931 0.992", ("table8", "BRISQUE", "live", "full", "srcc")),
    ("0.774        | 0.773 ", "0.774        | 0.774 ", ("table16", "AR", "ava", "purification", "plcc")),
    ("| 0.7785 ", "| 0.7758 ", ("table13", "UniQA, unfrozen", "agin", "technical", "srcc")),
    ("| 0.638        | 0.667 ", "| 0.638        | 0.677 ", ("table4", "UniQA", "koniq10k", "zero-shot", "srcc")),
])  # fmt: skip
def test_a_slip_would_be_seen(text, old, new, key):
    assert text.count(old) == 1
    changed, ours = read_results(text.replace(old, new)), typed("uniqa")
    assert [k for k in ours if changed.get(k) != ours[k]] == [key]


@pytest.mark.parametrize("old, new, key", [
    ("899 10,125", "899 10,152", ("table7", "kadid10k", "pictures")),
    ("fair, sharp, extremely sharp} with image", "fair, sharp, very sharp} with image", ("table10", "live", "group 2")),
    ("1,240,915 captions", "1,240,951 captions", ("appendixC", "all", "captions")),
])  # fmt: skip
def test_a_slip_in_a_fact_would_be_seen(text, old, new, key):
    assert text.count(old) == 1
    changed, ours = read_facts(text.replace(old, new)), typed_facts()
    assert key in [k for k in ours if changed.get(k) != ours[k]] and changed.keys() == ours.keys()


def test_table_13_lost_the_star_that_its_caption_explains(text):
    for table, own in {12: ["Ours", "Ours*"], 13: ["Ours", "Ours"]}.items():
        caption, rows = tables(text)[table]
        assert "unfreeze the backbone" in caption
        assert [row[0] for row in rows if row[0].startswith("Ours")] == own


def test_the_introduction_repeats_table_5(text):
    line = next(line for line in text.splitlines() if "achieving the SRCC values of" in line)
    said = [float(value) for value in re.findall(r"0\.\d{3}", line)]
    ours, methods = typed("uniqa"), ("UniQA, ensemble", "GRepQ")
    assert said == [ours["table5", m, d, "50", "srcc"] for d in ("livec", "koniq10k") for m in methods]
