"""Test images that were seen before: counted and listed in the results, and left out of training if asked."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from common.data import Images
from common.data.duplicates import Prints, fingerprints
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.errors import UserError
from finetune.data import LabeledData, load_labeled, open_sources
from finetune.leaks import ALIKE
from finetune.records import GENERATED, DataFacts
from retouch.reporting.limits import limits
from retouch.reporting.reading import read_facts
from tests.finetune.pictures_of_classes import probed, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images 0 to 39; test images 30 to 69, of which 36 to 39 are the same files and 30 to 35 brighter."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train", range(40))
    write(folder / "test", range(30, 36), change=3)
    write(folder / "test", range(36, 70))
    write(folder / "pool", range(60, 100))
    return folder


def encoder_of(folder: Path, source: str) -> Path:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    export_encoder(encoder, folder / "encoder", Provenance(source=source))
    return folder / "encoder"


def test_leaks_are_counted_and_listed_and_all_of_them_are_in_a_file(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = probed(tmp_path / "out", encoder_of(tmp_path, str(data / "pool")), data)
    facts = report.results[0].data
    assert (facts.duplicates, facts.left_out) == (4, 0)
    assert facts.near_duplicates is not None
    assert facts.in_pretraining is not None
    assert (facts.near_duplicates.test_images, facts.near_duplicates.pairs) == (10, 10)
    assert facts.in_pretraining.test_images == 10  # 60 to 69
    assert [(one.compared, one.of) for one in (facts.near_duplicates, facts.in_pretraining)] == [(40, 40)] * 2
    assert facts.not_compared == {}
    assert [pair.alike for pair in facts.near_duplicates.most_alike].count(1) == 4
    for pair in facts.near_duplicates.most_alike:
        assert Path(pair.test).name == Path(pair.other).name
    assert "4 of 40 test images are identical to training images: test accuracy may be too high" in caplog.messages
    assert "10 of 40 test images nearly repeat training images: test accuracy may be too high" in caplog.text
    task = report.results[0].task
    assert f"{task}: 10 of 40 test images repeat training images, at least nearly" in report.notes
    assert any("10 of 40 test images repeat images of pretraining" in note for note in report.notes)
    with (tmp_path / "out" / "duplicates.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == ["training"] * 10 + ["pretraining"] * 10
    assert rows[0].keys() == {"data", "images", "test", "other", "alike"}


def test_images_of_every_training_that_the_encoder_came_from_are_looked_at(tmp_path: Path, data: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    write(tmp_path / "later", range(50, 55))
    for number, (before, now) in enumerate([(data / "pool", "shapes"), (data / "pool", tmp_path / "later")]):
        chain = Provenance(source=str(now)).starting("start", "0" * 64, Provenance(source=str(before)))
        export_encoder(encoder, tmp_path / f"encoder-{number}", chain)
    generated, both = (probed(tmp_path / f"out-{n}", tmp_path / f"encoder-{n}", data).results[0] for n in range(2))
    assert generated.data.in_pretraining is not None
    assert generated.data.in_pretraining.test_images == 10  # 60 to 69 of the first training
    assert both.data.in_pretraining is not None
    assert both.data.in_pretraining.test_images == 15
    alike = [pair.alike for pair in both.data.in_pretraining.most_alike]
    assert alike == sorted(alike, reverse=True)


def test_images_of_pretraining_and_training_are_compared_once_if_they_are_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []

    def counted(images: Images, workers: int = 0) -> Prints:
        passes.append(images.source.spec)
        return fingerprints(images, workers)

    monkeypatch.setattr("finetune.leaks.fingerprints", counted)
    train = f"folder:{data / 'train'}"
    [result] = probed(tmp_path / "same", encoder_of(tmp_path, train), data).results
    assert sorted(passes) == [f"folder:{data / 'test'}", train]
    monkeypatch.undo()
    few = probed(tmp_path / "few", encoder_of(tmp_path / "2", train), data, limit=39)  # other rows: looked at again
    for report in (result, few.results[0]):
        assert report.data.in_pretraining is not None
        assert report.data.in_pretraining.test_images == 10
    assert few.results[0].data.near_duplicates is not None
    assert few.results[0].data.near_duplicates.test_images == 9


def test_images_that_leak_can_be_left_out_of_training(tmp_path: Path, data: Path) -> None:
    encoder = encoder_of(tmp_path, "shapes")
    reports = [probed(tmp_path / leaks, encoder, data, leaks=leaks) for leaks in ("keep", "drop")]
    kept, dropped = (report.results[0] for report in reports)
    left_out = ["these 10 training images were left out" in " ".join(report.notes) for report in reports]
    assert left_out == [False, True]
    assert (kept.linear.n_train, dropped.linear.n_train) == (40, 30)
    assert (dropped.data.left_out, dropped.data.duplicates) == (10, 4)
    assert dropped.linear.test.n == kept.linear.test.n == 40
    assert (kept.data.in_pretraining, kept.data.not_compared) == (None, {"in_pretraining": GENERATED})


def test_training_images_are_not_all_left_out(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"data\.leaks=drop leaves none"):
        probed(tmp_path / "out", encoder_of(tmp_path, "shapes"), data, test=str(data / "train"), leaks="drop")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("hf:somewhere/else", "hf:somewhere/else: opening it may ask a server"),
        ("gone/away", "gone/away: "),
        ("", "the encoder does not name the images that it was trained on"),
    ],
)
def test_images_of_pretraining_that_cannot_be_opened_are_no_error(
    tmp_path: Path, data: Path, source: str, why: str
) -> None:
    report = probed(tmp_path / "out", encoder_of(tmp_path, source), data)
    facts = report.results[0].data
    assert facts.in_pretraining is None
    assert facts.near_duplicates is not None
    assert facts.not_compared["in_pretraining"].startswith(why)
    said = limits(read_facts([tmp_path / "out"]))
    [line] = [one for one in said if "is not fully known" in one]
    assert line.startswith("It is not fully known whether pretraining images repeat test images of ")
    assert why in line
    older = facts.model_dump(mode="json")
    del older["not_compared"], older["near_duplicates"]["compared"], older["near_duplicates"]["of"]
    assert DataFacts.model_validate(older).near_duplicates is not None


def test_a_search_that_was_cut_short_says_among_how_many_it_looked(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "other", range(200, 230))
    (tmp_path / "other" / "c0" / "broken.png").write_bytes(b"no image")  # none has learned from it
    monkeypatch.setattr("finetune.leaks.POOL", 31)
    for name, pool, more in (("few", data / "pool", 9), ("all", tmp_path / "other", 0)):
        report = probed(tmp_path / name, encoder_of(tmp_path / f"{name}-encoder", str(pool)), data)
        facts = report.results[0].data
        found = facts.in_pretraining
        assert found is not None
        assert (found.compared, found.partial) == ((31, True) if more else (30, False))
        assert found.of == (40 if more else 30)
        said = " ".join([*report.notes, *limits(read_facts([tmp_path / name]))])
        assert ("31 of 40 were compared" in said) == ("9 of 40 images were not looked at" in said) == bool(more)
        assert ("9 of 40 images were not looked at" in facts.not_compared.get("in_pretraining", "")) == bool(more)


def test_images_that_all_look_alike_are_not_mistaken_for_images_that_do_not_repeat(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.leaks.near_pairs", lambda *prints: None)
    facts = probed(tmp_path / "out", encoder_of(tmp_path, str(data / "pool")), data).results[0].data
    assert (facts.near_duplicates, facts.in_pretraining) == (None, None)
    assert facts.not_compared == dict.fromkeys(("near_duplicates", "in_pretraining"), ALIKE)
    said = [one for one in limits(read_facts([tmp_path / "out"])) if "is not fully known" in one]
    assert len(said) == 2


def test_an_unreadable_file_of_training_and_of_pretraining_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train", range(40))
    write(tmp_path / "test", range(40, 60))
    (tmp_path / "train" / "c0" / "broken.png").write_bytes(b"nothing")
    encoder = encoder_of(tmp_path, str(tmp_path / "train" / "c0"))  # other images than those of the probe
    with caplog.at_level("WARNING", logger="retouch"):
        probed(tmp_path / "out", encoder, tmp_path)
    assert caplog.text.count("broken.png") == 1


def test_of_some_of_the_images_only_their_own_leaks_are_counted(data: Path) -> None:
    settings = LabeledData(train=str(data / "train"), test=str(data / "test"), workers=0)
    trained_on = Provenance(source=str(data / "pool"))
    whole = load_labeled(open_sources(settings, seed=0), settings, 16, seed=0, trained_on=trained_on)
    names = [Path(whole.train.where(row)).stem for row in range(40)]
    odd = torch.tensor([row for row in range(40) if int(Path(whole.test.where(row)).stem) % 2])
    few = torch.tensor([row for row, name in enumerate(names) if int(name) < 38])
    assert (whole.leaks.exact, whole.leaks.training.facts) != (0, None)

    half = whole.only(test=odd)
    assert half.leaks.exact == 2  # 37 and 39
    assert half.leaks.training.facts is not None
    assert half.leaks.training.facts.test_images == 5  # 31, 33, 35, 37, 39
    assert half.leaks.pretraining is not None
    assert half.leaks.pretraining.facts is not None
    assert half.leaks.pretraining.facts.test_images == 5  # 61, 63, 65, 67, 69

    both = whole.only(train=few, test=odd)
    assert both.leaks.exact == 1  # 37
    assert both.leaks.training.facts is not None
    assert (both.leaks.training.facts.test_images, both.leaks.training.facts.pairs) == (4, 4)
    assert {Path(pair.test).stem for pair in both.leaks.training.repeats or ()} == {"31", "33", "35", "37"}

    [(known, asked)] = both.tasks.values()
    assert torch.equal(known.values, next(iter(whole.tasks.values()))[0].values[few])
    assert torch.equal(asked.values, next(iter(whole.tasks.values()))[1].values[odd])
    assert (len(both.train), len(both.test)) == (38, 20)
