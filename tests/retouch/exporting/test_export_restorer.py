"""The whole restorer as a file: it restores as the run does, or is refused with what would work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import retouch
from common.corruptions import Gaussian, Holes
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.errors import UserError
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.kept import keep_decoder, read_decoder_card
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import AnyPretext, Colorize, Denoise, Mask, Mixed
from retouch.exporting.export import Exported
from retouch.exporting.restorer import open_restored
from retouch.exporting.settings import ExportConfig
from tests.hub import TOKEN, serving
from tests.retouch.exporting.sample_code import code_of, run_code

SIDE = 16
PRETEXTS: dict[str, AnyPretext] = {
    "denoise": Denoise(corruption=Gaussian(sigma=0.1)),
    "colorize": Colorize(bins=8),
    "mixed": Mixed(),  # with a mask channel
    "mean": Mixed(members=[Holes(fill="mean"), Gaussian(sigma=0.1)]),
    "mask": Mask(),
    "tokens": Mask(),
}
HOLES = ("mixed", "mean", "mask")
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
DAMAGED = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1  # noise is not clipped
HIDDEN = (torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < 0.3).float()
HIDDEN[2] = 0  # one image has no hole


def trained(kind: str, home: Path) -> Path:
    """The folder of a run with its encoder and decoder; the same each time."""
    torch.manual_seed(0)
    pretext, folder = PRETEXTS[kind], home / "mine"
    small = EncoderConfig(model_args={"width": 8, "depth": 1})
    decoder = DecoderConfig(kind="upsampler", width=32)
    if kind == "tokens":
        small = EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=VIT)
        decoder = DecoderConfig(kind="transformer", width=32, depth=1)
    channel = bool(pretext.mask_channel) and kind != "tokens"
    encoder = build_encoder(small, image_size=SIDE, view=pretext.view, mask_channel=channel)
    objective = Objective(encoder, decoder, pretext)
    objective.fit(torch.rand(64, 3, SIDE, SIDE))
    for parameter in objective.decoder.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))  # some start at zero
    source = f"folder:{home}/my pictures"
    training = Provenance(pretext={"kind": pretext.kind}, source=source, levels=None)
    sha256 = export_encoder(encoder, folder / "encoder", training)
    keep_decoder(objective, decoder, folder / "decoder", source=source, encoder_sha256=sha256)
    (folder / "config.yaml").write_text("# retouch pretrain\n")
    return folder


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return trained(request.param, tmp_path)


class Program(NamedTuple):
    """A run, and what its export is when torch opens it."""

    run: Path
    done: Exported
    opened: Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="module")
def program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """Exports, each of which takes a second, for all tests."""

    @cache
    def exported(kind: str) -> Program:
        home = tmp_path_factory.mktemp(kind)
        run = trained(kind, home)
        done = retouch.export(run, *settings(home / "out", "torch"))
        return Program(run, done, torch.export.load(home / "out" / "model.pt2").module())

    return exported


def settings(to: Path, form: str) -> list[str]:
    return [f"to={to}", f"format={form}", "check=4", "output=restorer"]


def given(run: Path) -> list[Tensor]:
    """Damaged images, and their holes where a network of this run fills holes."""
    return [DAMAGED.clamp(0, 1), HIDDEN] if read_decoder_card(run / "decoder").pretext.fills_holes else [DAMAGED]


@torch.no_grad()
def restored(run: Path) -> Tensor:
    """As the run restores pictures: one tile each."""
    return retouch.open_restorer(run)(*given(run))


@pytest.mark.parametrize("kind", ["denoise", "colorize", *HOLES])
@torch.no_grad()
def test_a_program_of_torch_restores_as_the_run_does(kind: str, program_of: Callable[[str], Program]) -> None:
    run, done, program = program_of(kind)
    expected = restored(run)
    for count in (1, 3):
        found = program(*(one[:count] for one in given(run)))["restored"]
        torch.testing.assert_close(found, expected[:count], rtol=1e-4, atol=1e-5)
    assert 0 <= expected.min() < expected.max() <= 1
    assert (done.record.output, done.record.sha256) == ("restorer", read_decoder_card(run / "decoder").sha256)
    assert done.record.facts["outputs"] == ["restored"]
    assert done.max_difference < 1e-4


@pytest.mark.parametrize("run", ["colorize", "mask"], indirect=True)
@torch.no_grad()
def test_an_onnx_file_restores_as_the_run_does(run: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="pip install '.[export]' installs it")
    retouch.export(run, *settings(tmp_path / "out", "onnx"))
    session = ort.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    expected = restored(run)
    names = [one.name for one in session.get_inputs()]
    for count in (1, 3):
        inputs = {name: one[:count].numpy() for name, one in zip(names, given(run), strict=True)}
        [found] = session.run(["restored"], inputs)
        torch.testing.assert_close(torch.from_numpy(found), expected[:count], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("run", ["denoise"], indirect=True)
def test_a_folder_of_timm_holds_no_decoder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is an encoder with its decoder.*; use format=onnx or format=torch or"):
        retouch.export(run, *settings(tmp_path / "out", "timm"))
    with pytest.raises(UserError, match="task and encoder apply to classifiers of probes"):
        retouch.export(run, *settings(tmp_path / "out", "torch"), "task=color")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["colorize", "mask", "tokens"], indirect=True)
def test_a_restorer_is_read_from_the_hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, inputs = restored(run), given(run)
    with serving(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        done = retouch.export(run, *settings(tmp_path / "out", "hub"), "push=me/mine", "license=mit")
        decoder = ("decoder/decoder.json", "decoder/decoder.safetensors")
        assert done.record.files == ("README.md", *decoder, "encoder/config.json", "encoder/model.safetensors")
        assert not [path for path in done.files if str(tmp_path).encode() in path.read_bytes()]
        text = (tmp_path / "out" / "README.md").read_text()
        assert 'restorer = retouch.open_restorer("hf:me/mine")' in text
        assert "pipeline_tag: image-to-image" in text
        run.rename(tmp_path / "elsewhere")
        torch.testing.assert_close(retouch.open_restorer("hf:me/mine")(*inputs), expected)
        assert retouch.load_encoder("hf:me/mine").image_size == SIDE
        hub.add("me/encoder", tmp_path / "elsewhere" / "encoder")
        quiet = ["data=shapes:test:4", "data.workers=0", "wandb.mode=disabled", "precision=float32"]
        ranking = retouch.strange("hf:me/mine", *quiet, f"out={tmp_path / 'strange'}")
        assert ranking.ranked == 4
        for command, settings_of in ((retouch.restore, ["data=shapes:test:4"]), (retouch.strange, quiet)):
            with pytest.raises(UserError, match=r"hf:me/encoder has no decoder, .* output=restorer format=hub"):
                command("hf:me/encoder", *settings_of, f"out={tmp_path / 'other'}")


@pytest.mark.parametrize("run", ["colorize", "mask", "tokens"], indirect=True)
@torch.no_grad()
def test_the_code_in_the_card_restores_and_fills_holes_where_the_run_does(run: Path, tmp_path: Path) -> None:
    retouch.export(run, *settings(tmp_path / "out", "hub"))
    code = code_of(tmp_path / "out", "How to restore pictures")
    images, *hidden = given(run)
    made = run_code(code, images, **dict(zip(("damaged", "hidden"), given(run), strict=False)))
    torch.testing.assert_close(made["restored"], restored(run))
    assert ("hidden" in code) == bool(hidden)


@pytest.mark.parametrize("run", ["denoise"], indirect=True)
def test_a_decoder_without_its_encoder_is_not_put_on_the_hub(run: Path, tmp_path: Path) -> None:
    (run / "encoder").rename(tmp_path / "encoder")
    with pytest.raises(
        UserError, match="is a decoder, and the encoder/ of its run is not next to it; use format=onnx or"
    ):
        retouch.export(run / "decoder", *settings(tmp_path / "out", "hub"))


@pytest.mark.parametrize("kind", HOLES)
@torch.no_grad()
def test_holes_are_filled_whatever_color_they_have_and_the_check_has_holes(
    kind: str, program_of: Callable[[str], Program], tmp_path: Path
) -> None:
    run, done, program = program_of(kind)
    images, hidden = given(run)
    found = program(images, hidden)["restored"]
    torch.testing.assert_close(program(torch.where(hidden > 0, 0.9, images), hidden)["restored"], found)
    subject = open_restored(ExportConfig(run=str(run), to=tmp_path, format="torch", output="restorer"))
    assert 0.1 < float(subject.network.given(images)[1].mean()) < 0.9
    described = (
        "images: float32 [B 3 16 16], RGB in [0, 1]; hidden: float32 [B 1 16 16], 1 where a pixel is to be filled"
    )
    assert str(done.record.facts["input"]).startswith(described)


@pytest.mark.parametrize("run", ["tokens"], indirect=True)
def test_a_network_that_sees_visible_patches_alone_has_no_graph(run: Path, tmp_path: Path) -> None:
    for form in ("torch", "onnx"):
        with pytest.raises(UserError, match=r"its encoder sees only patches without holes.*use format=hub$"):
            retouch.export(run, *settings(tmp_path / "out", form))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run of retouch pretrain, and no other run keeps a decoder"):
        retouch.export(tmp_path, *settings(tmp_path / "out", "torch"))
