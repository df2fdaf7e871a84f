"""One contract for every linear-family method, run through the real stage, and tests of individual methods."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

import pretrain.run as stage
from common.augment import WHOLE
from common.data import Batch
from common.encoders import Encoder
from common.encoders import export as exports
from common.encoders.linear import Linear
from common.encoders.load import load_encoder
from common.encoders.patch_dictionary import PatchDictionary
from common.encoders.sparse_code import SparseCode
from common.errors import UserError
from common.machine.distributed import World
from pretrain.config import PretrainConfig
from pretrain.linear import Cca, Ica, PatchDictionaryFit, SparseCoding, Tca
from pretrain.linear.base import LinearLearner, LinearMethod
from pretrain.linear.moments import CrossMoments, Moments
from pretrain.linear.projection import ProjectionLearner
from pretrain.memory import fit
from pretrain.method import MethodLearner
from pretrain.report.dictionary import most_exciting, upright
from pretrain.results import Pretrained
from pretrain.run import check_sources, pretrain
from tests.pretrain.toys import (
    BATCH,
    EVERY,
    IMAGES,
    NETWORK,
    OTHERS,
    RESUMED,
    SIDE,
    STEPS,
    STREAMING,
    images_of,
    same,
    settings,
)
from tests.recipe import logged
from tests.toys import RandomSource

HERE = World(0, 1, torch.device("cpu"))


class Killed(BaseException):
    """Ends a run at once, like SIGKILL; nothing in the stage may catch it."""


class Finished(NamedTuple):
    out: Path
    result: Pretrained
    fitted: Encoder  # what the stage had in memory when it exported


def run(config: PretrainConfig) -> Finished:
    fitted: list[Encoder] = []
    with pytest.MonkeyPatch.context() as patch:
        export = exports.export_encoder
        patch.setattr(
            stage, "export_encoder", lambda encoder, *rest: (fitted.append(encoder), export(encoder, *rest))[1]
        )
        result = pretrain(config)
    return Finished(config.out, result, fitted[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """``finished(name)``: a method of ``EVERY`` fitted once for all tests."""
    done: dict[str, Finished] = {}

    def get(name: str) -> Finished:
        if name not in done:
            done[name] = run(settings(tmp_path_factory.mktemp(name) / "run", name))
        return done[name]

    return get


def weights(out: Path) -> bytes:
    return (out / "encoder" / "model.safetensors").read_bytes()


Runs = Callable[[str], Finished]


# ---- the contract


@pytest.mark.parametrize("name", EVERY)
def test_a_finished_run_holds_an_encoder_results_and_pictures(name: str, finished: Runs) -> None:
    out, result, _ = finished(name)
    assert result.training.finished
    assert result.encoder == out / "encoder"
    results = json.loads((out / "results.json").read_text())
    pictures = [out / "panels" / f"{picture}.png" for picture in ("atoms", "exciting")]
    if name.startswith("tca"):
        assert not any(path.exists() for path in pictures)
        return
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 40
    assert results["atoms"] > 0
    assert 0 <= results["unused_atoms"] <= results["atoms"]
    assert 0 < results["code"]["nonzeros"] <= results["code"]["code_size"]
    if not name.startswith("patch_dictionary"):
        assert 0 <= results["relative_reconstruction_error"] < 1
        assert list((out / "panels").glob("step-*.png"))


@pytest.mark.parametrize("code", [{"code": "top_k", "top_k": 3}, {"code": "lasso", "l1": 50.0}, {"code": "triangle"}])
def test_the_storage_size_of_a_code_is_measured_on_the_exported_encoder(code: dict[str, Any], tmp_path: Path) -> None:
    values = {"kind": "patch_dictionary", "learn": "random", "network": {**NETWORK, **code}}
    out = run(settings(tmp_path / "run", "patch_dictionary-random", fit=values)).out
    results = json.loads((out / "results.json").read_text())["code"]
    codes = load_encoder(out / "encoder")(images_of("patch_dictionary-random")).flatten(1)
    mean = float((codes != 0).sum(1).double().mean())
    assert results["code_size"] == codes.shape[1]
    assert results["nonzeros"] == pytest.approx(mean, abs=0.01)
    assert results["bytes_dense"] == 4 * codes.shape[1]
    assert results["bytes_sparse"] == pytest.approx(8 * mean, abs=0.1)


@pytest.mark.parametrize("name", EVERY)
def test_the_loaded_encoder_gives_the_features_of_the_fitted_one(name: str, finished: Runs) -> None:
    out, _, fitted = finished(name)
    loaded = load_encoder(out / "encoder")
    images = images_of("")[:5]
    features = loaded(images)
    assert features.shape == (5, *loaded.map_shape)
    assert features.isfinite().all()
    assert torch.equal(features, fitted.eval()(images))
    assert len({tuple(code.flatten().tolist()) for code in features}) == 5
    assert same(loaded, fitted)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in RESUMED])  # the others: by resuming, below
def test_the_same_seed_gives_the_same_encoder_bit_for_bit(name: str, finished: Runs, tmp_path: Path) -> None:
    out, result, _ = finished(name)
    again = run(settings(tmp_path / "run", name))
    assert again.result.sha256 == result.sha256
    assert weights(again.out) == weights(out)


@pytest.mark.parametrize("name", EVERY)
def test_fit_in_memory_gives_the_encoder_of_the_stage(name: str, finished: Runs) -> None:
    config = settings(Path("none"), name).method
    assert isinstance(config, LinearMethod)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    encoder = fit(
        config,
        images_of(name),
        images_of(name, OTHERS[name]) if name in OTHERS else None,
        steps=STEPS if name in STREAMING else None,
        batch_size=BATCH,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert same(encoder, finished(name).fitted)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", STREAMING)
def test_the_loss_falls_from_the_first_epoch_to_the_last(name: str, finished: Runs) -> None:
    losses = [row["loss"] for row in logged(finished(name).out)]
    epoch = IMAGES // BATCH
    assert len(losses) == STEPS
    assert sum(losses[-epoch:]) < 0.98 * sum(losses[:epoch])


# ---- stopped and resumed


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_cut_off_and_resumed_ends_bit_for_bit_the_same(
    name: str, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, cut = LinearLearner.step, 9 if name in STREAMING else 1  # the last checkpoint is from before

    def dying(self: LinearLearner, batch: Batch, number: int) -> Any:
        if number == cut:
            raise Killed
        return step(self, batch, number)

    every = {"every": 4 if name in STREAMING else 1}
    with monkeypatch.context() as patch:
        patch.setattr(LinearLearner, "step", dying)
        with pytest.raises(Killed):
            pretrain(settings(tmp_path / "run", name, checkpoint=every))
    assert not (tmp_path / "run" / "encoder").exists()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    resumed = run(settings(tmp_path / "run", name, checkpoint=every, resume=True))
    assert weights(resumed.out) == weights(finished(name).out)
    assert logged(resumed.out) == logged(finished(name).out)


@pytest.mark.parametrize("name", ["ica", "tca-damage"])
def test_a_method_of_one_sample_is_fitted_again_on_resume(
    name: str, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage, "export_encoder", dying)
        with pytest.raises(Killed):
            pretrain(settings(tmp_path / "run", name))
    resumed = run(settings(tmp_path / "run", name, resume=True))
    assert weights(resumed.out) == weights(finished(name).out)


# ---- principal components


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


# ---- samples


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


# ---- views and domains


def test_neighbors_are_adjacent() -> None:
    config = Cca(components=2, views="neighbors")
    learner: Any = config.build(SIDE, WHOLE, HERE, 0)
    rows, columns = torch.meshgrid(torch.arange(2.0 * SIDE), torch.arange(2.0 * SIDE), indexing="ij")
    images = torch.stack([rows, columns, rows])[None]
    tops = set()
    for seed in range(40):
        torch.manual_seed(seed)
        left, right = learner.views(images, torch.arange(1))
        assert left.shape == right.shape == (1, 3, SIDE, SIDE)
        assert torch.equal(right[:, 0], left[:, 0])
        assert torch.equal(right[:, 1], left[:, 1] + SIDE)
        tops.add(float(left[0, 0, 0, 0]))
    assert min(tops) == 0
    assert max(tops) == SIDE


def test_cca_of_two_views_finds_what_they_share() -> None:
    """One latent variable sets the red level of one view and the blue level of the other; everything else is noise."""
    torch.manual_seed(0)
    shared, noise = torch.rand(400), 0.2 * torch.rand(2, 400, 3, SIDE, SIDE)
    first, second = noise
    first[:, 0] += 0.7 * shared[:, None, None]
    second[:, 2] += 0.7 * shared[:, None, None]
    encoder = fit(Cca(components=1, views="other"), first, second)
    code = encoder(first).flatten()
    assert abs(float(torch.corrcoef(torch.stack([code, shared]))[0, 1])) > 0.95


def test_sources_of_unequal_length_are_refused_as_pairs(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", "cca-other")
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": 20})})
    check_sources(config, [RandomSource(40), RandomSource(40)])
    with pytest.raises(UserError) as caught:  # twenty of each, but not the same twenty
        check_sources(config, [RandomSource(40), RandomSource(30)])
    assert str(caught.value) == "fit.kind=cca pairs images by row, but noise has 40 rows and noise has 30"


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


@pytest.mark.parametrize("name", ["tca-damage", "tca-other"])
def test_tca_reports_the_discrepancy_of_the_domains_before_and_after(name: str, finished: Runs) -> None:
    told = json.loads((finished(name).out / "results.json").read_text())["maximum_mean_discrepancy"]
    assert {"pixels", "kernel_pca", "tca"} <= told.keys()
    assert all(0 <= value <= 2 for value in told.values())
    assert told["tca"] < told["kernel_pca"]  # the same kernel code, ignoring the domains


def test_the_problems_tca_solves_do_not_grow_with_the_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or solve(matrix))
    images = images_of("", limit=30)
    fit(Tca(components=4, landmarks=20), images, 1 - images)
    assert len(sizes) == 3  # TCA, kernel PCA, and PCA of the 60 images that are compared
    assert max(sizes) == 60 < 3 * SIDE**2


def test_tca_can_have_more_components_than_directions_in_which_pixels_vary() -> None:
    """Gray images of 8 px vary in 64 directions; their kernel features in more."""
    images = images_of("").mean(1, keepdim=True).expand(-1, 3, -1, -1)
    encoder = fit(Tca(components=70, landmarks=80), images, 1 - images)
    assert encoder(images[:4]).shape == (4, 70, 1, 1)


# ---- dictionaries


@pytest.mark.parametrize("mirror", [True, False], ids=["mirror", "plain"])
def test_patches_that_excite_an_atom_are_shown_in_its_orientation(mirror: bool) -> None:
    config = PatchDictionaryFit.model_validate({"learn": "random", "network": {**NETWORK, "mirror": mirror}})
    images = images_of("")
    learner = config.build(SIDE, WHOLE, HERE, 0)
    encoder = learner.encoder
    learner.initialize(images)
    assert isinstance(encoder, PatchDictionary)
    explained = learner.explain(images)
    assert explained is not None
    turned = upright(explained)
    _, shown = most_exciting(turned, turned.codes.abs().mean(0))
    order = turned.codes.abs().mean(0).argsort(descending=True)[: len(shown)]
    # by hand: every window, and its mirror image, against an atom or its negative
    windows = torch.cat([images[:, :, y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)])
    windows = torch.cat([windows, windows.flip(3)]) if mirror else windows

    def responses(patches: Tensor) -> Tensor:
        white = (encoder.patches(patches)[:, 0] - encoder.patch_mean) @ encoder.whiten
        return white @ encoder.dictionary.T

    z = responses(windows)
    soft = z.sign() * (z.abs() - encoder.args.threshold).clamp_min(0)
    for atom, patches in zip(order.tolist(), shown, strict=True):
        sign = 1 if soft[:, atom].sum() > 0 else -1
        best = (sign * z[:, atom]).sort(descending=True).values[: len(patches)]
        torch.testing.assert_close(sign * responses(patches)[:, atom], best, rtol=1e-4, atol=1e-4)


def dictionary(config: SparseCoding, steps: int = 12) -> Tensor:
    encoder = fit(config, images_of(""), steps=steps, batch_size=BATCH)
    assert isinstance(encoder, SparseCode)
    return encoder.dictionary


@pytest.mark.parametrize("penalty", ["l1", "l0", "atoms"])
def test_atoms_have_unit_norm_without_gamma(penalty: Any) -> None:
    norms = dictionary(SparseCoding(atoms=24, penalty=penalty, strength=0.05, top_k=4)).norm(dim=0)
    torch.testing.assert_close(norms, torch.ones(24), atol=1e-5, rtol=0)


def test_gamma_leaves_the_norm_of_atoms_free_and_shrinks_them() -> None:
    norms = [dictionary(SparseCoding(atoms=24, strength=0.5, gamma=gamma)).norm(dim=0) for gamma in (1e-3, 1e-2, 1e-1)]
    assert all(float(one.max() - one.min()) > 1e-3 for one in norms)
    means = [float(one.square().sum()) for one in norms]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("kind", ["sparse_coding", "kmeans"])
def test_an_atom_that_no_image_uses_is_replaced(kind: str) -> None:
    """Gray images never excite an atom of pure color."""
    config: SparseCoding | PatchDictionaryFit = SparseCoding(atoms=24, strength=0.05)
    if kind == "kmeans":
        config = PatchDictionaryFit.model_validate({"network": NETWORK, "patches": 32})
    images = images_of("").mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    learner = config.build(SIDE, WHOLE, HERE, 0)
    encoder = learner.encoder
    learner.initialize(images)
    assert isinstance(encoder, (SparseCode, PatchDictionary))
    atoms = encoder.dictionary if isinstance(encoder, SparseCode) else encoder.dictionary.T  # views, [d h]
    color = torch.zeros(3, len(atoms) // 3)
    color[0], color[1] = 1, -1
    color = color.flatten() / color.norm()
    atoms[:, 0] = color
    rows = torch.arange(len(images))
    for step in range(9):
        _, told = learner.learn(images, step, rows)
        assert int(told["unused_atoms"]) == 1
        assert float(atoms[:, 0] @ color) == pytest.approx(1, abs=1e-5)
    learner.learn(images, 9, rows)
    assert abs(float(atoms[:, 0] @ color)) < 0.1
    assert float(atoms[:, 0].norm()) == pytest.approx(1, abs=1e-5)
    _, told = learner.learn(images, 10, rows)
    assert int(told["unused_atoms"]) == 0


def test_images_without_any_structure_are_a_user_error() -> None:
    flat = torch.full((40, 3, SIDE, SIDE), 0.5)
    with pytest.raises(UserError, match=r"fit.kind=sparse_coding: 24 atoms are unused, but all candidate rows"):
        fit(SparseCoding(atoms=24), flat, steps=10)


def test_tca_is_fitted_even_if_domains_are_too_similar_to_compare() -> None:
    images = torch.rand(100, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    alike = torch.cat([images[:1].expand(80, -1, -1, -1), images[80:]])  # most distances are zero
    encoder = fit(Tca(components=2, landmarks=20, kernel="linear"), alike, alike.flip(0))
    assert encoder(images).isfinite().all()
