"""The probe of masks, from its data to results.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from common.data import load_images
from common.data.images import kept_rows
from common.data.masks import look_at_masks
from common.data.shapes import ShapesSource
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.pixels import to_float
from finetune import seeds
from finetune.config import ProbeConfig
from finetune.dense import passes
from finetune.dense.cells import enlarge, overlaps
from finetune.dense.data import MaskedImages, load_masked, open_masked
from finetune.dense.fitting import discriminant
from finetune.dense.passes import build_parts
from finetune.dense.pixels import Patches
from finetune.features import Extraction
from finetune.multilabel.data import ProbeData
from finetune.probe import probe
from finetune.probes import Search
from finetune.results import ProbeReport, read_results
from finetune.structured_results import DenseResult
from finetune.summary import logged_several, notes
from finetune.table import several_table
from finetune.tracked import Sheet, probe_shown
from retouch.comparison import headline

SIZE = 16
HOW = Extraction(torch.device("cpu"), torch.float32, 8, 0)


def pictures(folder: Path, n: int, seed: int, names: Sequence[str] = ("0", "1", "2")) -> None:
    """Gray noise with a red and a blue rectangle, and masks that say which is which; a frame of 255 is ignored."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(seed)
    for number in range(n):
        pixels = random.integers(90, 160, (SIZE, SIZE + 4, 3))
        mask = np.zeros((SIZE, SIZE + 4), np.uint8)
        for value, channel in ((1, 0), (2, 2)):
            top, left = random.integers(0, 9, 2)
            pixels[top : top + 7, left : left + 7] = 30
            pixels[top : top + 7, left : left + 7, channel] = random.integers(180, 256)
            mask[top : top + 7, left : left + 7] = value
        mask[:, :3] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def exported(folder: Path) -> None:
    """An untrained encoder."""
    torch.manual_seed(0)
    small = EncoderConfig(name="small_cnn", model_args={"width": 8, "depth": 1})
    export_encoder(build_encoder(small, image_size=SIZE), folder, Provenance(pretext={"kind": "denoise"}))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and folders of training and test images with their masks."""
    folder = tmp_path_factory.mktemp("masks")
    exported(folder / "encoder")
    pictures(folder / "train", 60, 0)
    pictures(folder / "test", 40, 1)
    return folder


def config_of(here: Path, out: Path, **changes: Any) -> ProbeConfig:
    data = {
        "train": str(here / "train/images"),
        "masks": str(here / "train/masks"),
        "test": str(here / "test/images"),
        "test_masks": str(here / "test/masks"),
        "mask_names": ["ground", "red", "blue"],
        "workers": 0,
    }
    values: dict[str, Any] = {
        "out": out,
        "encoder": here / "encoder",
        "data": data | changes.pop("data", {}),
        "precision": "float32",
        "batch_size": 16,
        "probe": {"l2": [1e-3, 1e-1]},
        "properties": False,
        "null_check": False,
        "wandb": {"mode": "disabled"},
    }
    return ProbeConfig.model_validate(values | changes)


def loaded(here: Path) -> MaskedImages:
    data = config_of(here, here / "none").data
    return load_masked(open_masked(data, SIZE, 0), data, SIZE, 0)


@pytest.mark.parametrize("layers", [[0], [1], None], ids=["another", "this", "all"])
def test_maps_that_are_not_finite_are_named_with_layer_and_image(
    here: Path, monkeypatch: pytest.MonkeyPatch, layers: list[int] | None
) -> None:
    images, encoder = loaded(here), load_encoder(here / "encoder")
    real = encoder.layers

    def broken(shown: Tensor) -> list[Tensor]:
        maps = [one.clone() for one in real(shown)]
        maps[1][2, 0, 1, 1] = torch.nan
        return maps

    monkeypatch.setattr(encoder, "layers", broken)
    if layers == [0]:
        assert sum(len(batch.index) for batch in passes.maps_of(encoder, images.test, HOW, layers)) == 40
        return
    with pytest.raises(UserError, match="small_cnn gives NaN or infinite features") as refused:
        next(passes.maps_of(encoder, images.test, HOW, layers))
    assert refused.value.problems == (f"layer 1, cells: 1 of 8 images, first {images.test.images.where(2)}",)


@pytest.fixture(scope="module")
def report(here: Path) -> ProbeReport:
    return probe(config_of(here, here / "run", properties=True, null_check=True), show=False)


def test_what_maps_show_is_found_and_measured(here: Path, report: ProbeReport) -> None:
    assert read_results(here / "run") == report
    assert (report.results, report.multilabel) == ((), ())
    assert report.made is not None
    assert {"data.train", "data.test", "data.masks", "data.test_masks", "encoder"} == report.made.inputs.keys()
    assert len(set(report.made.inputs.values())) == 5
    text = (here / "run" / "train.log").read_text()
    assert "masks: 3 classes, 60 training and 40 test images" in text
    assert "training images that show ground (60), red (" in text
    [result] = report.dense
    assert result.task == str(here / "train/masks")
    assert (result.classes, result.checks.frozen) == (("ground", "red", "blue"), True)
    assert list(result.subjects) == ["encoder", "random_init", "pixels"]
    for one in result.subjects.values():
        assert (one.n_train, one.n_val, one.test.n) == (60, 60, 40)
        assert one.test.mean_iou > 0.7  # colors are easy to see
        assert one.test.ci95[0] <= one.test.mean_iou <= one.test.ci95[1]
        assert one.choice.how == "5-fold cross-validation"
        assert one.choice.val_accuracy == max(space.val_accuracy for space in one.choice.spaces)
        # the middle 16 of 20 columns, of which the first is ignored
        assert sum(one.test.pixels) == 40 * SIZE * (SIZE - 1)
    mine = result.subjects["encoder"]
    assert list(mine.compared) == ["random_init", "pixels"]
    assert mine.compared["pixels"].difference == pytest.approx(
        mine.test.mean_iou - result.subjects["pixels"].test.mean_iou
    )
    # finer maps see outlines better
    cells = [int(space.pooling.partition("x")[0]) for space in mine.choice.spaces]
    assert mine.choice.pooling == f"{max(cells)}x{max(cells)} cells"
    assert not list((here / "run").glob("*.parquet"))


def test_the_protocol_the_log_and_the_table_say_what_was_done(here: Path, report: ProbeReport) -> None:
    [result] = report.dense
    for words in ("linear discriminant analysis", "split by image", "5-fold cross-validation", "tested once", "16 px"):
        assert words in result.protocol
    [logged] = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    numbers = logged_several(result)
    assert numbers["mean_iou"] == result.subjects["encoder"].test.mean_iou
    assert logged[f"{result.task}/pixels_pixel_accuracy"] == result.subjects["pixels"].test.pixel_accuracy
    assert {f"{result.task}/{key}" for key in numbers} <= logged.keys()
    assert "masks: 3 classes, 60 training and 40 test images" in (here / "run" / "train.log").read_text()
    sheets = {one.name: one for one in probe_shown(report) if isinstance(one, Sheet)}
    assert [row[2] for row in sheets["mask_results"].rows] == [one.test.mean_iou for one in result.subjects.values()]
    test = result.subjects["encoder"].test
    classes = list(zip(result.classes, test.images, test.per_class, strict=True))
    assert [row[2:] for row in sheets["mask_classes"].rows[:3]] == classes
    assert [row[0] for row in sheets["data"].rows] == [result.task]
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(several_table(result))
    text = console.export_text()
    assert f"{100 * test.mean_iou:.1f} [{100 * test.ci95[0]:.1f}" in text
    for words in ("denoise", "untrained", "raw pixels", "gain over", "3 classes", "40 test images"):
        assert words in text


def test_test_masks_change_only_the_scores_not_the_choice(here: Path, report: ProbeReport, tmp_path: Path) -> None:
    """The masks of other images: all the rest is as it was."""
    (tmp_path / "masks").mkdir()
    for number in range(40):
        (tmp_path / "masks" / f"{number}.png").write_bytes((here / f"test/masks/{(number + 7) % 40}.png").read_bytes())
    config = config_of(here, tmp_path / "out", data={"test_masks": str(tmp_path / "masks")})
    [shuffled] = probe(config, show=False).dense
    for name, one in report.dense[0].subjects.items():
        assert shuffled.subjects[name].choice == one.choice
        assert shuffled.subjects[name].test.mean_iou < one.test.mean_iou - 0.2


def test_training_masks_of_other_images_teach_nothing(here: Path, report: ProbeReport, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for number in range(60):
        other = here / f"train/masks/{(number + 7) % 60}.png"
        (tmp_path / "masks" / f"{number}.png").write_bytes(other.read_bytes())
    changes = {"data": {"masks": str(tmp_path / "masks")}, "baselines": {"random_init": False, "pixels": False}}
    [wrong] = probe(config_of(here, tmp_path / "out", **changes), show=False).dense
    assert wrong.subjects["encoder"].test.mean_iou < 0.4
    assert wrong.subjects["encoder"].choice.val_accuracy < 0.4


def test_the_same_whatever_the_batch_and_the_room(
    here: Path, report: ProbeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.dense.cells.ROOM", 5000)
    monkeypatch.setattr("common.data.masks.available_memory", lambda: 0)
    changes = {"batch_size": 7, "data": {"cache": "none"}}
    [found] = probe(config_of(here, tmp_path / "out", **changes), show=False).dense
    for name, one in report.dense[0].subjects.items():
        assert found.subjects[name].test.mean_iou == pytest.approx(one.test.mean_iou, abs=2e-3)
    assert found.code is None


def test_each_subject_passes_the_test_set_once(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = passes.maps_of

    def counting(encoder: Any, some: Any, *rest: Any) -> Any:
        seen.append(f"{encoder.name} {some.source.spec.rpartition('/')[0].rpartition('/')[2]}")
        return original(encoder, some, *rest)

    monkeypatch.setattr(passes, "maps_of", counting)
    probe(config_of(here, tmp_path / "out", baselines={"random_init": False}), show=False)
    assert seen == [*["small_cnn train"] * 2, "small_cnn test", *["pixels train"] * 2, "pixels test"]


def test_a_changed_encoder_is_noted(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = passes.gather

    def spoiling(encoder: Any, *rest: Any) -> Any:
        found = original(encoder, *rest)
        for weight in encoder.parameters():
            weight.data += 1e-3
            break
        return found

    monkeypatch.setattr("finetune.kinds.masks.gather", spoiling)
    alone = {"random_init": False, "pixels": False}
    found = probe(config_of(here, tmp_path / "out", baselines=alone), show=False)
    assert not found.dense[0].checks.frozen
    assert any("changed while it was measured" in note for note in found.notes)


def test_held_out_images_decide_and_are_split_by_class() -> None:
    present = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.9, 0.5, 0.05])
    parts = build_parts(present, Search(), 0)
    assert (parts.number, parts.held, parts.how) == (5, (0, 1, 2, 3, 4), "5-fold cross-validation")
    for number in range(5):
        assert present[parts.of == number].any(0).all()  # the rare class, too
        assert 55 <= int((parts.of == number).sum()) <= 65
    held = build_parts(present, Search(folds=0), 0)
    assert (held.number, held.held, held.how) == (2, (1,), "held-out 10%")
    assert 25 <= int((held.of == 1).sum()) <= 35
    assert not torch.equal(parts.of, build_parts(present, Search(), 1).of)
    with pytest.raises(UserError, match="1 training images are too few for a validation split"):
        build_parts(present[:1], Search(), 0)


def test_the_tested_classifier_is_fitted_on_every_training_image(here: Path) -> None:
    images = loaded(here)
    sums = passes.gather(Patches(SIZE), (1,), images.train, build_parts(images.present, Search(), 0), 3, HOW)
    truth = images.train.truth(torch.arange(60))
    whole, center = sums.whole(1), sums.centers[1]
    assert whole.pixels.tolist() == [int((truth == number).sum()) for number in range(3)]
    choice = passes.choose(Patches(SIZE), sums, images.train, build_parts(images.present, Search(), 0), [0.1], HOW)
    assert choice.images == 60
    choice = choice._replace(layer=1)
    found = passes.test_once(Patches(SIZE), choice, passes.fit_all(choice, sums), images.test, HOW)
    fit = discriminant(whole, center, [0.1])
    maps = Patches(SIZE).layers(to_float(images.test.images.rows(torch.arange(40))))[1]
    scores = enlarge(fit.scores(maps)[0], SIZE) + fit.shares(choice.prior)[:, None, None]
    assert torch.equal(found, overlaps(scores.argmax(1), images.test.truth(torch.arange(40)), 3))


def test_held_masks_of_a_part_do_not_reach_its_classifier(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image has a class of its own, which no other shows: held out, it cannot be known."""
    shown: list[Tensor] = []
    original = passes._compared

    def seen(fit: Any, maps: Tensor, truth: Tensor) -> Tensor:
        found = original(fit, maps, truth)
        shown.append(found.sum((0, 1)))
        return found

    monkeypatch.setattr(passes, "_compared", seen)
    images = loaded(here)
    own = images.train._replace(
        classes=images.train.classes._replace(numbers=tuple(range(200, 220)), names=tuple(map(str, range(20)))),
        masks=_OneEach(images.train.masks),  # type: ignore[arg-type]
    ).only(torch.arange(20))
    parts = passes.Parts(torch.arange(20) % 5, (0, 1, 2, 3, 4), "")
    encoder = Patches(SIZE)
    sums = passes.gather(encoder, (1,), own, parts, 20, HOW)
    passes.choose(encoder, sums, own, parts, [1e-3], HOW)
    total = torch.stack(shown).sum(0)
    assert int(total[0].sum()) > 0
    assert int(total[2].sum()) == 0  # no pixel is right


