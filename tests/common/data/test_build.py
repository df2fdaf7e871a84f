from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.data import build_source, load_images
from common.data.footers import with_rows
from common.data.patches import PatchesSource
from common.data.photos import PhotosSource
from common.data.shapes import ShapesSource
from common.errors import UserError
from tests.common.data.samples import picture, png, write_dtd, write_folder, write_mnist, write_parquet


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shape", "'shape': no such file or folder: {cwd}/shape; did you mean shapes?"),
        ("Folder:x", "'Folder:x': unknown source 'Folder'; did you mean 'folder'?"),
        ("imagenet:x", "'imagenet:x': unknown source 'imagenet'; use one of shapes[:train|test[:LENGTH]], "
         "photos[:train|test[:LENGTH]], folder:PATH, parquet:GLOB, hf:NAME[:SPLIT], torchvision:NAME[:SPLIT], "
         "csv:PATH, list:PATH, zip:PATH, patches:SOURCE, memory:NAME"),
        ("imagenet", "'imagenet': no such file or folder: {cwd}/imagenet; give a folder, a .zip, a .csv or .txt that "
         "lists images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or patches:SOURCE"),
        ("{tmp}/textz", "'{tmp}/textz': no such file or folder: {tmp}/textz; did you mean {tmp}/texts?"),
        ("{tmp}/a.parquet", "'{tmp}/a.parquet': no such file or folder: {tmp}/a.parquet; give a folder, a .zip, a .csv "
         "or .txt that lists images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or patches:SOURCE"),
        ("{tmp}/*.parquet", "parquet:{tmp}/*.parquet: no file matches (from {cwd})"),
        ("{tmp}/*.png", "'{tmp}/*.png': a pattern may name .parquet files only; for images, give their folder"),
        ("{tmp}/one.png", "'{tmp}/one.png': this is a single image; give the folder that it is in: {tmp}"),
        ("{tmp}/one.npy", "'{tmp}/one.npy': this is not a file of a known kind; give a folder, a .zip, a .csv or .txt "
         "that lists images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or patches:SOURCE"),
        ("{tmp}/one.jsonl", "'{tmp}/one.jsonl': save it as metadata.jsonl in the folder of the images, with a column "
         "file_name, and use hf:FOLDER"),
        ("https://some.org/cats.zip", "'https://some.org/cats.zip': images are not read from the network: download "
         "them, and give their folder (or use hf:NAME)"),
        ("C:\\pictures", "'C:\\\\pictures': this looks like a Windows path; write it as this machine names it, with "
         "forward slashes"),
        ("C:/pictures", "'C:/pictures': this looks like a Windows path; write it as this machine names it, with "
         "forward slashes"),
        ("folder:", "'folder:' is incomplete; the form is folder:PATH"),
        ("folder:{tmp}/gone", "folder:{tmp}/gone: no such folder: {tmp}/gone"),
        ("folder:{tmp}/file.txt", "folder:{tmp}/file.txt: is a file, not a folder: {tmp}/file.txt"),
        ("folder:{tmp}/empty", "folder:{tmp}/empty: the folder is empty: {tmp}/empty"),
        ("folder:{tmp}/texts", "folder:{tmp}/texts: no image files in {tmp}/texts (found 2 .txt, 1 .parquet); "
         "for parquet files use parquet:PATH/*.parquet"),
        ("parquet:{tmp}/*.parquet", "parquet:{tmp}/*.parquet: no file matches (from {cwd})"),
        ("parquet:{tmp}/empty", "parquet:{tmp}/empty: no file matches; "
         "for a folder use parquet:{tmp}/empty/*.parquet"),
        ("shapes:val", "'shapes:val': no split 'val'; the form is shapes[:train|test[:LENGTH]]"),
        ("shapes:train:many", "'shapes:train:many': 'many' is not a number of images; "
         "the form is shapes[:train|test[:LENGTH]]"),
        ("shapes:train:" + "9" * 400, "shapes:train: a pass has at most 100,000,000 images; "
         "use shapes:train:100000000, or less"),
        ("photos:test:100000001", "photos:test: a pass has at most 100,000,000 images; "
         "use photos:test:100000000, or less"),
        ("photos:val", "'photos:val': no split 'val'; the form is photos[:train|test[:LENGTH]]"),
        ("photos:train:0", "'photos:train:0': '0' is not a number of images; "
         "the form is photos[:train|test[:LENGTH]]"),
        ("photo", "'photo': no such file or folder: {cwd}/photo; did you mean photos?"),
        ("patches:", "'patches:' is incomplete; the form is patches:SOURCE"),
        ("patches:photos", "'patches:photos': photos are already patches; use photos"),
        ("patches:patches:shapes", "'patches:patches:shapes': patches are already patches; use patches:shapes"),
        ("patches:foldr:x", "'foldr:x': unknown source 'foldr'; did you mean 'folder'?"),
        ("patches:folder:{tmp}/empty", "folder:{tmp}/empty: the folder is empty: {tmp}/empty"),
        ("torchvision:CIFAR", "torchvision:CIFAR: torchvision has no data set 'CIFAR'; did you mean 'CIFAR10'?"),
        ("torchvision:ImageFolder", "torchvision:ImageFolder is not a published data set but reads folders of "
         "your own; use folder:PATH"),
        ("torchvision:FakeData:test", "torchvision:FakeData:test: no split 'test'; it has no test set: "
         "leave data.test out, and a part is held out"),
    ],
)  # fmt: skip
def test_mistakes_get_one_plain_message(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt", "c.parquet"):
        (tmp_path / "texts" / name).write_text("")
    for name in ("one.png", "one.npy", "one.jsonl"):
        (tmp_path / name).write_text("")
    fill = {"tmp": str(tmp_path), "cwd": str(Path.cwd())}
    with pytest.raises(UserError) as error:
        build_source(spec.format(**fill))
    assert str(error.value) == message.format(**fill)


def test_truncated_parquet_is_refused_by_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    path = write_parquet(tmp_path / "b.parquet")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{path} is not readable as parquet: "):
        build_source(f"parquet:{tmp_path}/*.parquet")


@pytest.mark.parametrize("columns", [{}, {"image": pa.array([], pa.null()), "label": pa.array([], pa.null())}])
@pytest.mark.parametrize("name", ["a.parquet", "c.parquet"], ids=["first", "last"])
def test_parquet_file_without_rows_is_left_out(tmp_path: Path, name: str, columns: dict[str, Any]) -> None:
    whole = build_source(f"parquet:{write_parquet(tmp_path / 'b.parquet')}")
    pq.write_table(pa.table(columns), tmp_path / name)
    source = build_source(f"parquet:{tmp_path}/*.parquet")
    assert len(source) == 6
    assert source.tasks == whole.tasks == ("label",)
    with pytest.raises(UserError, match=f"parquet:{tmp_path}/{name}: no rows in {tmp_path}/{name}$"):
        build_source(f"parquet:{tmp_path}/{name}")


def test_missing_hub_folder_split_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load split 'test'.*train"):
        build_source(f"hf:{write_folder(tmp_path / 'photos')}", split="test")


def test_split_of_the_spec_wins_over_the_argument(tmp_path: Path) -> None:
    assert build_source("shapes", split="test").spec == "shapes:test:4000"
    assert build_source("shapes:train", split="test").spec == "shapes:train:20000"
    root = str(write_mnist(tmp_path))
    assert build_source("torchvision:MNIST:test", root=root).fingerprint == (
        build_source("torchvision:MNIST:test", split="train", root=root).fingerprint
    )
    with pytest.raises(UserError, match="no split 'val'; it has train, test"):
        build_source("torchvision:MNIST:val", root=root)


def test_torchvision_split_goes_by_its_own_name(tmp_path: Path) -> None:
    root = str(write_dtd(tmp_path))
    assert [len(build_source("torchvision:DTD", split=split, root=root)) for split in ("train", "test")] == [4, 2]
    with pytest.raises(UserError, match=r"could not open it in .*train"):
        build_source("torchvision:DTD:everything", root=root)


def test_seed_and_label_reach_shapes() -> None:
    one, two = build_source("shapes", seed=1, label="color"), build_source("shapes", seed=2, label="color")
    assert isinstance(one, ShapesSource)
    assert one.fingerprint != two.fingerprint
    assert one.labels().task == "color"
    with pytest.raises(UserError, match="no label 'hue'; it has shape, color, texture, all"):
        build_source("shapes", label="hue")


def test_seed_reaches_photos_which_have_no_labels() -> None:
    one, two = build_source("photos", seed=1), build_source("photos", seed=2)
    assert isinstance(one, PhotosSource)
    assert one.fingerprint != two.fingerprint
    assert [len(build_source("photos", split=split)) for split in ("train", "test")] == [20_000, 4_000]
    assert len(build_source("photos:test:7")) == 7
    with pytest.raises(UserError, match=r"data\.label: photos has no labels; remove it"):
        build_source("photos", label="flower")


def test_patches_are_opened_as_the_source_they_are_cut_from(tmp_path: Path) -> None:
    source = build_source(f"patches:folder:{write_folder(tmp_path)}", seed=3)
    assert isinstance(source, PatchesSource)
    assert source.spec == f"patches:folder:{tmp_path}"
    assert source.fingerprint != build_source(source.spec, seed=4).fingerprint
    assert len(build_source("patches:shapes", split="test")) == 25 * 4_000
    with pytest.raises(UserError, match=r"data\.label: patches have no labels; remove it"):
        build_source(source.spec, label="label")
    with pytest.raises(UserError, match="has no columns to choose from"):
        build_source(source.spec, image="image")


def test_columns_are_refused_where_there_are_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    with pytest.raises(UserError, match="has no columns to choose from"):
        build_source(f"folder:{folder}", image="image")
    with pytest.raises(UserError, match="has no label 'breed'"):
        build_source(f"folder:{folder}", label="breed")


def table(folder: Path, **columns: list[object]) -> str:
    datasets.Dataset.from_dict(columns).to_parquet(folder / "t.parquet")
    return f"parquet:{folder}/t.parquet"


def test_raw_bytes_and_text_labels_serve(tmp_path: Path) -> None:
    source = build_source(table(tmp_path, picture=[png(0), png(1), png(2)], animal=["dog", "cat", "dog"]))
    assert source.labels().names == ("cat", "dog")
    assert source.labels().values.tolist() == [1, 0, 1]
    assert source.tasks == ("animal",)
    assert torch.is_tensor(source.image(0)) or source.image(0).size == (20, 16)


def test_struct_of_bytes_and_path_serves(tmp_path: Path) -> None:
    cells = [{"bytes": png(0), "path": "a.png"}, {"bytes": png(1), "path": None}]
    source = build_source(table(tmp_path, photo=cells, label=[3, 8]))
    assert source.labels().names == ("3", "8")
    assert source.labels().values.tolist() == [0, 1]


def test_several_columns_are_asked_about(tmp_path: Path) -> None:
    spec = table(tmp_path, left=[png(0)], right=[png(1)], size=[1], age=[2])
    with pytest.raises(UserError, match=r"several columns hold images: left, right; set data\.image to one of them"):
        build_source(spec)
    source = build_source(spec, image="left")  # labels are not needed, so not asked about
    for ask in (source.labels, source.resolve):
        with pytest.raises(
            UserError, match=r"several columns may be labels: size, age; set data\.label to one of them"
        ):
            ask(None)
    assert source.labels("age").names == ("2",)
    assert build_source(spec, image="right", label="age").labels().task == "age"


def test_all_wrong_columns_are_reported_with_the_existing_ones(tmp_path: Path) -> None:
    spec = table(tmp_path, photo=[png(0)], score=[0.5])
    with pytest.raises(UserError) as error:
        build_source(spec, image="img", label="score")
    assert str(error.value).splitlines() == [
        f"{spec}: data.image: no column 'img'; it has photo, score",
        f"{spec}: data.label: column 'score' does not hold labels; columns that do: none",
    ]
    with pytest.raises(UserError) as error:
        build_source(spec).labels()
    assert str(error.value) == (
        f"{spec} has no labels, but labels are needed here: no column holds whole numbers, words, or true and false; "
        "it has photo (images), score (float64); whole numbers of which some are missing are floats: leave these rows "
        "out"
    )


def test_rows_without_a_label_are_counted_when_labels_are_read(tmp_path: Path) -> None:
    source = build_source(table(tmp_path, photo=[png(0), png(1)], label=["a", None]))
    with pytest.raises(UserError, match="1 of 2 rows have no label in column 'label'"):
        source.labels()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_look_the_same_are_one_class(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    """macOS writes é as two characters, other systems as one."""
    for number, name in enumerate(("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", "tea")):
        path = tmp_path / name / f"{number}.png"
        path.parent.mkdir()
        picture(number).save(path)
    (tmp_path / "tea ").mkdir()
    (tmp_path / "tea" / "2.png").rename(tmp_path / "tea " / "2.png")
    labels = build_source(f"folder:{tmp_path}").labels()
    assert labels.names == ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "tea")
    assert labels.values.tolist() == [0, 0, 1]
    names: list[object] = [unicodedata.normalize(form, "th\N{LATIN SMALL LETTER E WITH ACUTE}"), "caf"]
    assert build_source(table(tmp_path, image=[png(0), png(1)], label=names)).labels().names == (
        "caf", "th\N{LATIN SMALL LETTER E WITH ACUTE}",
    )  # fmt: skip


def saved(rows: int) -> datasets.Dataset:
    cells = [{"bytes": png(number), "path": None} for number in range(rows)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * (rows // 2)}, features=features)


def test_a_table_saved_to_disk_is_read(tmp_path: Path) -> None:
    saved(6).save_to_disk(tmp_path / "one")
    source = build_source(f"hf:{tmp_path / 'one'}")
    assert len(source) == 6
    assert source.labels().names == ("cat", "dog")
    assert source.published_test() is None
    assert load_images(source, 8).pixels is not None
    assert source.fingerprint == build_source(f"hf:{tmp_path / 'one'}").fingerprint
    with pytest.raises(UserError, match="saved as one table without splits; leave the split out"):
        build_source(f"hf:{tmp_path / 'one'}:test")
    saved(4).save_to_disk(tmp_path / "two")
    (tmp_path / "one").rename(tmp_path / "gone")
    (tmp_path / "two").rename(tmp_path / "one")
    assert source.fingerprint != build_source(f"hf:{tmp_path / 'one'}").fingerprint


def test_splits_saved_to_disk_are_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": saved(6), "test": saved(4)}).save_to_disk(tmp_path / "both")
    source = build_source(f"hf:{tmp_path / 'both'}")
    test = source.published_test()
    assert test is not None
    assert (len(source), len(test)) == (6, 4)
    with pytest.raises(UserError, match="cannot load split 'val': its splits are train, test"):
        build_source(f"hf:{tmp_path / 'both'}:val")


def test_a_cache_that_cannot_be_written_is_named_with_the_setting_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "good.parquet")
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "cache"  # no folder can be made inside a file, not even by root
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", blocked)
    with pytest.raises(UserError, match=f"cannot write its cache {blocked}.*; set HF_HOME to"):
        build_source(f"parquet:{tmp_path / 'good.parquet'}")
    with pytest.raises(UserError, match=f"cannot write its cache {blocked}.*; set data.root to"):
        build_source("hf:nobody/nothing", root=str(blocked))
    with pytest.raises(UserError, match=f"cannot be kept in {blocked}.*; set RETOUCH_CACHE or data.root to"):
        build_source("torchvision:MNIST", root=str(blocked))


@pytest.mark.parametrize("note", ["{broken", "[]", '{"info": null}', '{"info": {"features": []}}', "\\xff"])
def test_a_damaged_note_in_a_footer_does_not_cost_the_table(tmp_path: Path, note: str) -> None:
    table = pa.table({"image": [png(0), png(1)], "label": ["a", "b"]}).replace_schema_metadata({"huggingface": note})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(with_rows("a", [str(tmp_path / "a.parquet")])) == 1


def test_files_that_number_classes_differently_are_refused(tmp_path: Path) -> None:
    for name, classes in (("0", ["a", "b"]), ("1", ["b", "a"])):
        features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=classes)})
        cells = {"image": [png(0), png(1)], "label": [0, 1]}
        datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / f"{name}.parquet")
    for spec in (f"parquet:{tmp_path}/*.parquet", f"hf:{tmp_path}"):
        with pytest.raises(UserError) as error:
            build_source(spec)
        assert str(error.value).startswith(
            f"{spec}: {tmp_path}/0.parquet and {tmp_path}/1.parquet number the classes of 'label' differently "
            "(a, b; b, a)"
        )
    for split in ("train", "test"):  # each set has its own list, and they are matched by name
        (tmp_path / f"{'01'[split == 'test']}.parquet").rename(tmp_path / f"{split}.parquet")
    assert build_source(str(tmp_path)).published_test() is not None


