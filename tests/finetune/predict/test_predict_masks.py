"""Predicted masks: what the probe was tested on, as files at the paths of the images and as large as these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import retouch
from common.data import build_source, load_images
from common.data.masks import find_masks, read_mask
from common.errors import UserError
from common.pixels import to_float
from finetune.classifier import open_classifier
from finetune.dense.cells import mean_iou, overlaps
from finetune.predict import run as stage
from finetune.predict.masks import laid_over
from finetune.predict.run import predict
from finetune.probe import probe
from finetune.results import ProbeReport, read_results
from tests.finetune.dense.masked_pictures import SIZE, exported, pictures
from tests.finetune.dense.masked_pictures import config_of as probing
from tests.finetune.predict.runs import config_of, rows_of

N = 12  # test images


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with masks of the numbers 0, 1 and 2, 16 px high and 20 wide, and a probe of them."""
    folder = tmp_path_factory.mktemp("masks")
    exported(folder / "encoder")
    pictures(folder / "train", 40, 0)
    pictures(folder / "test", N, 1)
    quick: dict[str, Any] = {"null_check": False, "properties": False}
    quick["baselines"] = {"random_init": False, "pixels": False}
    probe(probing(folder, folder / "run", **quick), show=False)
    return folder


def predicted(here: Path, out: Path, **changes: Any) -> stage.PredictResult:
    data = {"source": str(here / "test" / "images"), "limit": None}
    return predict(config_of(out, here / "run", data=data, **changes))


def mask_of(path: Path) -> NDArray[np.uint8]:
    return read_mask(Image.open(path))


def test_masks_are_those_that_were_tested(here: Path, tmp_path: Path) -> None:
    found, report = predicted(here, tmp_path / "out"), read_results(here / "run")
    assert isinstance(report, ProbeReport)
    [result] = report.dense
    counts = []
    for number in range(N):
        said = mask_of(tmp_path / "out" / "masks" / f"{number}.png")
        true = mask_of(here / "test" / "masks" / f"{number}.png")
        assert said.shape == true.shape == (SIZE, SIZE + 4)
        assert set(np.unique(said[:, [0, 1, -2, -1]])) == {255}  # the network sees the central square
        middle = [torch.from_numpy(one[:, 2:-2].astype(np.int64))[None] for one in (said, true)]
        counts.append(overlaps(middle[0], torch.where(middle[1] == 255, -1, middle[1]), 3))
    assert float(mean_iou(torch.cat(counts).sum(0))) == pytest.approx(result.subjects["encoder"].test.mean_iou)
    assert (found.answers, found.classes, found.numbers, found.outside) == (
        "mask", ("ground", "red", "blue"), (0, 1, 2), 255,
    )  # fmt: skip


def test_the_table_has_the_file_and_the_share_of_each_class(here: Path, tmp_path: Path) -> None:
    found = predicted(here, tmp_path / "out")
    rows, shown = rows_of(found.path), [0, 0, 0]
    for row in rows:
        mask = mask_of(tmp_path / "out" / row["mask"])[:, 2:-2]
        shares = [float((mask == number).mean()) for number in range(3)]
        assert [float(row[f"share({name})"]) for name in found.classes] == pytest.approx(shares, abs=1e-6)
        shown = [count + (share > 0) for count, share in zip(shown, shares, strict=True)]
    assert list(found.counts.values()) == shown
    assert json.loads((tmp_path / "out" / "results.json").read_text())["answers"] == "mask"
    assert not (tmp_path / "out" / "parts").exists()


def test_masks_can_be_read_as_masks(here: Path, tmp_path: Path) -> None:
    predicted(here, tmp_path / "out")
    images = build_source(str(here / "test" / "images"))
    assert len(find_masks(images, str(tmp_path / "out" / "masks"), "test", "data.masks")) == N


def test_half_written_masks_of_a_killed_run_are_removed(here: Path, tmp_path: Path) -> None:
    first = predicted(here, tmp_path / "out")
    half = tmp_path / "out" / "masks" / "deep" / ".a.png.1.tmp"
    half.parent.mkdir()
    half.write_bytes(b"half")
    assert predicted(here, tmp_path / "out", resume=True) == first
    assert not half.exists()


def test_masks_do_not_depend_on_the_batch_or_the_room(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted(here, tmp_path / "one")
    monkeypatch.setattr("finetune.dense.cells.ROOM", 3 * SIZE * SIZE)  # one image at a time
    predicted(here, tmp_path / "two", batch_size=5)
    for name in [f"masks/{number}.png" for number in range(N)]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_unreadable_image_has_no_mask(here: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for number in range(3):
        (tmp_path / "new" / f"{number}.png").write_bytes((here / "test" / "images" / f"{number}.png").read_bytes())
    (tmp_path / "new" / "1.png").write_bytes(b"none")
    found = predict(config_of(tmp_path / "out", here / "run", data={"source": str(tmp_path / "new"), "limit": None}))
    assert (found.rows, found.unreadable) == (3, 1)
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["0.png", "2.png"]
    assert set(rows_of(found.path)[1].values()) == {str(tmp_path / "new" / "1.png"), ""}


@pytest.mark.parametrize(("size", "left", "top"), [((9, 4), 2, 0), ((4, 9), 0, 2), ((8, 8), 0, 0)])
def test_a_square_is_laid_over_the_middle_of_its_image(size: tuple[int, int], left: int, top: int) -> None:
    mask = np.array([[1, 2], [3, 4]], np.uint8)
    found, half = np.asarray(laid_over(mask, size, 7)), min(size) // 2
    assert found.shape == size[::-1]
    square = found[top : top + 2 * half, left : left + 2 * half]
    assert (square == np.kron(mask, np.ones((half, half)))).all()
    assert (found == 7).sum() == size[0] * size[1] - square.size


def test_what_masks_do_not_have_is_refused(here: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        predicted(here, tmp_path / "out", top=2, threshold=0.5)
    assert [one.partition(" ")[0] for one in told.value.problems] == ["top", "threshold"]
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_an_export_gives_the_logits_of_each_pixel(here: Path, tmp_path: Path) -> None:
    done = retouch.export(here / "run", f"to={tmp_path / 'out'}", "format=onnx", "check=4")
    ort = pytest.importorskip("onnxruntime")
    images = to_float(load_images(build_source(str(here / "test" / "images")), SIZE).rows(torch.arange(3)))
    [found] = ort.InferenceSession(str(tmp_path / "out" / "model.onnx")).run(None, {"images": images.numpy()})
    expected = open_classifier(here / "run")(images)
    assert expected.shape == (3, 3, SIZE, SIZE)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
    assert done.record.facts["class_numbers"] == [0, 1, 2]
