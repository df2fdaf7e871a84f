"""Exports that are refused, with what would work, and nothing written or overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.encoders.export import export_encoder
from common.errors import UserError
from retouch.exporting import formats
from retouch.exporting.check import Check, Difference, refuse_apart
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import open_subject
from tests.retouch.exporting.networks import KINDS, Kind, settings

pytest.importorskip("onnxruntime", reason="pip install '.[export]' installs it")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_format_that_cannot_hold_a_network_is_refused_with_those_that_can(kind: Kind, tmp_path: Path) -> None:
    export_encoder(kind.build(), tmp_path / "encoder")
    able = [*(["timm"] if kind.timm else []), *(["onnx", "torch"] if kind.graph else []), "hub"]
    subject = open_subject(ExportConfig(run=str(tmp_path / "encoder"), to=tmp_path, format="hub"))
    for name, one in formats.FORMATS.items():
        assert bool(one.refusal(subject)) == (name not in able), name
    for form in formats.FORMATS.keys() - set(able):
        with pytest.raises(UserError) as raised:
            retouch.export(tmp_path / "encoder", *settings(tmp_path / "out", form))
        assert f"format={form} cannot hold this network" in str(raised.value)
        assert str(raised.value).endswith("use " + " or ".join(f"format={one}" for one in able))
    assert not (tmp_path / "out").exists()


def test_an_export_that_computes_something_else_is_not_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retouch.export(encoder, *settings(tmp_path / "out", "torch"))
    before = (tmp_path / "out" / "model.pt2").read_bytes()
    opened = formats.TorchProgram.opened

    def wrong(self: Any, subject: Any, folder: Path) -> Any:
        run = opened(self, subject, folder)
        return lambda images: {name: 1.01 * values for name, values in run(images).items()}

    monkeypatch.setattr(formats.TorchProgram, "opened", wrong)
    with pytest.raises(
        UserError, match=r"differs from the network in torch: features by up to \S+ \(RMS \S+\) on 8 images"
    ):
        retouch.export(encoder, *settings(tmp_path / "out", "torch", "overwrite=true"))
    assert (tmp_path / "out" / "model.pt2").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "out"]


def test_an_export_that_is_not_finite_is_not_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        formats.HubFolder, "opened", lambda *_: lambda images: {"features": torch.full((len(images), 32), float("nan"))}
    )
    with pytest.raises(UserError, match="features of the export, or of the network itself, is not finite"):
        retouch.export(encoder, *settings(tmp_path / "out", "hub"))
    assert not (tmp_path / "out").exists()


def test_a_difference_is_measured_by_the_size_of_the_output() -> None:
    def check(largest: float, scale: float) -> Check:
        difference = Difference(output="features", largest=largest, scale=scale)
        return Check(images=1, source="shapes", real=False, differences=(difference,))

    refuse_apart(check(0.0, 0.0), "onnx")
    refuse_apart(check(0.9e-4, 1.0), "onnx")
    refuse_apart(check(0.9e-2, 100.0), "onnx")
    for far in (check(1.1e-4, 1.0), check(0.9e-4, 0.5)):
        with pytest.raises(UserError, match="differs"):
            refuse_apart(far, "onnx")


def test_packages_that_are_missing_are_named(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(UserError) as raised:
        retouch.export(encoder, *settings(tmp_path / "out", "onnx"))
    said = "format=onnx needs onnx, onnxscript, onnxruntime; install them: pip install '.[export]' in your copy of the "
    assert str(raised.value) == f"{said}repository"


def test_nothing_is_overwritten(encoder: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    for more in ((), ("overwrite=true",)):
        with pytest.raises(UserError, match=r"to: \S+ contains other files \(mine.txt\); name a new folder"):
            retouch.export(encoder, *settings(to, "torch", *more))
    (to / "mine.txt").unlink()
    retouch.export(encoder, *settings(to, "torch"))
    with pytest.raises(UserError, match="contains an earlier export; name a new folder, or set overwrite=true"):
        retouch.export(encoder, *settings(to, "hub"))
    retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    assert sorted(path.name for path in to.iterdir()) == [
        "README.md",
        "config.json",
        "export.json",
        "model.safetensors",
    ]
    (to / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains other files too \(mine.txt\)"):
        retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    (to / "mine.txt").unlink()
    (to / "export.json").write_text('{"retouch_export": 1')
    with pytest.raises(UserError, match="is damaged"):
        retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    with pytest.raises(UserError, match="is a file"):
        retouch.export(encoder, *settings(to / "export.json", "hub"))


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retouch.exporting.export.compared", lambda *given: pytest.fail("computed"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for to, message in (("file/out", "is a file"), ("link", "is a link"), ("x" * 300, "longer than this file system")):
        with pytest.raises(UserError, match=f"to: .*{message}"):
            retouch.export(encoder, *settings(tmp_path / to, "torch"))
    assert list((tmp_path / "folder").iterdir()) == []


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as raised:
        retouch.export(tmp_path / "none", f"to={tmp_path / 'file'}", "format=onnx")
    assert [line.rpartition(": ")[2] for line in raised.value.lines] == [
        "no such folder; use the folder of a finished run",
        f"{tmp_path / 'file'} is a file; choose a folder",
    ]
    with pytest.raises(UserError) as raised:
        retouch.export("run", "to=out", "format=onnx", "push=me", "token=hf_x", "license=My own", "check=0")
    said = str(raised.value)
    assert (
        "token: tokens are not settings and are never stored: log in once with `hf auth login`, or set HF_TOKEN" in said
    )
    assert "check: input should be greater than or equal to 1" in said
    with pytest.raises(UserError) as raised:
        retouch.export("run", "to=out", "format=onnx", "push=me", "license=My own")
    said = str(raised.value)
    assert "license, push: only for the Hub; set format=hub, or remove license, push" in said
    assert "push: 'me' does not have the form USER/NAME" in said
    assert "license: 'My own' is not an identifier of the Hub" in said
