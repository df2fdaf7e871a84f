"""The whole restorer as a file: it restores as the run does, or is refused with what would work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import retouch
from common.corruptions import Gaussian
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.errors import UserError
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.kept import keep_decoder, read_decoder_card
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import AnyPretext, Colorize, Denoise, Mask, Mixed

SIDE = 16
PRETEXTS: dict[str, AnyPretext] = {
    "denoise": Denoise(corruption=Gaussian(sigma=0.1)),
    "colorize": Colorize(bins=8),
    "mixed": Mixed(),  # with a mask channel
    "mask": Mask(),
}
DAMAGED = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1  # noise is not clipped


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a run with its encoder and decoder."""
    torch.manual_seed(0)
    pretext, folder = PRETEXTS[request.param], tmp_path / "mine"
    small = EncoderConfig(model_args={"width": 8, "depth": 1})
    encoder = build_encoder(small, image_size=SIDE, view=pretext.view, mask_channel=bool(pretext.mask_channel))
    decoder = DecoderConfig(kind="upsampler", width=32)
    objective = Objective(encoder, decoder, pretext)
    objective.fit(torch.rand(64, 3, SIDE, SIDE))
    for parameter in objective.decoder.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))  # some start at zero
    training = Provenance(pretext={"kind": pretext.kind}, source="shapes", levels=None)
    sha256 = export_encoder(encoder, folder / "encoder", training)
    keep_decoder(objective, decoder, folder / "decoder", source="shapes", encoder_sha256=sha256)
    (folder / "config.yaml").write_text("# retouch pretrain\n")
    return folder


def settings(to: Path, form: str) -> list[str]:
    return [f"to={to}", f"format={form}", "check=4", "output=restorer"]


@torch.no_grad()
def restored(run: Path) -> Tensor:
    """As the run restores pictures: one tile each."""
    return retouch.open_restorer(run)(DAMAGED)


@pytest.mark.parametrize("run", ["denoise", "colorize", "mixed"], indirect=True)
@torch.no_grad()
def test_a_program_of_torch_restores_as_the_run_does(run: Path, tmp_path: Path) -> None:
    done = retouch.export(run, *settings(tmp_path / "out", "torch"))
    program, expected = torch.export.load(tmp_path / "out" / "model.pt2").module(), restored(run)
    torch.testing.assert_close(program(DAMAGED)["restored"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(program(DAMAGED[:1])["restored"], expected[:1], rtol=1e-4, atol=1e-5)
    assert 0 <= expected.min() < expected.max() <= 1
    assert (done.record.output, done.record.sha256) == ("restorer", read_decoder_card(run / "decoder").sha256)
    assert done.record.facts["outputs"] == ["restored"]
    assert done.max_difference < 1e-4


@pytest.mark.parametrize("run", ["denoise", "colorize"], indirect=True)
@torch.no_grad()
def test_an_onnx_file_restores_as_the_run_does(run: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="pip install 'retouch[export]' installs it")
    retouch.export(run, *settings(tmp_path / "out", "onnx"))
    session = ort.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    expected = restored(run)
    for count in (1, 3):
        [found] = session.run(["restored"], {"images": DAMAGED[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected[:count], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("run", ["denoise"], indirect=True)
def test_folders_of_encoders_hold_no_decoder(run: Path, tmp_path: Path) -> None:
    for form in ("timm", "hub"):
        with pytest.raises(UserError, match=r"it is an encoder with its decoder.*; use format=onnx or format=torch$"):
            retouch.export(run, *settings(tmp_path / "out", form))
    with pytest.raises(UserError, match="task and encoder: of the classifiers of probes"):
        retouch.export(run, *settings(tmp_path / "out", "torch"), "task=color")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["mask"], indirect=True)
def test_what_has_to_be_told_of_holes_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fills holes, .* use retouch restore or retouch.open_restorer"):
        retouch.export(run, *settings(tmp_path / "out", "torch"))
    with pytest.raises(UserError, match="is not a run of retouch pretrain, and no other run keeps a decoder"):
        retouch.export(tmp_path, *settings(tmp_path / "out", "torch"))