class _OneEach:
    """Masks of one number each: 200 plus their row."""

    def __init__(self, masks: Any, kept: Tensor | None = None) -> None:
        self.masks, self.kept = masks, torch.arange(len(masks)) if kept is None else kept

    def rows(self, index: Tensor) -> Tensor:
        return (200 + self.kept[index])[:, None, None].expand(-1, SIZE, SIZE).to(torch.uint8)

    def only(self, rows: Tensor) -> _OneEach:
        return _OneEach(self.masks, self.kept[rows])


def test_raw_pixels_are_patches_with_their_place() -> None:
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = Patches(48).layers(images)
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 32, 32), (17, 16, 16), (53, 8, 8), (197, 4, 4)]
    small = Patches(32).layers(images[..., :32, :32])
    assert torch.equal(small[2][0, :48, 1, 2].sort().values, images[0, :, 4:8, 8:12].flatten().sort().values)
    x, y, xx, yy, xy = small[3][1, -5:]
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert torch.equal(x.T, y)
    assert torch.equal(torch.stack([x * x, y * y, x * y]), torch.stack([xx, yy, xy]))


# ---- data


def test_without_a_test_set_a_fifth_is_held_out_with_its_masks(here: Path) -> None:
    data = ProbeData(train=str(here / "train/images"), masks=str(here / "train/masks"), workers=0)
    sources = open_masked(data, SIZE, seed=0)
    assert (len(sources.images.train), len(sources.images.test)) == (48, 12)
    assert sources.classes.names == ("0", "1", "2")
    for images, masks in zip(sources.images, sources.masks, strict=True):
        for row in range(len(images)):
            assert Path(images.where(row)).name == Path(masks.where(row)).name
    assert open_masked(data, SIZE, seed=1).images.train.fingerprint != sources.images.train.fingerprint