def test_paths_in_a_table_are_beside_it(tmp_path: Path) -> None:
    picture(3).save(tmp_path / "3.png")
    spec = table(tmp_path, photo=[{"bytes": None, "path": "3.png"}, {"bytes": png(4), "path": "4.png"}])
    assert load_images(build_source(spec), 8).kept.tolist() == [0, 1]


def test_a_table_without_images_says_what_it_holds(tmp_path: Path) -> None:
    spec = table(tmp_path, file=["a.png"], size=[2])
    with pytest.raises(UserError) as error:
        build_source(spec)
    assert str(error.value) == (
        f"{spec}: no column holds images; it has file (string), size (int64); paths of images, as in file, are read "
        "from CSV files: save it as one, and use csv:PATH"
    )


def test_views_of_bytes_and_words_serve(tmp_path: Path) -> None:
    cells = {"image": pa.array([png(0), png(1)], pa.binary_view()), "label": pa.array(["a", "NaN"], pa.string_view())}
    pq.write_table(pa.table(cells), tmp_path / "t.parquet")
    source = build_source(f"parquet:{tmp_path}/t.parquet")
    assert load_images(source, 8).kept.tolist() == [0, 1]
    with pytest.raises(UserError, match="1 of 2 rows have no label in column 'label'"):
        source.labels()


@pytest.mark.parametrize(("spec", "message"), [("a" * 5000, "5,000 characters"), ("null", "leave the setting out")])
def test_what_cannot_be_a_path_is_refused_with_what_works(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        build_source(spec)
    assert len(str(refused.value)) < 200


def test_one_image_is_a_source_where_nothing_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "one, two.PNG"
    picture(3, 20, 16).save(path)
    source = build_source(str(path), single=True)
    assert (len(source), source.where(0), source.tasks) == (1, str(path), ())
    expected = load_images(build_source(f"folder:{tmp_path}"), 16).rows(torch.arange(1))
    assert torch.equal(load_images(source, 16).rows(torch.arange(1)), expected)
    assert len(build_source(str(tmp_path), single=True)) == 1  # a folder is one as ever
    with pytest.raises(UserError, match="this is a single image; give the folder"):
        build_source(str(path))
    with pytest.raises(UserError, match=r"data\.image: .*one, two\.PNG has no columns"):
        build_source(str(path), single=True, image="picture")
    with pytest.raises(UserError, match=r"gone\.png': no such file or folder"):
        build_source(str(tmp_path / "gone.png"), single=True)
