"""Common mistakes with methods of the linear family: what is typed, and the exact message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.retouch.mistakes.stages import HOLE_OF_AN_IMAGE, ROOT, assert_told

KINDS = "pca, ica, cca, tca, sparse_coding, patch_dictionary"
ONE_ERROR = "Found 1 error in {config}:"
FIT_MISTAKES = [
    pytest.param(
        "pca",
        ["fit.kind=pcaa"],
        [ONE_ERROR, f"  fit.kind: unknown kind 'pcaa'; did you mean 'pca'?; one of {KINDS}"],
        id="unknown-kind",
    ),
    pytest.param(
        "pca",
        ["fit.component=8"],
        [ONE_ERROR, "  fit.component: unknown key; did you mean 'components'?"],
        id="unknown-key",
    ),
    pytest.param(
        "pca",
        ["encoder.name=mlp", "penalty.l1=0.1"],
        [
            "Found 2 errors in {config}:",
            "  encoder: only autoencoders, which are trained by gradient descent, use it: remove it, or remove `fit`",
            "  penalty: only autoencoders, which are trained by gradient descent, use it: remove it, or remove `fit`",
        ],
        id="encoder-beside-fit",
    ),
    pytest.param(
        "pca",
        ["steps=10", "precision=bfloat16"],
        [
            "Found 2 errors in {config}:",
            "  precision: only autoencoders, which are trained by gradient descent, use it: remove it, or remove `fit`",
            "  fit.kind=pca makes exactly one pass: remove steps; remove epochs or set epochs=1",
        ],
        id="several-settings-without-use",
    ),
    pytest.param(
        "pca",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=pca makes exactly one pass: remove steps; remove epochs or set epochs=1"],
        id="one-pass-with-steps",
    ),
    pytest.param(
        "ica",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=ica is fitted on one sample: remove steps; remove epochs or set epochs=1"],
        id="one-sample-with-steps",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}"],
        [ONE_ERROR, "  fit.views=other needs data.other, the second view"],
        id="second-view-not-given",
    ),
    pytest.param(
        "cca",
        ["fit.views=neighbors"],
        [ONE_ERROR, "  fit: damage needs views=damage, not views=neighbors: remove it"],
        id="damage-of-another-view",
    ),
    pytest.param(
        "pca",
        ["data.other=shapes"],
        [ONE_ERROR, "  fit.kind=pca does not use data.other: remove it"],
        id="second-source-without-use",
    ),
    pytest.param(
        "denoise",
        ["data.other=shapes"],
        [ONE_ERROR, "  pretext.kind=denoise does not use data.other: remove it"],
        id="second-source-without-fit",
    ),
    pytest.param(
        "tca",
        ["fit={kind: tca}"],
        [ONE_ERROR, "  fit.kind=tca needs a second domain: set data.other, or damage the first (fit.damage)"],
        id="second-domain-not-given",
    ),
    pytest.param(
        "tca",
        ["fit.components=64", "fit.landmarks=33"],
        [ONE_ERROR, "  fit: components is 64, but there are only 32 landmarks: lower it"],
        id="more-components-than-landmarks",
    ),
    pytest.param(
        "tca",
        ["data.limit=300"],
        ["fit.landmarks=1000 needs 500 images per domain, but there are 300: lower it"],
        id="more-landmarks-than-images",
    ),
    *(
        pytest.param(
            kind,
            ["fit.damage={kind: holes, size: 32}", "data.image_size=32"],
            [f"fit.damage: {HOLE_OF_AN_IMAGE}"],
            id=f"hole-as-large-as-the-image-{kind}",
        )
        for kind in ("cca", "tca")
    ),
    pytest.param(
        "sparse_coding",
        ["fit.penalty=l0", "fit.gamma=0.1"],
        [ONE_ERROR, "  fit: gamma needs penalty=l1; with penalty=l0 atoms have unit norm: remove it"],
        id="gamma-with-l0",
    ),
    pytest.param(
        "sparse_coding_l0",
        ["fit.penalty=atoms", "fit.atoms=16", "fit.top_k=20"],
        [ONE_ERROR, "  fit: top_k is 20, but there are only 16 atoms: lower it"],
        id="top-k-beyond-atoms",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.network.atoms=7"],
        [ONE_ERROR, "  fit.network: mirror needs an even number of atoms, not 7"],
        id="odd-atoms-mirrored",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.learn=pca"],
        [
            "Found 2 errors in {config}:",
            "  fit: learn=pca finds atoms that are mirror images of themselves or of each other, so mirroring "
            "adds none: set fit.network.mirror=false",
            "  fit: learn=pca finds at most 108 atoms of 6 px patches: lower fit.network.atoms",
        ],
        id="more-components-than-a-patch-has-numbers",
    ),
    pytest.param(
        "pca",
        ["data.image_size=8", "fit.components=200"],
        [
            "fit.components=200: images of 8 px have 192 values and allow no more components; lower it, or raise "
            "data.image_size"
        ],
        id="more-components-than-an-image-has-numbers",
    ),
    pytest.param(
        "pca",
        ["data.image_size=8", "fit.components=200", "data.source=folder:nowhere", "out=full"],
        [
            "folder:nowhere: no such folder: {here}/nowhere",
            "fit.components=200: images of 8 px have 192 values and allow no more components; lower it, or raise "
            "data.image_size",
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
        ],
        id="components-and-source",
    ),
    pytest.param(
        "tca",
        ["fit={kind: tca}", "data.source=folder:nowhere", "data.other=folder:empty"],
        ["folder:nowhere: no such folder: {here}/nowhere", "folder:empty: the folder is empty: {here}/empty"],
        id="both-sources",
    ),
    pytest.param(
        "cca",
        ["data.limit=50"],
        [
            "fit.components=64 needs at least 65 images, but there are 50; lower it, or use more (data.source, "
            "data.limit)"
        ],
        id="more-components-than-images",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}", "data.other=shapes:test"],
        ["fit.kind=cca pairs images by row, but shapes:train:20000 has 20,000 rows and shapes:test:4000 has 4,000"],
        id="pairs-of-unequal-sources",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "lines"), FIT_MISTAKES)
def test_mistake_with_a_fit_gives_a_plain_message(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, overrides: list[str], lines: list[str]
) -> None:
    config = str(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    assert_told(here, capsys, "pretrain", config, ["out=run", "wandb.mode=disabled", *overrides], lines)
