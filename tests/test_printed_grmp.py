"""Every typed number of GRMP-IQA against the paper's text, whose seven tables are read here from their own heads.

The two heads of Table 3 do not fit together in the text: ten columns, among them LIVEC → LIVEC, over rows of six values. The ten
test sets begin with the six of the values, and each training set stands once but LIVEFB, which stands twice; so read, no set is
tested on itself, and there are six experiments, as §4.5 counts them.
"""

import re

import pytest
from printed_text import assert_same, bare, dataset, spread, store, text_of, typed

TEXT, pytestmark = text_of("grmp_iqa")
METHODS = {"MetalQA": "MetaIQA"}  # the text reads the I as an l
TABLE4 = {
    "": "CLIP",
    "M": "meta, no prompt",
    "MT": "meta + text",
    "MV": "meta + visual",
    "V": "visual, no meta",
}
TABLE4["MTV"] = "GRMP-IQA"
TABLE5 = {"": "no pre-training", "P": "plain pre-training", "PM": "meta-learning"}


def blocks(text):
    "Table number → its lines as lists of cells: the tabbed lines above a caption"
    found, lines = {}, []
    for line in text.splitlines():
        if caption := re.match(r"Table (\d): ", line):
            found[int(caption[1])], lines = lines, []
        elif "\t" in line:
            lines.append([bare(cell) for cell in line.split("\t")])
    return found


def method_of(number, cells):
    "Our name of a row: its ticks in Tables 4 and 5, otherwise its first cell without the citation"
    if number in (4, 5):
        ticks, names = {4: ("MTV", TABLE4), 5: ("PM", TABLE5)}[number]
        return names["".join(letter for letter, cell in zip(ticks, cells, strict=True) if cell)]
    plain = cells[0].split(" (")[0]
    return f"λ = {plain}" if number == 7 else METHODS.get(plain, plain)


def read_head(number, first, second):
    "(columns of names, per value column (data set, setting, metric)) of a table whose values stand under two heads"
    if number == 1:
        return 1, [
            (dataset(d), shots, "srcc") for d, shots in zip(spread(first[1:]), second[1:], strict=True)
        ]
    if number == 3:
        trained, tested = [first[1], *filter(None, first[1:])], second[1:7]
        return 1, [
            (dataset(b), f"trained on {dataset(a)}", "srcc") for a, b in zip(trained, tested, strict=True)
        ]
    names = {2: 1, 4: 3, 5: 2, 6: 2, 7: 1}[number]
    heads = list(zip(spread(first[names:]), [metric.lower() for metric in second[names:]], strict=True))
    if number in (2, 4, 5):
        setting = {2: None, 4: "zero-shot", 5: "50"}[number]
        return names, [(dataset(head), setting, metric) for head, metric in heads]
    return names, [({6: None, 7: "koniq10k"}[number], head, metric) for head, metric in heads]


def read_tables(text):
    "(artefact, method, data set, setting, metric) → value, of all seven tables"
    numbers = {}
    for table, (first, second, *rows) in blocks(text).items():
        names, columns = read_head(table, first, second)
        for row in rows:
            if row[0] == "Training Ratio":
                columns = [
                    (d, f"{share} train", m) for (d, _, m), share in zip(columns, row[1:], strict=True)
                ]
                continue
            method = method_of(table, row[:names])
            for (where, setting, metric), value in zip(columns, row[names:], strict=False):
                if value in ("", "-"):
                    continue
                key = (f"table{table}", method, where or dataset(row[1]), setting, metric)
                store(numbers, key, float(value))
    return numbers


@pytest.fixture(scope="module")
def text():
    return TEXT.read_text(encoding="utf-8")


def test_each_typed_number_is_printed_and_each_printed_number_typed(text):
    paper, ours = read_tables(text), typed("grmp_iqa")
    assert {key[0] for key in paper} == {f"table{n}" for n in range(1, 8)} and len(paper) > 300
    assert_same(paper, ours)


@pytest.mark.parametrize("old, new, key", [
    ("GRMP-IQA	0.765", "GRMP-IQA	0.766", ("table3", "GRMP-IQA", "koniq10k", "trained on flive", "srcc")),
    ("7	0.876", "7	0.867", ("table7", "λ = 7", "koniq10k", "50", "plcc")),
    ("w/ QGR	KonIQ	0.880", "w/ QGR	KonIQ	0.888", ("table6", "w/ QGR", "koniq10k", "50", "plcc")),
])  # fmt: skip
def test_a_slip_would_be_seen(text, old, new, key):
    changed, ours = read_tables(text.replace(old, new)), typed("grmp_iqa")
    assert [k for k in ours if changed.get(k) != ours[k]] == [key]


def test_table_3_has_six_values_a_row_and_six_pairs_of_different_sets(text):
    heads, *rows = blocks(text)[3][1:]
    assert len(heads[1:]) == 10 and {len([cell for cell in row[1:] if cell]) for row in rows} == {6}
    pairs = {(key[3].removeprefix("trained on "), key[2]) for key in typed("grmp_iqa") if key[0] == "table3"}
    photographs, distortions = {"flive", "livec", "koniq10k"}, {"live", "csiq"}
    kinds = [photographs >= set(pair) or "distorted" for pair in pairs if len(set(pair)) == 2]
    assert sorted(map(str, kinds)) == ["True"] * 4 + ["distorted"] * 2
    assert {pair for pair in pairs if distortions >= set(pair)} == {("live", "csiq"), ("csiq", "live")}


def test_the_abstract_repeats_table_1(text):
    abstract = text[text.index("Extensive experiments on five") : text.index("1 Introduction")]
    ours = typed("grmp_iqa")
    printed = [float(v) for v in re.findall(r"0\.\d{3}", abstract)]
    expected = [
        ours["table1", m, d, "50", "srcc"] for d in ("livec", "koniq10k") for m in ("GRMP-IQA", "GRepQ")
    ]
    assert printed == expected
