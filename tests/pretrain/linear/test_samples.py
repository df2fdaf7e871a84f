"""Which images a fit sees, and principal components of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

from common.encoders.linear import Linear
from pretrain.linear import Ica
from pretrain.linear.moments import CrossMoments, Moments
from pretrain.linear.projection import ProjectionLearner
from pretrain.method import MethodLearner
from pretrain.run import pretrain
from tests.pretrain.toys import (
    EVERY,
    IMAGES,
    SIDE,
    images_of,
    run,
    settings,
)


def test_pca_equals_scikit_learn_up_to_sign(tmp_path: Path) -> None:
    count = 100  # not a multiple of the batch
    data = {"source": "photos", "image_size": SIDE, "limit": count, "workers": 0}
    encoder = run(settings(tmp_path / "run", "pca", data=data)).fitted
    assert isinstance(encoder, Linear)
    images = images_of("", limit=count)
    reference = PCA(8, svd_solver="full").fit(images.flatten(1).double().numpy())
    components = torch.from_numpy(reference.components_)
    own = encoder.code.weight.double()
    sign = (own * components).sum(1, keepdim=True).sign()
    torch.testing.assert_close(own * sign, components, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder.centre.double(), torch.from_numpy(reference.mean_), atol=1e-6, rtol=0)
    codes = torch.from_numpy(reference.transform(images.flatten(1).double().numpy()))
    torch.testing.assert_close(encoder(images).flatten(1).double() * sign.T, codes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["pca", "cca-damage"])
@pytest.mark.parametrize("batch_size", [32, 33, 97, 250])
def test_one_epoch_counts_every_image_once_for_any_batch_size(
    name: str, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    for kind in (Moments, CrossMoments):

        def spy(self: Any, x: Tensor, *rest: Tensor, add: Any = kind.add) -> None:
            seen.append(x)
            add(self, x, *rest)

        monkeypatch.setattr(kind, "add", spy)
    pretrain(settings(tmp_path / "run", name, batch_size=batch_size))
    rows = torch.cat([x for x in seen if x.shape[1] == 3 * SIDE**2])
    assert sorted(map(bytes, rows.numpy())) == sorted(map(bytes, images_of("").flatten(1).numpy()))


def test_the_sample_of_ica_is_drawn_by_the_seed() -> None:
    config = Ica(components=4, sample=50)
    drawn = [config.sample_rows(1000, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for rows in drawn:
        assert len(set(rows)) == 50
        assert 0 <= min(rows) < 100
        assert 900 <= max(rows) < 1000
        assert rows == sorted(rows)
    assert config.sample_rows(30, 0).tolist() == list(range(30))


def test_ica_says_how_large_its_sample_is_and_depends_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[Tensor] = []
    monkeypatch.setattr("pretrain.linear.ica.ica", lambda rows, *rest, **more: samples.append(rows) or 1 / 0)
    caplog.set_level(logging.INFO, logger="retouch")
    for name, seed in (("a", 0), ("b", 1)):
        values = {**EVERY["ica"], "sample": 40}
        with pytest.raises(ZeroDivisionError):
            pretrain(settings(tmp_path / name, "ica", fit=values, seed=seed))
        assert f"fit.kind=ica is fitted on a sample of 40 images (seed {seed})" in caplog.messages
    assert [len(rows) for rows in samples] == [40, 40]
    assert not torch.equal(*samples)


@pytest.mark.parametrize("name", ["ica", "tca-damage"])
def test_the_report_sees_all_of_a_sorted_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.sample.SAMPLE_BYTES", 8 * 3 * SIDE**2 * 4)
    reported: list[Tensor] = []
    for learner in (ProjectionLearner, MethodLearner):
        monkeypatch.setattr(learner, "explain", lambda self, images: reported.append(images))
    pretrain(settings(tmp_path / "run", name))
    [shown], everything = reported, images_of("")
    places = [int((everything - image).flatten(1).abs().sum(1).argmin()) for image in shown]
    assert len(places) == 8
    assert places[0] < 15
    assert places[-1] > IMAGES - 15


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("name", ["pca", "ica", "cca-other"])
def test_fits_are_those_of_a_source_without_its_unreadable_images(tmp_path: Path, name: str, cache: str) -> None:
    """Broken images come in runs; a pair goes with either of its images."""
    random = torch.Generator().manual_seed(0)
    for index in range(60):
        for side, broken in (("a", range(20, 30)), ("b", range(25, 35))):
            noise = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=random).numpy()
            for kind in ("clean", "spoiled"):
                path = tmp_path / kind / side / f"{index:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                gone = index in broken if name != "cca-other" else 20 <= index < 35
                if kind == "spoiled" and index in broken:
                    path.write_bytes(b"no picture")
                elif not (kind == "clean" and gone):
                    Image.fromarray(noise).save(path)
    weights = []
    for kind in ("clean", "spoiled"):
        data: dict[str, Any] = {"source": f"folder:{tmp_path / kind / 'a'}", "image_size": SIDE, "workers": 0}
        data |= {"other": f"folder:{tmp_path / kind / 'b'}"} if name == "cca-other" else {}
        done = pretrain(settings(tmp_path / kind / "run", name, data={**data, "cache": cache}))
        assert done.encoder is not None
        weights.append((done.encoder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
