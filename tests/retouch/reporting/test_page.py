"""The page: what is in it and in which order, that it needs nothing else and is safe, and the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.data.originals import Originals, Sizes
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.readme import plain
from common.errors import UserError
from common.files import write_json
from finetune.lines import probe_lines
from finetune.predictions import Predictions
from finetune.records import GENERATED, Calibration
from finetune.results import ProbeResult
from pretrain.gradient.example import Example
from pretrain.report.panels import panel, panel_images
from retouch.cli import main
from retouch.reporting.blocks import Prose, Table
from retouch.reporting.card import card
from retouch.reporting.page import html, write_report
from retouch.reporting.parts import page_parts
from retouch.reporting.pictures import Confused, confused_rows
from retouch.reporting.reading import read_facts
from retouch.reporting.run_tables import NONE, labeled_tables
from retouch.reporting.sentences import LEGEND
from retouch.reporting.tables import baseline_table
from tests.common.data.samples import picture
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import (
    EVIL,
    LABELS,
    facts_of,
    probe_result,
    write_finetuning,
    write_pretraining,
    write_probe,
)

ORDER = [
    *("choices", "results", "baselines", "layers", "errors", "training", "restored", "atoms", "data", "damage", "code"),
    *("cost", "repeat", "limits"),
]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """One run of every stage, with all that a report can show."""
    sheet = Image.new("RGB", (40, 40), "white")
    pretraining = write_pretraining(tmp_path / "denoise", panel=sheet)
    sheet.save(pretraining / "panels" / "atoms.png")
    return [
        pretraining,
        write_probe(tmp_path / "linear-1", probe_result(damage=["gray"], code=True)),
        write_finetuning(tmp_path / "full-1"),
    ]


def test_parts_are_in_order_and_there_only_where_their_facts_are(runs: list[Path]) -> None:
    assert Page(html(read_facts(runs))).sections == ORDER
    alone = Page(html(read_facts(runs[:1])))
    assert alone.sections == ["training", "restored", "atoms", "data", "code", "cost", "repeat"]
    assert "The size of the code" in alone.said
    assert "Abstract:" not in alone.said
    assert Page(html(read_facts(runs[2:]))).sections == [
        "choices",
        "results",
        "errors",
        "training",
        "data",
        "cost",
        "repeat",
        "limits",
    ]


def test_the_question_and_the_verdict_come_first(runs: list[Path]) -> None:
    said = Page(html(read_facts(runs))).said
    first = said.index("Does denoise beat the same network untrained, on animals?", said.index("}"))
    assert first < said.index("Yes: denoise beats the untrained network") < said.index("What was chosen")


def test_numbers_are_those_of_the_results_and_bold_only_where_shown(tmp_path: Path) -> None:
    even = probe_result({"encoder": 0.5, "random_init": 0.5, "pixels": 0.1})
    page = html(read_facts([write_probe(tmp_path / "p", even)]))
    assert re.search(r'<td class="number">50.0<small>\[44.4,\u00a055.6\]</small>', page)
    assert '<td class="number">+0.0<small>' in page
    assert "<b>+40.0</b>" in page


@pytest.mark.parametrize("blind", [True, False])
def test_encoders_that_cannot_see_what_a_task_is_about_are_marked(blind: bool, tmp_path: Path) -> None:
    found = probe_result(gray=blind, needs_color=True)
    assert ("saw gray only" in Page(html(read_facts([write_probe(tmp_path / "p", found)]))).said) == blind


def test_data_facts_have_counts_sizes_and_duplicates(tmp_path: Path) -> None:
    said = Page(html(read_facts([write_probe(tmp_path / "p", probe_result(duplicates=7))]))).said
    data = said[said.index("Labeled") : said.index("Cost", said.index("Labeled"))]
    for fact in (
        "training data folder:animals",
        "image size, px 16",
        "training images 600",
        "test images 300",
        "classes 3",
    ):
        assert fact in data
    assert "test images of the smallest class 100" in data
    assert "test images with an exact copy in training 7" in data
    assert "test images seen in pretraining, exactly or nearly not known" in data


def test_what_the_images_were_before_is_said_where_it_is_known(tmp_path: Path) -> None:
    result, predictions = probe_result()
    sizes = Sizes(images=256, smallest=(20, 16), median=(500, 375), largest=(4000, 3000))
    training = Originals(unreadable=1234, sizes=sizes)
    known = result.data.model_copy(update={"originals": training, "test_originals": Originals(unreadable=5)})
    run = write_probe(tmp_path / "p", (result.model_copy(update={"data": known}), predictions))
    said = Page(html(read_facts([run]))).said
    assert "unreadable training images 1,234 unreadable test images 5" in said
    assert "smallest 20 × 16, median 500 × 375, largest 4,000 × 3,000of 256 sampled images" in said
    pretraining = write_pretraining(tmp_path / "q")
    assert "unreadable" not in Page(html(read_facts([pretraining]))).said
    tree = json.loads((pretraining / "results.json").read_text())
    write_json(pretraining / "results.json", {**tree, "originals": training.model_dump(mode="json")})
    said = Page(html(read_facts([pretraining]))).said
    assert "1,234" in said
    assert "500 × 375" in said


def test_the_page_says_how_to_label_images_that_are_files(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "my run")
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), run / "encoder")
    (tmp_path / "my pictures").mkdir()
    picture(0).save(tmp_path / "my pictures" / "0.png")
    for source, said in ((tmp_path / "my pictures", True), (tmp_path / "gone", False), ("shapes", False)):
        (run / "config.yaml").write_text(f"# retouch pretrain\nseed: 7\ndata: {{source: {source}, image_size: 16}}\n")
        command = f"retouch label 'encoder={run}' 'data={source}'"
        facts = read_facts([run])
        assert (command in Page(html(facts)).said) == said
        assert (f"    {command}" in card(facts)) == said
    assert "## How to load an encoder" in card(facts)
    assert 'retouch.load_encoder("FOLDER")' in card(facts)


def test_the_page_needs_no_network_no_script_and_no_other_file(runs: list[Path]) -> None:
    page = Page(html(read_facts(runs)))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", html(read_facts(runs)))


def test_any_name_is_harmless(tmp_path: Path) -> None:
    classes = (EVIL, "</style><script>alert(1)</script>", '"onload="x')
    found = probe_result(classes=classes, task=EVIL, pretext="{{ 7*7 }}", damage=["<b>"], train="folder:</title><i>")
    log = f"2026-01-31 12:00:00 WARNING {EVIL} cannot be read\n"
    runs = [
        write_probe(tmp_path / "<svg onload=alert(1)>", found, notes=[EVIL]),
        write_pretraining(tmp_path / "a'b\"c", method=EVIL, sha256="b" * 64, log=log),
    ]
    facts = read_facts(runs)
    page = Page(html(facts))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "i", "b>"})
    assert not [attributes for tag, attributes in page.tags if tag == "img" or "onload" in attributes]
    assert EVIL in page.said
    assert "{{ 7*7 }}" in page.said
    assert "<img" not in card(facts)


def test_a_finished_report_is_replaced_and_nothing_else(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    write_report(runs[:1], out)
    first = out.read_text()
    write_report(runs, out)
    assert out.read_text() != first
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]

    (tmp_path / "mine.html").write_text("<!doctype html> my own page")
    (tmp_path / "folder.html").mkdir()
    for name, said in (("mine.html", "is not a report"), ("folder.html", "is a folder"), ("a.pdf", "ends in .html")):
        with pytest.raises(UserError, match=said):
            write_report(runs, tmp_path / name)
    assert (tmp_path / "mine.html").read_text() == "<!doctype html> my own page"


def test_a_panel_is_taken_apart_into_its_images() -> None:
    images = torch.rand(5, 3, 16, 16)
    example = Example(input=1 - images, clean=images, target=images)
    found = panel_images(panel(example, images / 2, title="denoise, step 3"), 16)
    assert found is not None
    assert [(label, len(some)) for label, some in found.items()] == [("original", 5), ("damaged", 5), ("restored", 5)]
    pixel = (
        round(255 * float(images[3, 0, 7, 9])),
        round(255 * float(images[3, 1, 7, 9])),
        round(255 * float(images[3, 2, 7, 9])),
    )
    assert found["original"][3].getpixel((9, 7)) == pixel
    undamaged = example._replace(input=images)
    assert list(panel_images(panel(undamaged, images, title="pca"), 16) or {}) == ["original", "restored"]
    assert panel_images(Image.new("RGB", (300, 200)), 16) is None


def test_a_picture_that_cannot_be_read_is_left_out_and_warned_of(
    runs: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert "atoms" in Page(html(read_facts(runs))).sections
    (runs[0] / "panels" / "atoms.png").write_bytes(b"no picture")
    assert "atoms" not in Page(html(read_facts(runs))).sections
    assert f"{runs[0]}/panels/atoms.png cannot be read and is left out of the report: " in caplog.text


def test_errors_are_shown_with_their_images_if_these_are_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        for split in ("train", "test"):
            path = tmp_path / "animals" / split / ["cat", "dog", "owl"][number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number, 20, 20).save(path)
    config = "seed: 0\ndata: {train: animals/train, test: animals/test, image_size: 16, workers: 0}\n"
    result, predictions = probe_result({"encoder": 0.0}, n=12)
    data = result.data.model_copy(update={"train": "folder:animals/train", "test": "folder:animals/test"})
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    said = {name: (labels + (torch.arange(12) == 5)) % 3 for name in predictions.answers}
    files = sorted(Path("animals/test").rglob("*.png"))
    found = replace(predictions, paths=tuple(map(str, files)), labels=labels, answers=said)
    folder = write_probe(tmp_path / "p", (result.model_copy(update={"data": data}), found), config=config)

    images = [attributes["alt"] for tag, attributes in Page(html(read_facts([folder]))).tags if tag == "img"]
    assert images == ["dog, classified as owl with 63% confidence"]
    moved = replace(found, paths=tuple(f"elsewhere/{row}" for row in range(12)))
    other = write_probe(tmp_path / "q", (result.model_copy(update={"data": data}), moved), config=config)
    assert "they are no longer where the run found them" in Page(html(read_facts([other]))).said

    for file in files:
        file.unlink()
    assert "The images themselves are not shown" in Page(html(read_facts([folder]))).said


def test_confidence_is_the_calibrated_one_where_it_is_known(tmp_path: Path) -> None:
    result, predictions = probe_result({"encoder": 0.8})
    sure = Calibration(temperature=2.0, fitted_on=500, error_before=0.066, error_after=0.0)
    result = result.model_copy(update={"calibration": sure})
    known = replace(predictions, calibrated={"encoder.linear": torch.full((300,), 0.8)})
    said = Page(html(read_facts([write_probe(tmp_path / "known", (result, known))]))).said
    assert "mean confidence 80.0%, accuracy 80.0%; expected calibration error 0.0 points (1.8 by chance alone; " in said
    assert "by chance alone; before calibration 6.6)" in said
    assert "not calibrated" not in said
    older = Page(html(read_facts([write_probe(tmp_path / "older", (result, predictions))]))).said
    assert "not calibrated: mean confidence 65.0%, accuracy 80.0%;" in older
    assert "by chance alone; calibrated, as by retouch predict, 0.0)" in older


def test_what_was_chosen_is_short_and_its_table_is_folded(runs: list[Path]) -> None:
    [part] = [one for one in page_parts(read_facts(runs)) if one.anchor == "choices"]
    said, table = part.blocks
    assert isinstance(said, Prose)
    assert isinstance(table, Table)
    assert table.folded.startswith("What each classifier chose: ")
    assert "Layers are the encoder's feature maps" in table.foot


def test_the_key_to_the_charts_comes_before_the_first_of_them(runs: list[Path]) -> None:
    [part] = [one for one in page_parts(read_facts(runs)) if one.anchor == "results"]
    assert part.blocks[0] == Prose((LEGEND.format("its untrained network"),), small=True, wide=True)


def test_a_baseline_has_the_name_that_the_console_gives_it(tmp_path: Path) -> None:
    found = [probe_result(), probe_result(pretext="colorize", sha256="b" * 64, gray=True)]
    runs = [write_probe(tmp_path / one[0].encoder.title, one) for one in found]
    table = baseline_table(read_facts(runs))
    assert table is not None
    names = [row[0].text for row in table.rows]
    assert names == ["untrained", "untrained, gray", "raw pixels"]
    console = {line.method for line in probe_lines([result for result, _ in found])}
    assert console == {"denoise", "colorize", *names}


def test_data_that_tasks_share_are_a_table_of_facts(tmp_path: Path) -> None:
    sizes = Sizes(images=256, smallest=(128, 128), median=(128, 128), largest=(128, 128))
    other = sizes.model_copy(update={"largest": (300, 200)})
    both = [probe_result(), probe_result(task="color", classes=("a", "b"))]

    def data(sizes: Sizes) -> list[tuple[ProbeResult, Predictions]]:
        originals = Originals(unreadable=0, sizes=sizes)
        generated = {"originals": originals, "not_compared": {"in_pretraining": GENERATED}}
        return [(one.model_copy(update={"data": one.data.model_copy(update=generated)}), said) for one, said in both]

    table, shared = labeled_tables(facts_of(*data(sizes)))
    assert [row[0].text for row in table.rows] == ["animal", "color"]
    assert table.foot == ""
    facts = {name.text: (value.text, value.below) for name, value in shared.rows}
    assert facts["test images with an exact copy in training"] == ("0", "")
    assert facts["test images seen in pretraining, exactly or nearly"] == ("0", NONE[GENERATED])
    assert facts["original size, width × height, px"] == ("128 × 128", "all of 256 sampled images")
    _, shared = labeled_tables(facts_of(*data(other)))
    assert "smallest 128 × 128, median 128 × 128, largest 300 × 200" in {value.text for _, value in shared.rows}


def test_the_size_of_a_code_says_on_which_images_and_explains_only_what_is_there(tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "probe", probe_result(code=True))
    for name, error in (("without", None), ("with", 0.25)):
        run = write_pretraining(tmp_path / name, error=error)
        said = Page(html(read_facts([run, probe]))).said
        assert "On test images, by the probe" in said
        assert "On images of pretraining" in said
        assert ("Error: the relative error" in said) == (error is not None)


def test_the_surest_errors_of_a_pair_come_first_and_it_is_said_how_sure_it_was(tmp_path: Path) -> None:
    found = probe_result({"encoder": 0.0})
    predictions = found[1]
    pair = Confused("cat", "dog", 100, 100)
    rows = confused_rows(predictions, "encoder.linear", pair)
    assert rows == [297, 294, 291, 288, 285, 282, 279, 276]  # confidence rises along the test set
    old = replace(predictions, confidences={})
    assert confused_rows(old, "encoder.linear", pair)[:3] == [0, 3, 6]
    said = Page(html(read_facts([write_probe(tmp_path / "p", found)]))).said
    assert "most confident errors, the most confident first" in said
    assert "mean confidence 65.0%, accuracy 0.0%; expected calibration error 65.0 points (" in said
    assert "not calibrated: mean confidence" in said
    said = Page(html(read_facts([write_probe(tmp_path / "old", (found[0], old))]))).said
    assert "confidence" not in said[said.index("Errors") :]


def test_the_numbers_of_neighbors_that_were_tried_are_read_from_the_settings(tmp_path: Path) -> None:
    for name, knn, said in (("a", "{k: [20, 100]}", True), ("b", "{k: [10, 20, 100]}", False), ("c", "null", False)):
        run = write_probe(tmp_path / name, probe_result(), config=f"seed: 3\nknn: {knn}\ndata: {{train: animals}}\n")
        facts = read_facts([run])
        assert facts.probes[0].origin.settings.seed == 3
        assert ("k-NN tried only 20 and 100 neighbors" in Page(html(facts)).said) == said


def test_sources_that_may_be_downloaded_are_not_opened(tmp_path: Path) -> None:
    config = "seed: 0\ndata: {train: 'hf:some/name'}\n"
    folder = write_probe(tmp_path / "p", probe_result(), config=config)
    assert "their source may have to be downloaded" in Page(html(read_facts([folder]))).said


# ---- the model card


def test_a_model_card_says_the_same_as_the_page(runs: list[Path]) -> None:
    said = card(read_facts(runs))
    lines = said.splitlines()
    assert lines[:3] == ["---", "tags: [retouch, self-supervised-learning, denoise]", "---"]
    assert [line for line in lines if line.startswith("#")] == [
        "# Does denoise beat the same network untrained, on animals?",
        *("## Results", "## Baselines", "## Data", "## How it was measured", "## Limits", "## How to repeat"),
    ]
    assert "| denoise | 80.0 [" in said
    assert "| **+30.0** [" in said
    assert "| gain over untrained |" in said
    assert "In the charts" not in said
    tables = [line for line in lines if line.startswith("| ---")]
    assert len(tables) >= 4


def test_a_model_card_is_written_beside_the_encoder_and_replaces_nothing_else(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "encoder" / "README.md"
    for _ in range(2):  # an earlier one is replaced
        assert main(["report", str(runs[1]), "--markdown", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" * 2
    assert out.read_text(encoding="utf-8") == card(read_facts(runs[1:2]))
    out.write_text("# mine")
    for file, said in ((out, "is not a model card of retouch"), (out.with_suffix(".html"), "ends in .md")):
        assert main(["report", str(runs[1]), "--markdown", "-o", str(file)]) == 2
        assert said in capsys.readouterr().err
    assert out.read_text() == "# mine"


def test_texts_in_markdown_do_nothing() -> None:
    assert plain("a|b\n# c <i> [x](y) ![z](w) `e` *f*") == (
        "a\\|b \\# c &lt;i&gt; [x]\\(y) !\\[z]\\(w) \\`e\\` \\*f\\*"
    )


# ---- the command


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    return write_probe(tmp_path / "linear-1", probe_result())


def test_the_command_writes_the_page_and_says_where(
    probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert main(["report", str(probe), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text().startswith("<!doctype html>")
    assert main(["report", str(probe), "--markdown"]) == 0
    assert "# Does denoise beat the same network untrained, on animals?" in capsys.readouterr().out


def test_the_command_answers_every_mistake_at_once(
    probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    assert main(["report", str(probe), str(tmp_path / "none"), "-o", str(tmp_path / "mine.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retouch report: ")
    assert "no such folder" in said
    assert "is not a report" in said


def test_what_labels_are_worth_has_a_part_where_it_was_measured(tmp_path: Path) -> None:
    result, predictions = probe_result()
    run = write_probe(tmp_path / "probe", (result.model_copy(update={"label_efficiency": LABELS}), predictions))
    page = Page(html(read_facts([run])))
    assert page.sections.index("labels") == page.sections.index("baselines") + 1
    assert (
        "animal: denoise with 60 labels equals the untrained network with about 460 [300, more than all 600]."
        in page.said
    )
