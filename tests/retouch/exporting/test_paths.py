"""Texts without the paths of this machine: no folder remains, and text that is not a path is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.encoders.readme import plain
from retouch.exporting.paths import folders_of, has_path, in_markdown, without_paths

NAME = st.text(st.characters(categories=("Ll", "Lu", "Nd"), include_characters="._- &#*|`"), min_size=1).filter(
    lambda text: text.strip(". ") == text
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/me/pictures", "…/pictures"),
        ("folder:/data/me/pictures", "folder:…/pictures"),
        ("parquet:/data/me/*.parquet", "parquet:…/*.parquet"),
        ("see /data/a.png, /data/b.png; (/data/c)", "see …/a.png, …/b.png; (…/c)"),
        ("file:///data/me/a.png", "…/a.png"),
        (r"C:\Users\me\pictures", "…/pictures"),
        ("D:/me/pictures/", "…/pictures"),
        (r"\\server\share\pictures", "…/pictures"),
        (r"folder:C:\\Users\\me\\pictures", "folder:…/pictures"),  # as Markdown has it
        ("retouch repeat '/data/me/run'", "retouch repeat '…/run'"),
        ("encoder=/data/me/run data=my/labeled", "encoder=…/run data=my/labeled"),
    ],
)
def test_of_a_path_its_name_stays(text: str, expected: str) -> None:
    assert without_paths(text, ()) == expected
    assert has_path({"key": [1, text]})


@pytest.mark.parametrize(
    "text",
    [
        "my/pictures", "hf:me/pictures:train", "https://huggingface.co/me/mine/commit/1", "timm/resnet18", "5 images/s",
        "RGB in [0, 1]", "~/pictures", "a / b", "shapes:test:60", "../runs/mine", "torchvision:CIFAR10", "4x4/2",
    ],
)  # fmt: skip
def test_what_is_no_path_of_this_machine_stays(text: str) -> None:
    assert without_paths(text, ()) == text
    assert not has_path([text])


@pytest.mark.parametrize("form", [str, plain])
def test_the_name_of_a_class_is_no_path(form: Callable[[str], str]) -> None:
    names = in_markdown(["cat", "/m/0a", "/m/0a/b", "left /right & up", "/data/a"])
    text = form("classes: /m/0a, /m/0a/b, left /right & up, cat, /m/0a. Not /m/0ab, /m/other, /m/0a/c, /data/a/b/cat.")
    expected = form("classes: /m/0a, /m/0a/b, left /right & up, cat, /m/0a. Not …/0ab, …/other, …/0a/c, …/cat.")
    assert without_paths(text, ["/m"], names) == expected


@given(st.lists(NAME, min_size=2, max_size=4), NAME)
def test_folders_that_are_known_may_have_any_names(parts: list[str], name: str) -> None:
    folder = "/" + "/".join(parts)
    known = in_markdown(folders_of([f"{folder}/{name}"]))
    for form in (str, plain):  # unchanged, and as a model card writes it
        assert without_paths(form(f"of {folder}/{name}."), known) == form(f"of …/{name}.")


def test_the_home_and_the_working_folder_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/my name")
    known = folders_of([None, "runs/mine", "hf:me/mine"])
    assert without_paths(f"{tmp_path}/runs/mine, /home/my name/a b.png", known) == "…/runs/mine, …/a b.png"
