"""Pages in Python: what the commands write, with what it says as a typed result."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from retouch.cli import main
from tests.retouch.reporting.runs import probe_result, write_pretraining, write_probe


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    write_pretraining(tmp_path / "runs" / "noisy", method="denoise")
    write_probe(tmp_path / "runs" / "probe", probe_result())
    return [str(tmp_path / "runs" / name) for name in ("noisy", "probe")]


def dated(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d", "TODAY", page)


def test_a_report_is_that_of_the_command_and_says_its_verdict(runs: list[str], tmp_path: Path) -> None:
    found = retouch.report(*runs, out=tmp_path / "python.html")
    assert main(["report", *runs, "-o", str(tmp_path / "command.html")]) == 0
    page = Path(found).read_text(encoding="utf-8")
    assert dated(page) == dated((tmp_path / "command.html").read_text(encoding="utf-8"))
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert found.question.endswith("untrained, on animals?")
    assert found.verdict
    for sentence in (found.question, *found.verdict):
        assert " ".join(html.unescape(re.sub(r"<[^>]+>", "", sentence)).split()) in text
    with pytest.raises(retouch.UserError, match="give a file that ends in"):
        retouch.report(*runs, out=tmp_path / "report.txt")


def test_a_model_card_is_that_of_the_command_and_written_where_asked(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = retouch.model_card(*runs)
    assert main(["report", *runs, "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == str(found).strip()
    assert found.path is None
    written = retouch.model_card(*runs, out=tmp_path / "README.md")
    assert written.path == tmp_path / "README.md"
    assert written.text == written.path.read_text(encoding="utf-8") == found.text


def test_a_page_to_label_in_says_how_many_images_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), Path("encoder"))
    Path("pictures").mkdir()
    for number in range(3):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(f"pictures/{number}.png")
    found = retouch.label("encoder=encoder", "data=pictures", "data.workers=0")
    assert (found.path, found.images) == (Path("label.html"), 3)
    assert "retouch label" in Path(found).read_text(encoding="utf-8")
    with pytest.raises(retouch.UserError, match="labels"):
        retouch.label("encoder=encoder", "data=pictures", "labels=no", out="other.html")