def test_unreadable_images_are_left_out_with_their_masks(here: Path, tmp_path: Path) -> None:
    pictures(tmp_path, 20, 0)
    (tmp_path / "images/3.png").write_bytes(b"no image")
    data = ProbeData(
        train=str(tmp_path / "images"), masks=str(tmp_path / "masks"), test=str(here / "test/images"),
        test_masks=str(here / "test/masks"), workers=0,
    )  # fmt: skip
    found = load_masked(open_masked(data, SIZE, 0), data, SIZE, 0)
    assert len(found.train.images) == len(found.present) == 19
    for row in range(19):
        name = Path(found.train.images.where(row)).name
        mask = np.asarray(Image.open(tmp_path / "masks" / name))[:, 2:18].astype(int)
        expected = np.where(mask == 255, -1, mask)
        assert np.array_equal(found.train.truth(torch.tensor([row]))[0].numpy(), expected)


def test_shapes_have_masks(here: Path, tmp_path: Path) -> None:
    data = {"train": "shapes:train:40", "masks": "object", "test": "shapes:test:20", "test_masks": None}
    config = config_of(here, tmp_path / "out", data=data | {"mask_names": []})
    [result] = probe(config, show=False).dense
    assert (result.task, result.classes) == ("object", ("background", "object"))
    source = ShapesSource("test", 20)
    masks = source.masks("object").bulk(torch.arange(20))
    assert masks is not None
    halved = masks[:, 0, 1::2, 1::2]  # the nearest of 32 pixels at 16
    assert result.subjects["encoder"].test.pixels == (int((halved == 0).sum()), int((halved == 1).sum()))
    assert load_images(source, SIZE).size == SIZE


