"""Labels of images: class folders, CSV files as people write them, class numbers, and folds."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.sources.labels import NO_LABEL, LabelClasses, make_stratified_folds, read_labels


def put(root: Path, *names: str) -> list[str]:
    """Empty files, for no label needs an image to be opened; gives their paths."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [str(root / name) for name in names]


def table(tmp_path: Path, text: str, name: str = "labels.csv") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


# Class folders


def test_the_first_folder_below_the_one_that_was_named_is_the_class(tmp_path: Path) -> None:
    paths = put(tmp_path / "photos", "cat/1.jpg", "cat/indoors/2.jpg", "dog/1.jpg", "loose.jpg")
    assert read_labels("folders", paths, [tmp_path / "photos"]) == ["cat", "cat", "dog", None]


def test_of_folders_within_each_other_the_outermost_counts(tmp_path: Path) -> None:
    paths = put(tmp_path / "photos", "cat/1.jpg", "dog/old/2.jpg")
    roots = [tmp_path / "photos" / "dog", tmp_path / "photos"]
    assert read_labels("folders", paths, roots) == ["cat", "dog"]


def test_class_folders_that_were_named_themselves_are_the_classes(tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/cat/1.jpg", "photos/dog/1.jpg", "photos/loose.jpg")
    roots = [tmp_path / "photos" / name for name in ("cat", "dog", "loose.jpg")]  # what a shell makes of photos/*
    assert read_labels("folders", paths, roots) == ["cat", "dog", None]


def test_images_that_were_named_themselves_take_their_folders_name(tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/cat/1.jpg", "photos/dog/1.jpg")
    assert read_labels("folders", paths, [Path(path) for path in paths]) == ["cat", "dog"]


def test_folders_with_a_common_beginning_are_not_within_each_other(tmp_path: Path) -> None:
    paths = put(tmp_path, "a/x/1.jpg", "ab/y/1.jpg")
    assert read_labels("folders", paths, [tmp_path / "a", tmp_path / "ab"]) == ["x", "y"]


def test_relative_roots_and_dots_mean_the_same(tmp_path: Path) -> None:  # conftest works in tmp_path
    paths = put(tmp_path, "photos/cat/1.jpg")
    assert read_labels("folders", paths, [Path("photos/../photos")]) == ["cat"]


def test_images_without_class_folders_are_an_error_that_shows_one(tmp_path: Path) -> None:
    paths = put(tmp_path / "photos", "1.jpg", "2.jpg")
    with pytest.raises(BadSetting, match=r"photos, but for example \S+1\.jpg\. Put each class into a folder"):
        read_labels("folders", paths, [tmp_path / "photos"])


def test_no_images_have_no_labels() -> None:
    assert read_labels("folders", [], []) == []


# CSV files


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n1.jpg,cat\n2.jpg,dog\n",
        "label;path\ncat;1.jpg\ndog;2.jpg\n",
        "Filename\tClass\r\n1.jpg\tcat\r\n2.jpg\tdog\r\n",
        "\ufeffimage,sender,category\n1.jpg,7,cat\n2.jpg,8,dog\n",
        "id,path,y\n2,1.jpg,cat\n1,2.jpg,dog\n",
        "what,ever\n1.jpg,cat\n2.jpg,dog\n",
        "label,whatever\ncat,1.jpg\ndog,2.jpg\n",
        "1.jpg,cat\n2.jpg,dog\n",
        '\n"file", "label"\n\n"1.jpg", cat \n2.jpg,dog,,\n',
    ],
    ids=["comma", "semicolon", "tab", "mark", "id-and-path", "first-two", "label-alone", "no-header", "untidy"],
)
def test_every_usual_table_is_read(text: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    assert read_labels(table(tmp_path, text), paths, [tmp_path]) == ["cat", "dog", None]


@pytest.mark.parametrize("key", ["{root}/photos/cat/1.jpg", "photos/cat/1.jpg", "./cat/../cat/1.jpg", "cat\\1.jpg"])
def test_a_path_may_be_full_or_relative_to_the_table_or_to_a_root(key: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/dog/1.jpg", "photos/cat/1.jpg")
    spec = table(tmp_path, f"path,label\n{key.format(root=tmp_path)},cat\n")
    assert read_labels(spec, paths, [tmp_path / "photos"]) == [None, "cat"]


@pytest.mark.parametrize("key", ["7.jpg", "b/7.jpg", "7", "b/7"])
def test_a_table_elsewhere_may_give_names_ends_of_paths_or_stems(key: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/a/6.jpg", "photos/b/7.jpg")
    (tmp_path / "tables").mkdir()
    spec = table(tmp_path / "tables", f"image,label\n{key},seven\n")
    assert read_labels(spec, paths, [tmp_path / "photos"]) == [None, "seven"]


def test_a_name_beside_the_table_is_that_file_and_no_other(tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/a/1.jpg", "photos/b/1.jpg")
    spec = table(tmp_path / "photos" / "a", "file,label\n1.jpg,cat\n")
    assert read_labels(spec, paths, [tmp_path / "photos"]) == ["cat", None]


def test_a_name_in_another_folder_is_no_match(tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/dog/1.jpg", "photos/dog/2.jpg")
    spec = table(tmp_path, "file,label\ncat/1.jpg,cat\n2.jpg,dog\n")
    assert read_labels(spec, paths, [tmp_path / "photos"]) == [None, "dog"]


@pytest.mark.parametrize("key", ["1.jpg", "1"])
def test_a_name_that_two_images_have_is_an_error(key: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "photos/a/1.jpg", "photos/b/1.jpg")
    with pytest.raises(BadSetting, match=rf"labels.csv, line 2: '{key}' may be \S+a/1.jpg or \S+b/1.jpg"):
        read_labels(table(tmp_path, f"file,label\n{key},cat\n"), paths, [tmp_path / "photos"])


def test_accents_match_whichever_way_they_are_written(tmp_path: Path) -> None:
    paths = put(tmp_path, unicodedata.normalize("NFD", "été.jpg"))
    spec = table(tmp_path, f"file,label\n{unicodedata.normalize('NFC', 'été.jpg')},summer\n")
    assert read_labels(spec, paths, [tmp_path]) == ["summer"]


def test_an_empty_label_is_none_and_rows_of_other_images_do_no_harm(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg", "2.jpg")
    assert read_labels(table(tmp_path, "file,label\n1.jpg,\n2.jpg,cat\n9.jpg,dog\n"), paths) == [None, "cat"]


def test_a_label_may_hold_the_separator_in_quotes(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg")
    assert read_labels(table(tmp_path, 'file,label\n1.jpg,"shirt, red"\n'), paths) == ["shirt, red"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty. Write a header"),
        ("file,label\n", "a header and no lines"),
        ("file\n1.jpg\n", "line 1: only one column, 'file'"),
        ("file,label\n1.jpg,cat\n2.jpg\n", "line 3: 1 column, and the first line has 2"),
        ("file,label\n1.jpg,shirt, red\n", "line 2: 3 columns, and the first line has 2"),
        ("file,label\n,cat\n", "line 2: column 1 names no image"),
        ("file,label\n1.jpg,\n", "gives none of the 2 images a label: the column is empty"),
        (
            "file,label\nx.png,cat\n",
            r"names none of the 2 images: its first path is 'x.png' \(line 2\), and the first .*1\.jpg",
        ),
        ("file,label\n1.jpg,cat\n2.jpg,cat\n1.jpg,dog\n", r"1\.jpg is 'cat' in line 2 and 'dog' in line 4"),
        ('file,label\n1.jpg,"cat\n', "line 2: a quote is not closed"),
        (f"file,label\n1.jpg,{'c' * 200_000}\n", "line 2: a cell has more than 131,072 characters"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(text: str, complaint: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(BadSetting, match=rf"labels\.csv.*{complaint}"):
        read_labels(table(tmp_path, text), paths, [tmp_path])


def test_a_row_that_is_there_twice_and_says_the_same_is_no_error(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg")
    assert read_labels(table(tmp_path, "file,label\n1.jpg,cat\n1.jpg,cat\n"), paths) == ["cat"]


def test_blanks_between_quotes_belong_to_a_path_and_not_to_a_label(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg", "1.jpg ")
    assert read_labels(table(tmp_path, 'file,label\n"1.jpg ", dog\n 1.jpg ," cat "\n'), paths) == ["cat", "dog"]


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg")
    (tmp_path / "labels.csv").write_bytes("file,label\n1.jpg,été\n".encode("latin-1"))
    with pytest.raises(BadSetting, match="line 2: not UTF-8 text"):
        read_labels(str(tmp_path / "labels.csv"), paths)


def test_a_spec_that_is_neither_says_what_to_use(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.jpg")
    with pytest.raises(BadSetting, match=r"'folder'\. Use folders, or name a CSV file"):
        read_labels("folder", paths)
    with pytest.raises(NoSuchPath, match=r"missing\.csv"):
        read_labels("missing.csv", paths)
    with pytest.raises(BadSetting, match="can't be read"):
        read_labels(str(tmp_path), paths)


# Classes


def test_classes_are_sorted_counted_and_numbered() -> None:
    labels = ["dog", None, "cat", "dog"]
    classes = LabelClasses.from_labels(labels)
    assert (classes.names, classes.counts) == (("cat", "dog"), (1, 2))
    assert classes.to_numbers([*labels, "cow"]).tolist() == [1, NO_LABEL, 0, 1, NO_LABEL]


@pytest.mark.parametrize(("labels", "found"), [(["cat", None], "only one class, 'cat'"), ([None], "no class at all")])
def test_fewer_than_two_classes_are_refused(labels: list[str | None], found: str) -> None:
    with pytest.raises(BadSetting, match=found):
        LabelClasses.from_labels(labels)


# Folds


def test_folds_are_disjoint_cover_everything_and_spread_every_class() -> None:
    labels = ["a"] * 23 + [None] * 8 + ["b"] * 7 + ["c"]
    parts = make_stratified_folds(labels, 5, seed=3)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(len(labels)))
    assert {len(part) for part in parts} == {7, 8}
    for label in ("a", "b", "c", None):
        counts = [Counter(labels[row] for row in part)[label] for part in parts]
        assert max(counts) - min(counts) <= 1, (label, counts)
    assert all((np.diff(part) > 0).all() for part in parts)


def test_folds_depend_on_the_seed_alone() -> None:
    labels = ["a", "b", None] * 20
    first, again, other = (make_stratified_folds(labels, 4, seed=seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert not all((one == two).all() for one, two in zip(first, other, strict=True))


def test_images_without_any_label_are_split_too() -> None:
    assert [len(part) for part in make_stratified_folds([None] * 10, 3, seed=0)] == [4, 3, 3]


@pytest.mark.parametrize("k", [1, 4])
def test_a_number_of_folds_that_cannot_be_is_refused(k: int) -> None:
    with pytest.raises(BadSetting, match=f"folds can't be {k} for 3 images. Use 2 to 3"):
        make_stratified_folds(["a", "b", "a"], k, seed=0)


@pytest.mark.real_processes
def test_labels_need_no_torch() -> None:
    code = "import sys, simile.images.sources.labels; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root, timeout=60).returncode == 0
