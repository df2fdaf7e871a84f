"""Data have short names in running text; tasks are named where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest

from retouch.reporting.names import data_name, in_text
from retouch.reporting.page import breakable, html
from retouch.reporting.question import question_on
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import EVIL, facts_of, probe_result, write_pretraining, write_probe
from tests.retouch.studies.finished import write_study


@pytest.mark.parametrize(
    ("source", "name", "text"),
    [
        ("parquet:/data/cifar10/test-*.parquet", "cifar10", "cifar10"),
        ("parquet:/data/cifar10/data/test-*.parquet", "cifar10", "cifar10"),
        ("folder:my/animals/test", "animals", "animals"),
        ("folder:my/animals/val2017/", "animals", "animals"),
        ("folder:animals", "animals", "animals"),
        ("folder:animals (20% for testing, seed 0)", "animals", "animals (20% for testing, seed 0)"),
        ("folder:my (old) animals", "my (old) animals", "my (old) animals"),
        ("folder:My Photos (2023)", "My Photos (2023)", "My Photos (2023)"),
        ("folder:a (2023) (20% held out, seed 0)", "a (2023)", "a (2023) (20% held out, seed 0)"),
        ("folder:v1.5", "v1.5", "v1.5"),
        ("folder:..", "the parent folder", "the parent folder"),
        ("folder:../..", "a folder above", "a folder above"),
        ("folder:.", "the current folder", "the current folder"),
        ("./", "the current folder", "the current folder"),
        ("folder:animals/..", "the current folder", "the current folder"),
        ("folder:../animals/test", "animals", "animals"),
        # files of the Hub
        ("parquet:leaves/train-00000-of-00001.parquet", "leaves", "leaves"),
        ("parquet:leaves/data/train-00000-of-00002-a09b74b3ef9c3b56.parquet", "leaves", "leaves"),
        ("parquet:leaves/default/test/0000.parquet", "leaves", "leaves"),
        (
            f"parquet:hub/datasets--some--leaves/snapshots/{'0f' * 20}/plain_text/test-00000-of-00001.parquet",
            *("leaves", "leaves"),
        ),
        ("parquet:leaves-2023.parquet", "leaves-2023", "leaves-2023"),
        ("parquet:*.parquet", "the current folder", "the current folder"),
        ("zip:photos.ZIP", "photos", "photos"),
        ("csv:leaves/Train.CSV", "leaves", "leaves"),
        ("zip:photos.zip", "photos", "photos"),
        ("csv:leaves/train.csv", "leaves", "leaves"),
        ("csv:leaves.csv", "leaves", "leaves"),
        ("folder:test", "test", "test"),
        ("folder:/", "folder", "folder"),
        ("my/pictures", "pictures", "pictures"),
        ("shapes:test:4000", "shapes", "shapes:test:4000"),
        ("shapes", "shapes", "shapes"),
        ("torchvision:CIFAR10:test", "CIFAR10", "torchvision:CIFAR10:test"),
        ("hf:someone/leaves:test", "leaves", "hf:someone/leaves:test"),
        ("memory:mine", "mine", "memory:mine"),
        ("patches:folder:animals/train", "animals", "patches:folder:animals/train"),
        (f"folder:{EVIL}", EVIL, EVIL),
    ],
)
def test_data_have_the_name_of_their_folder_or_file_unless_that_is_a_split(source: str, name: str, text: str) -> None:
    assert data_name(source) == name
    assert in_text(source) == text


def test_the_title_names_the_data_and_is_harmless(tmp_path: Path) -> None:
    facts = read_facts([write_study(tmp_path / "study")])
    assert question_on(facts) == "Does pretraining help on animals?"
    page = html(read_facts([write_probe(tmp_path / "probe", probe_result(train="folder:<i>mine</i>/train"))]))
    assert "<title>Does denoise beat the same network untrained, on i&gt;?</title>" in page
    assert "<h1>Does denoise beat the same network untrained, on i&gt;?</h1>" in page
    assert question_on(read_facts([write_pretraining(tmp_path / "p")])) == "What has denoise learned on pictures?"


def test_the_title_names_no_more_data_than_a_reader_can_take_in() -> None:
    def asked(count: int) -> str:
        return question_on(facts_of(*(probe_result(train=f"folder:{'abcde'[one]}") for one in range(count))))

    assert asked(3) == "Does denoise beat the same network untrained, on a, b and c?"
    assert asked(4) == "Does denoise beat the same network untrained?"


def test_a_task_is_named_only_where_there_are_several(tmp_path: Path) -> None:
    alone, other = probe_result(damage=["gray"]), probe_result(damage=["gray"], task="plant")
    said = Page(html(read_facts([write_probe(tmp_path / "one", alone)]))).said
    limits = said[said.index("Limits", said.index("How to repeat", said.index("Cost"))) :]
    assert "Linear probe of denoise" in said
    assert " 100 test images per class: " in limits
    assert "animal: " not in limits
    said = Page(html(read_facts([write_probe(tmp_path / "two", alone, other)]))).said
    assert "animal: linear probe of denoise" in said
    assert "plant: 100 test images per class: " in said


def test_paths_and_names_may_be_broken_and_stay_the_same_text(tmp_path: Path) -> None:
    assert breakable("a/b_c <i>/&") == "a/<wbr>b<wbr>_c &lt;i&gt;/<wbr>&amp;"
    page = html(read_facts([write_probe(tmp_path / "p", probe_result(train="folder:/my_own/animals"))]))
    assert "folder:/<wbr>my<wbr>_own/<wbr>animals" in page
    assert "folder:/my_own/animals" in Page(page).said