def test_classes_and_masks_are_measured_in_one_run(here: Path, tmp_path: Path) -> None:
    more = [{"train": "shapes:train:60", "test": "shapes:test:20", "task": "color", "workers": 0}]
    config = config_of(
        here, tmp_path / "out", more_data=more, knn=None, damage=[],
        probe={"l2": [1e-2], "layers": ["each"], "poolings": ["avg"]},
    )  # fmt: skip
    found = probe(config)
    assert [result.task for result in found.results] == ["color"]
    assert len(found.dense) == 1
    assert found.dense[0].subjects["encoder"].choice.setting["l2"] == 1e-2  # probe.l2 is the grid here, too


def test_several_seeds_have_a_mean(here: Path, tmp_path: Path) -> None:
    config = config_of(here, tmp_path / "out", seeds=2, baselines={"random_init": False})
    found = seeds.probe(config)
    assert len(found.dense) == 2
    assert found.seeds is not None
    encoder, pixels = found.seeds.spreads
    assert (encoder.subject, pixels.subject, encoder.measure) == ("encoder", "pixels", "mean_iou")
    ious = [one.subjects["encoder"].test.mean_iou for one in found.dense]
    assert encoder.spread.mean == pytest.approx(sum(ious) / 2)
    read = read_results(tmp_path / "out")
    assert [value for _, value, _ in headline(read)] == [encoder.spread.mean, pixels.spread.mean]
    assert next(value for _, value, _ in headline(read_results(here / "run"))) > 0.5


