"""A caption file and the set that it captions: miniatures of FLIVE and AVA on disk, and files of the whole set, of a part, and of too much."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from miniatures import write_miniature

import iqa_repro
from iqa_repro.captions.files import caption_line
from iqa_repro.captions.instructions import PROMPTS, caption_requests
from iqa_repro.clip.inputs import Settings, table_of
from iqa_repro.core.profiles import load_profile
from iqa_repro.data.sets.ava_captions import RAW, read_ava_captions, read_captioned_ava
from iqa_repro.methods.uniqa.corpus import (
    Corpus,
    captioned_pictures,
    corpus_captions,
    corpus_stage,
    generated_captions,
)
from iqa_repro.methods.uniqa.method import AdapterProtocol, adapter_protocol
from iqa_repro.papers.uniqa import table11

pytestmark = pytest.mark.filterwarnings("ignore:.*were published for")  # miniatures have few rows


@pytest.fixture
def there(tmp_path, monkeypatch):
    "A folder with data and a profile of the real sets, with the shipped CLIP"
    monkeypatch.setenv("IQA_REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path / "cache"))
    for name in ("flive", "ava"):
        write_miniature(name, tmp_path / "data" / name)
    write_profile(tmp_path / "own.toml")
    return tmp_path


def write_profile(path, *changes):
    text = (Path(iqa_repro.__file__).parent / "profiles" / "embedded.toml").read_text(encoding="utf-8")
    real = [('source = "embedded"', 'source = "real"'), ('"flive_captions"', '"flive"')]
    real += [('comments = "ava"', 'comments = "ava_captions"')]
    real += [('captioner = "embedded"', f'captioner = "{path.parent}/{{task}}.jsonl"')]
    for old, new in [*real, *changes]:
        assert text.count(old) == 1, f"embedded.toml has no {old!r} any more"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return load_profile(path)


def write_file(there, requests, task="quality"):
    path = there / f"{task}.jsonl"
    path.write_bytes(b"".join(caption_line(r, f"Text about {r.name}, {r.number}.", "toy") for r in requests))
    return path


def read(there, task="quality"):
    "Captions of a task, and what was said about them"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        captions = generated_captions(task, Settings(load_profile(there / "own.toml")))
    return captions, [str(w.message) for w in told if ".jsonl" in str(w.message)]


def requests_of(there, task="quality", **how):
    profile = load_profile(there / "own.toml")
    return caption_requests(table_of(getattr(profile.captions, task), profile), task, **how)


def test_flive_is_captioned_whole_and_ava_without_its_test_part(there):
    profile = load_profile(there / "own.toml")
    quality, flive = captioned_pictures("quality", profile), table_of("flive", profile)
    assert {"train", "validation", "test"} == set(quality["split"]) and len(quality) == len(flive) == 12
    for task in ("aesthetics", "comments"):
        assert set(captioned_pictures(task, profile)["split"]) == {"train"}


def test_a_file_of_the_whole_set_is_read_in_silence(there):
    write_file(there, requests_of(there))
    captions, told = read(there)
    assert len(captions) == 12 * len(PROMPTS["quality"]) and not told


def test_pictures_without_captions_are_counted(there):
    flive = table_of("flive", load_profile(there / "own.toml"))
    part = flive[flive["split"] == "train"]
    requests = caption_requests(part, "quality")
    write_file(there, requests[:-1])
    captions, (told,) = read(there)
    missing = 12 - len(part)
    assert len(captions) == len(requests) - 1
    assert f"{missing} of 12 pictures have no caption; 1 single captions are missing" in told


def test_surplus_names_are_counted_and_left_out(there):
    requests = requests_of(there)
    write_file(there, [*requests, *(replace(r, name=f"elsewhere/{r.name}") for r in requests[:6])])
    captions, (told,) = read(there)
    assert (
        len(captions) == len(requests) and "2 captioned pictures are not of this set and are left out" in told
    )


def test_captions_of_avas_test_part_are_left_out(there):
    requests = requests_of(there, "aesthetics")
    write_file(there, requests, "aesthetics")
    captions, (told,) = read(there, "aesthetics")
    kept = captioned_pictures("aesthetics", load_profile(there / "own.toml"))
    assert set(captions["image"]) == {
        Path(image).relative_to(kept.attrs["facts"]["root"]).as_posix() for image in kept["image"]
    }
    assert f"{len(requests) - len(kept)} captioned pictures are not of this set" in told


def test_pretraining_reads_a_file_that_has_too_much(there):
    write_file(there, [*requests_of(there), replace(requests_of(there)[0], name="elsewhere/x.jpg")])
    write_file(there, requests_of(there, "aesthetics"), "aesthetics")
    settings, corpus = (
        Settings(load_profile(there / "own.toml"), smoke=True),
        Corpus(("quality", "aesthetics")),
    )
    with pytest.warns(UserWarning, match="are not of this set and are left out"):
        table = corpus_captions(corpus, settings)
    assert all(Path(image).is_file() for image in table["image"])
    with pytest.warns(UserWarning, match="are not of this set and are left out"):
        corpus_stage(corpus, settings).make()


@pytest.mark.parametrize(
    "how, says",
    [
        ({"order": "figures"}, "expected level 'bad', 'Giving you a bad quality image"),
        ({"wording": "perfect"}, "expected level 'perfect', 'Giving you an excellent quality image"),
    ],
)
def test_captions_that_were_asked_otherwise_are_refused(there, how, says):
    write_file(there, requests_of(there, **how))
    with pytest.raises(
        ValueError, match="were asked otherwise than with order 'text' and wording 'excellent'"
    ) as found:
        read(there)
    assert says in str(found.value) and "write the captions anew" in str(found.value)
    changes = {
        f'{key} = "{old}"': f'{key} = "{how[key]}"'
        for key, old in (("order", "text"), ("wording", "excellent"))
        if key in how
    }
    write_profile(there / "own.toml", *changes.items())
    assert len(read(there)[0]) == 36  # the profile that asked so reads them


def test_another_instruction_is_refused(there):
    requests = [replace(r, prompt="What is this?") if r.number == 2 else r for r in requests_of(there)]
    write_file(there, requests)
    with pytest.raises(ValueError, match=r"12 of 36 captions were asked otherwise .* 'What is this\?'"):
        read(there)
    write_file(there, [*requests_of(there), replace(requests_of(there)[0], number=7)])
    with pytest.raises(ValueError, match="no instruction number 7"):
        read(there)


def test_captions_that_do_not_say_what_was_asked_are_taken_and_counted(there):
    write_file(there, [replace(r, prompt="") for r in requests_of(there)])
    captions, (told,) = read(there)
    assert len(captions) == 36 and "36 captions do not say what was asked" in told
    write_file(
        there, [replace(r, prompt="") for r in requests_of(there, order="figures")]
    )  # levels still tell
    with pytest.raises(ValueError, match="expected level 'bad', .* got level 'poor', ''"):
        read(there)


def test_a_file_of_another_set_is_refused(there):
    write_file(there, [replace(r, name=f"elsewhere/{r.name}") for r in requests_of(there)])
    with pytest.raises(
        ValueError, match="has no caption of a picture of flive: its first picture is 'elsewhere/"
    ):
        read(there)


# --- people's comments ----------------------------------------------------------------------------------------------


def test_raw_comments_are_the_default_and_cleaned_ones_a_setting(there):
    profile = load_profile(there / "own.toml")
    assert load_profile("full").captions.comments == profile.captions.comments == "ava_captions"
    raw = table_of("ava_captions", profile)
    assert raw["captions"].map(len).tolist() == [1, 3, 3, 3, 3] and "Nice. #1!" in raw["captions"][4]
    assert captioned_pictures("comments", profile)["captions"].map(len).tolist() == [3, 3, 3, 3]
    profile = write_profile(
        there / "own.toml", ('comments = "ava_captions"', 'comments = "ava_captions_cleaned"')
    )
    cleaned = captioned_pictures("comments", profile)
    assert len(cleaned) and cleaned["captions"].map(len).eq(3).all()


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_inside_a_comment_end_no_line(tmp_path, mark, end):
    path = tmp_path / RAW
    path.write_bytes(f"0#7#one{mark}two#three{end}1#8#four{end}".encode())
    assert read_ava_captions(path)["caption"].tolist() == [f"one{mark}two", "three", "four"]


@pytest.mark.parametrize(
    "said, comments",
    [
        ("Nice. #1!", ["Nice. #1!"]),
        ("Nice.#1 for me", ["Nice.", "1 for me"]),
        ("a#b## #c", ["a", "b", "c"]),
        ("I&#39;m in (#3)#ok", ["I&#39;m in (#3)", "ok"]),
        ("#1 of all#good", ["#1 of all", "good"]),
    ],
)
def test_a_number_sign_inside_a_comment_does_not_tear_it(tmp_path, said, comments):
    path = tmp_path / RAW
    path.write_text(f"0#7#{said}\n", encoding="utf-8")
    assert read_ava_captions(path)["caption"].tolist() == comments


def test_another_number_of_comments_is_said_and_no_comments_are_an_error(there):
    with pytest.warns(
        UserWarning,
        match="12 comments on 4 training pictures, 234090 and 3.0 million were published for AVA-Captions",
    ):
        read_captioned_ava(there / "data" / "ava")
    (there / "data" / "ava" / RAW).write_text("no comments\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match="expected lines such as 0#953619#a comment#another comment, got none"
    ):
        read_captioned_ava(there / "data" / "ava")


# --- repeats of Tables 11 to 13 ---------------------------------------------------------------------------------------


def test_full_repeats_and_divides_as_appendix_b2_says():
    full, small = load_profile("full"), load_profile("embedded")
    assert adapter_protocol("agin", full) == AdapterProtocol(5, (0.7, 0.1, 0.2), "mean")
    assert adapter_protocol("eciqad", full) == AdapterProtocol(10, (0.8, 0.2), "median")
    assert [adapter_protocol(name, small).splits for name in ("aigiqa20k", "eciqad", "agin")] == [5, 5, 5]
    trials = [t for t in table11(Settings(full)) if not t.shuffled and not t.redraw and t.shots]
    splits = {name: {t.split for t in trials if t.dataset == name} for name in ("eciqad", "agin")}
    assert splits == {"eciqad": set(range(10)), "agin": set(range(5))}
    assert {t.shares for t in trials if t.dataset == "agin"} == {(0.7, 0.1, 0.2)}
