"""Images that are named in a CSV file or a text file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from common.data import build_source, load_images
from common.errors import UserError
from tests.common.data.samples import picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with six pictures, 0.png to 5.png, and a folder for lists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(*cells: str) -> str:
    """Pictures 0, 1, ... with these cells after them."""
    return "".join(f"{number}.png{cell}\n" for number, cell in enumerate(cells))


def test_every_column_but_the_paths_may_be_a_label(here: Path) -> None:
    (here / "a.csv").write_text(
        "id,file,animal,age\n" + "".join(f"{n},{n}.png,{'cd'[n % 2]},{n // 2}\n" for n in range(6))
    )
    source = build_source("csv:a.csv")
    assert set(source.tasks) == {"id", "animal", "age"}
    assert source.default_tasks() == ("animal", "age")  # the values of id do not repeat
    assert source.labels("animal").names == ("c", "d")
    assert source.labels("age").values.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="several columns may be labels: id, animal, age; set"):
        source.labels()
    named = build_source("csv:a.csv", label="animal")
    assert named.default_tasks() == ("animal",)
    assert named.labels().values.tolist() == [0, 1] * 3


def test_a_column_called_label_is_the_task(here: Path) -> None:
    (here / "a.csv").write_text("path,width,label\n" + rows(*(f",20,{n % 2}" for n in range(6))))
    source = build_source("csv:a.csv")
    assert source.default_tasks() == ("label",)
    assert source.labels().task == "label"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_lines_end_as_on_any_system(here: Path, name: str, end: str) -> None:
    lines = [f"{n}.png{',' if name == 'a.csv' else ' '}{'cd'[n % 2]}" for n in range(6)]
    (here / name).write_bytes(end.join([*(["path,label"] if name == "a.csv" else []), *lines]).encode())
    labels = build_source(name).labels()
    assert (labels.names, labels.values.tolist()) == (("c", "d"), [0, 1] * 3)


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_a_zero_byte_is_refused_with_its_line(here: Path, name: str) -> None:
    (here / name).write_text("0.png,c\n1\0.png,d\n")
    with pytest.raises(UserError, match=r"has a zero byte in line 2, so it is not UTF-8 text: save it as UTF-8"):
        build_source(name)
    (here / name).write_text("path,label\n" + rows(*[",c"] * 6), encoding="utf-16-le")  # no byte order mark
    with pytest.raises(UserError, match=r"has a zero byte in line 1, so it is not UTF-8 text"):
        build_source(name)


def test_images_that_are_listed_with_two_labels_are_worth_a_word(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "a.csv").write_text("path,label\n" + rows(*(f",{'cd'[n % 2]}" for n in range(6))) + "1.png,c\n2.png,c\n")
    with caplog.at_level(logging.WARNING, "retouch"):
        assert len(build_source("a.csv").labels().values) == 8
    assert caplog.messages == [
        "csv:a.csv: 1 images are listed with different labels in column 'label', such as 1.png: if images have several "
        "labels, list each once and set data.labels=label"
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_cells_are_separated_as_the_first_line_says(here: Path, separator: str) -> None:
    (here / "a.csv").write_text(
        f"image{separator}label\n"
        + rows(*(f"{separator}a, b" for _ in range(6)) if separator != "," else [',"a, b"'] * 6)
    )
    assert build_source("csv:a.csv").labels().names == ("a, b",)


def test_a_table_without_a_header_is_read_from_its_first_line(here: Path) -> None:
    (here / "a.csv").write_text(rows(*(f",{'cd'[n % 2]}" for n in range(6))))
    source = build_source("csv:a.csv")
    assert (len(source), source.labels().names) == (6, ("c", "d"))


def test_a_column_of_splits_gives_the_test_set(here: Path) -> None:
    (here / "a.csv").write_text(
        "file,label,split\n" + rows(*(f",{n % 2},{('Train', 'test')[n > 3]}" for n in range(6)))
    )
    source = build_source("csv:a.csv")
    test = source.published_test()
    assert test is not None
    assert (len(source), len(test), source.tasks, test.tasks) == (4, 2, ("label",), ("label",))
    assert [test.where(0), source.where(0)] == ["4.png", "0.png"]
    assert build_source("csv:a.csv", split="test").fingerprint == test.fingerprint


def test_a_list_holds_a_path_per_line_and_perhaps_a_label(here: Path) -> None:
    picture(6).save(here / "my cat 7.png")
    (here / "a.txt").write_text("# cats and dogs\n\nmy cat 7.png cat\n0.png\tbig dog\n1.png,cat\n")
    source = build_source("list:a.txt")
    assert [source.where(row) for row in range(3)] == ["my cat 7.png", "0.png", "1.png"]
    assert source.labels().names == ("big dog", "cat")
    (here / "b.txt").write_text("0.png\n1.png\n")
    assert build_source("list:b.txt").tasks == ()


def test_classes_that_are_numbers_are_in_their_order(here: Path) -> None:
    (here / "a.txt").write_text(rows(" 10", " 9", " 2"))
    assert build_source("list:a.txt").labels().names == ("2", "9", "10")


def test_paths_are_relative_to_the_list_or_else_to_the_working_folder(here: Path) -> None:
    (here / "lists" / "a.txt").write_text("0.png\n1.png\n")
    assert load_images(build_source("list:lists/a.txt"), 8).pixels is not None
    picture(9).save(here / "lists" / "0.png")
    assert build_source("list:lists/a.txt").where(0) == "lists/0.png"
    (here / "lists" / "b.txt").write_text(f"{here}/0.png\n")
    assert build_source("list:lists/b.txt").where(0) == f"{here}/0.png"


def test_listed_files_that_are_missing_or_broken_are_left_out_with_a_warning(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (here / "1.png").write_bytes(b"not a picture")
    (here / "2.png").unlink()
    (here / "a.txt").write_text(rows(*[" a", " b"] * 3))
    for cache in ("ram", "none"):
        with caplog.at_level(logging.WARNING, "retouch"):
            images = load_images(build_source("list:a.txt"), 8, cache=cache)
        assert images.kept.tolist() == [0, 3, 4, 5]
        assert images.labels().values.tolist() == [0, 1, 0, 1]
    assert "2 of 6 images" in caplog.text


def test_a_file_that_appears_is_other_data(here: Path) -> None:
    (here / "2.png").unlink()
    (here / "a.txt").write_text(rows("", "", ""))
    before = build_source("list:a.txt").fingerprint
    picture(2).save(here / "2.png")
    assert build_source("list:a.txt").fingerprint != before


def test_names_of_any_bytes_and_a_byte_order_mark_are_read(here: Path) -> None:
    picture(0).save(here / "caf\udce9.png")
    (here / "a.csv").write_bytes(b"\xef\xbb\xbffile,label\r\ncaf\xe9.png,a\r\n0.png,b\r\n")
    source = build_source("csv:a.csv")
    assert source.labels().names == ("a", "b")
    assert load_images(source, 8).rows(torch.arange(2)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.csv", "", {}, "csv:a.csv: the file is empty"),
        ("a.csv", "file,label\n", {}, "csv:a.csv: no images are listed in {here}/a.csv"),
        ("a.txt", "# nothing\n", {}, "list:a.txt: no images are listed in {here}/a.txt"),
        ("a.csv", "name,label\ncat,1\n", {}, "csv:a.csv: no column holds paths of images: name, label; set data.image "
         "to one of them"),
        ("a.csv", "left,right\n0.png,1.png\n", {"image": "up"}, "csv:a.csv: data.image: no column 'up'; it has left, "
         "right"),
        ("a.csv", "left,right,x\n0.png,1.png,2\n", {}, "csv:a.csv: several columns hold paths of images: left, right; "
         "set data.image to one of them"),
        ("a.csv", "file,label\n0.png,1\n1.png\n2.png,1,2\n", {}, "csv:a.csv: 2 rows, the first of them number 3, have "
         "a different number of cells than the 2 columns file, label"),
        ("a.csv", "file,a,a\n0.png,1,2\n", {}, "csv:a.csv: two columns have the same name: file, a, a"),
        ("a.csv", "file,label\n0.png,1\n", {"label": "x"}, "csv:a.csv: data.label: no column 'x'; it has label"),
        ("a.txt", "0.png\n", {"label": "label"}, "list:a.txt: data.label: no column 'label'; it has no labels"),
        ("a.csv", "file\nhttps://some.org/0.png\n", {}, "csv:a.csv lists addresses, such as https://some.org/0.png: "
         "download the images, and list their paths"),
    ],
)  # fmt: skip
def test_mistakes_get_one_plain_message(
    here: Path, name: str, text: str, options: dict[str, str], message: str
) -> None:
    (here / name).write_text(text)
    with pytest.raises(UserError) as error:
        build_source(f"{'csv' if name.endswith('csv') else 'list'}:{name}", **options)  # type: ignore[arg-type]
    assert str(error.value) == message.format(here=here)


def test_a_file_that_is_missing_or_a_folder_is_named(here: Path) -> None:
    with pytest.raises(UserError, match=f"csv:b.csv: no such file: {here}/b.csv"):
        build_source("csv:b.csv")
    with pytest.raises(UserError, match=f"list:lists: {here}/lists cannot be read: Is a directory"):
        build_source("list:lists")


def test_rows_without_a_label_are_counted_when_labels_are_read(here: Path) -> None:
    (here / "a.csv").write_text("file,label\n" + rows(",a", ",", ",b"))
    source = build_source("csv:a.csv")
    with pytest.raises(UserError, match="1 of 3 rows have no label in column 'label'"):
        source.labels()
    assert load_images(source, 8).pixels is not None


@pytest.mark.parametrize("missing", ["NaN", "None", "null", "NA", "<NA>"])
def test_what_programs_write_for_no_label_is_no_class(here: Path, missing: str) -> None:
    (here / "a.csv").write_text("file,label\n" + rows(",a", f",{missing}", ",none"))
    with pytest.raises(UserError, match="1 of 3 rows have no label in column 'label'"):
        build_source("csv:a.csv").labels()
    (here / "a.csv").write_text("file,label\n" + rows(",a", ",none"))
    assert build_source("csv:a.csv").labels().names == ("a", "none")


@pytest.mark.parametrize(("name", "head"), [("a.txt", ""), ("a.csv", "file,label\n")])
def test_a_line_with_a_number_sign_is_a_comment_unless_there_is_such_a_file(here: Path, name: str, head: str) -> None:
    picture(7).save(here / "#7.png")
    (here / name).write_text(f"# by me, 2020\n{head}#7.png,a\n#8.png,b\n{'  # more' if not head else '#'}\n0.png,c\n")
    source = build_source(name)
    assert [source.where(row) for row in range(len(source))] == ["#7.png", "0.png"]
    assert source.labels().names == ("a", "c")


def test_what_spreadsheets_write_is_read(here: Path) -> None:
    text = "file;label\r\n" + rows(";a", ";b").replace("\n", "\r\n")
    for data in (text.encode("utf-16"), b"sep=;\r\n" + text.encode(), b"sep=;\n" + text.encode()):
        (here / "a.csv").write_bytes(data)
        assert build_source("csv:a.csv").labels().names == ("a", "b")


def test_other_encodings_are_refused(here: Path) -> None:
    (here / "a.csv").write_bytes("file,label\n0.png,ch\N{LATIN SMALL LETTER A WITH CIRCUMFLEX}t\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"csv:a\.csv: column 'label' is not in UTF-8: save the file as UTF-8"):
        build_source("csv:a.csv")
    (here / "a.csv").write_bytes(b"file,label\nch\xe2t.png,a\n")
    with pytest.raises(UserError, match=r"the path 'ch\\udce2t.png' is not in UTF-8, and there is no such file: save"):
        build_source("csv:a.csv")
    (here / "a.csv").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=f"{here}/a.csv is not readable as UTF-16: save it as UTF-8"):
        build_source("csv:a.csv")


def test_paths_in_quotes_and_in_the_home_folder_are_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "lists" / "a.txt").write_text("'~/0.png' a b\n\"../1.png\" c\n~/2.png d\n")
    source = build_source("list:lists/a.txt")
    assert load_images(source, 8).kept.tolist() == [0, 1, 2]
    assert source.labels().names == ("a b", "c", "d")