def errors(here: Path, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises((UserError, ValueError)) as wrong:
        probe(config_of(here, tmp_path / "out", **changes), show=False)
    assert not (tmp_path / "out").exists()
    return str(wrong.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"task": "kind"}}, ["masks: they define the task; remove task"]),
        ({"data": {"labels": ["a"]}}, ["masks: they define the task; remove labels"]),
        ({"data": {"masks": None}}, ["test_masks and mask_names belong to masks"]),
        ({"data": {"mask_names": ["a", "a"]}}, ["mask_names: must be different names"]),
        ({"data": {"mask_names": ["a", "b"]}}, ["masks hold 2, but there are only 2 names, for the numbers 0 to 1"]),
        ({"more_probes": [{"kind": "ridge"}]}, ["more_probes need one label per image; with data.masks"]),
        ({"data": {"masks": "nowhere"}}, ["data.masks: 'nowhere': no such file or folder"]),
        ({"data": {"masks": "shapes"}}, ["data.masks=shapes: must be a folder or a zip file"]),
        ({"data": {"test": None}}, ["data.test_masks: ", "has no test set; set data.test, or remove it"]),
        ({"data": {"train": "shapes", "test": None, "test_masks": None}}, ["no such masks; it has object, shape"]),
        ({"probe": {"layers": [9]}}, ["there is no layer 9"]),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    here: Path, tmp_path: Path, changes: dict[str, Any], said: Sequence[str]
) -> None:
    found = errors(here, tmp_path, **changes)
    for words in said:
        assert words in found


def numbered(folder: Path, names: Path, values: Sequence[int]) -> str:
    """Masks for the images of a folder, each of all these numbers."""
    folder.mkdir()
    for path in names.iterdir():
        mask = np.resize(np.array(values, np.uint8), (SIZE, SIZE + 4))
        Image.fromarray(mask).save(folder / f"{path.stem}.png")
    return str(folder)


def test_one_class_is_refused_with_a_hint_about_what_is_ignored(here: Path, tmp_path: Path) -> None:
    masks = numbered(tmp_path / "a", here / "train/images", [0, 255])
    found = errors(here, tmp_path, data={"masks": masks, "mask_names": []})
    assert "masks hold only class 0, so there is nothing to tell apart" in found
    assert "255 is ignored: if it is a class, set data.mask_ignore=null" in found
    data = ProbeData(
        train=str(here / "train/images"), masks=masks, test=str(here / "train/images"), mask_ignore=None, workers=0
    )
    assert open_masked(data, SIZE, 0).classes.numbers == (0, 255)


def test_classes_that_training_lacks_are_refused(here: Path, tmp_path: Path) -> None:
    masks = numbered(tmp_path / "a", here / "test/images", [0, 1, 7])
    assert "test images hold class 7, and those of training images do not; training has 0, 1, 2" in errors(
        here, tmp_path, data={"test_masks": masks}
    )
    masks = numbered(tmp_path / "b", here / "test/images", [255])
    assert "no pixel of a test image has a class" in errors(here, tmp_path, data={"test_masks": masks})


def test_an_encoder_without_maps_is_refused(here: Path, tmp_path: Path) -> None:
    vector = EncoderConfig(name="mlp")
    export_encoder(build_encoder(vector, image_size=SIZE), tmp_path / "encoder")
    assert "one vector per image cannot tell pixels apart" in errors(here, tmp_path, encoder=tmp_path / "encoder")


def test_older_results_have_no_such_part(report: ProbeReport) -> None:
    found = report.model_dump(mode="json")
    del found["dense"]
    assert ProbeReport.model_validate(found).dense == ()
    assert DenseResult.model_validate(report.dense[0].model_dump(mode="json")) == report.dense[0]


def test_classes_that_only_the_limit_leaves_out_are_named(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "masks").mkdir()
    for number in range(60):  # one image of the training part shows class 9
        mask = np.asarray(Image.open(here / f"train/masks/{number}.png")).copy()
        mask[:, 10:] = 9 if number == 30 else mask[:, 10:]
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    whole = ProbeData(train=str(here / "train/images"), masks=str(tmp_path / "masks"), workers=0)
    found = open_masked(whole, SIZE, 0)
    shown = [Path(found.masks.train.where(row)).stem for row in range(len(found.masks.train))]
    assert (found.classes.numbers, "30" in shown) == ((0, 1, 2, 9), True)
    used = {int(shown[int(row)]) for row in kept_rows(found.images.train, 10, 0)}
    assert 30 not in used  # or the next lines would show nothing
    with caplog.at_level("WARNING", "retouch"):
        assert open_masked(whole.model_copy(update={"limit": 10}), SIZE, 0).classes.numbers == (0, 1, 2)
    assert any("no training image of data.limit=10 shows class 9" in line for line in caplog.messages)


def test_the_end_of_the_grid_is_noted(report: ProbeReport, here: Path) -> None:
    [result] = report.dense
    mine = result.linear.model_copy(update={"choice": result.linear.choice.model_copy(update={"at_end_of_grid": True})})
    at_end = result.model_copy(update={"subjects": {**result.subjects, "encoder": mine}})
    said = notes(config_of(here, here / "none", probe={}), ProbeReport(results=(), dense=(at_end,)))
    assert f"at an end of the grid for {result.task}: widen probe.l2, which now goes from 0.0001 to 1" in said[-1]


def test_masks_are_looked_at_once_before_the_first_seed_where_no_seed_draws_images(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counting(*given: Any) -> Any:
        looks.append(1)
        return look_at_masks(*given)

    def enough(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.dense.data.look_at_masks", counting)
    monkeypatch.setattr("finetune.probe.probe", enough)
    for limit, expected in ((None, 2), (30, 6)):  # training and test
        looks.clear()
        with pytest.raises(KeyboardInterrupt):
            seeds.probe(config_of(here, tmp_path / f"out-{limit}", seeds=3, data={"limit": limit}))
        assert len(looks) == expected
