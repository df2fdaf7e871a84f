"""The contract of all kinds of labels: choices, the single use of the test images, checks, and written files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data import Images
from common.encoders.load import read_encoder_card
from common.machine.distributed import World
from common.pixels import to_float
from finetune.classifier import open_classifier
from finetune.config import ProbeConfig
from finetune.dense.cells import mean_iou, overlaps
from finetune.embedding import EMBEDDING
from finetune.features import Extraction
from finetune.kinds import KINDS, AnyKind, ClassLabels, MaskLabels, SeveralLabels, kind_of
from finetune.multilabel.scores import LABEL_SCORES
from finetune.opening import load, prepare
from finetune.predictions import PREDICTIONS
from finetune.probe import Done, measure, probe
from finetune.ranking import mean_average_precision
from finetune.records import Checks, ProbeChoice
from finetune.results import Probed, ProbeReport, ProbeResult, read_results
from finetune.structured_results import LabelComparison, Several, SeveralProbed, SeveralScore
from tests.finetune.dense.masked_pictures import exported
from tests.finetune.dense.masked_pictures import pictures as with_masks
from tests.finetune.multilabel.labeled_pictures import pictures as with_labels

CPU = World(0, 1, torch.device("cpu"))
HOW = Extraction(CPU.device, torch.float32, 16, 0)
ANSWERS = (PREDICTIONS, EMBEDDING, LABEL_SCORES)


@dataclass(frozen=True)
class Member:
    """A kind with a small data set, and what is different about it."""

    kind: type[AnyKind]
    data: Callable[[Path], dict[str, Any]]  # settings, given the folder of all images
    turned: Callable[
        [Path, Path], dict[str, Any]
    ]  # the same, with labels or masks of other test images, in a new folder
    score: Callable[[Tensor, Any], float]  # of logits, in [0, 1]
    answers: tuple[str, ...]  # files of them


def accuracy(logits: Tensor, one: ClassLabels) -> float:
    return float((logits.argmax(1) == one.images.tasks["kind"][1].values).double().mean())


def precision(logits: Tensor, one: SeveralLabels) -> float:
    return float(mean_average_precision(logits, one.images.labels[1].values))


def iou(logits: Tensor, one: MaskLabels) -> float:
    truth = one.images.test.truth(torch.arange(len(logits)))
    return float(mean_iou(overlaps(logits.argmax(1), truth, len(one.images.classes)).sum(0)))


def tables(folder: Path, **labels: Any) -> dict[str, Any]:
    return {"train": str(folder / "labels/train/a.csv"), "test": str(folder / "labels/test/a.csv"), **labels}


def masks(folder: Path) -> dict[str, Any]:
    train, test = folder / "masks/train", folder / "masks/test"
    return {
        "train": str(train / "images"),
        "masks": str(train / "masks"),
        "test": str(test / "images"),
        "test_masks": str(test / "masks"),
    }


def turned_tables(folder: Path, new: Path, **labels: Any) -> dict[str, Any]:
    _, *rows = (folder / "labels/test/a.csv").read_text().splitlines()
    cells = [row.partition(",") for row in rows]
    others = [told for *_, told in cells[7:] + cells[:7]]
    lines = [f"{folder / 'labels/test' / path},{told}" for (path, *_), told in zip(cells, others, strict=True)]
    (new / "turned.csv").write_text("\n".join(["path,tags,kind", *lines]) + "\n")
    return tables(folder, **labels) | {"test": str(new / "turned.csv")}


def turned_masks(folder: Path, new: Path) -> dict[str, Any]:
    true = sorted((folder / "masks/test/masks").iterdir())
    (new / "turned").mkdir()
    for path, other in zip(true, true[7:] + true[:7], strict=True):
        shutil.copyfile(other, new / "turned" / path.name)
    return masks(folder) | {"test_masks": str(new / "turned")}


# a new kind of labels is added here
MEMBERS = {
    "classes": Member(
        ClassLabels, partial(tables, task="kind"), partial(turned_tables, task="kind"), accuracy,
        (PREDICTIONS, EMBEDDING),
    ),
    "labels": Member(
        SeveralLabels, partial(tables, labels=["tags"]), partial(turned_tables, labels=["tags"]), precision,
        (LABEL_SCORES,),
    ),
    "masks": Member(MaskLabels, masks, turned_masks, iou, ()),
}  # fmt: skip
STRENGTHS = (0.013, 0.17)  # no default grid has them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and images of all kinds. In the tables, the class is light or dark in 4 shades."""
    folder = tmp_path_factory.mktemp("kinds")
    exported(folder / "encoder")
    for name in ("labels", "masks"):
        (folder / name).mkdir()
    for seed, part in enumerate(("train", "test")):
        with_labels(folder / "labels" / part, 120 - 60 * seed, seed)
        with_masks(folder / "masks" / part, 60 - 20 * seed, seed)
        table = folder / "labels" / part / "a.csv"
        _, *rows = table.read_text().splitlines()
        cells = [row.split(",") for row in rows]
        lines = [f"{path},{tags},{'lit' if int(light) else 'dim'}{red}" for path, tags, light, red, _ in cells]
        table.write_text("\n".join(["path,tags,kind", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module", params=MEMBERS)
def member(request: pytest.FixtureRequest) -> Member:
    return MEMBERS[request.param]


def config_of(member: Member, folder: Path, out: Path, **changes: Any) -> ProbeConfig:
    values: dict[str, Any] = {
        "out": out,
        "encoder": folder / "encoder",
        "data": (changes.pop("data", None) or member.data(folder)) | {"workers": 0},
        "probe": {"l2": STRENGTHS, "layers": ["each"], "poolings": ["avg"]},
        "knn": None,
        "damage": [],
        "properties": False,
        "null_check": False,
        "feature_cache": False,
        "precision": "float32",
        "batch_size": 16,
        "wandb": {"mode": "disabled"},
    }
    return ProbeConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def loaded(member: Member, folder: Path) -> AnyKind:
    """The data set, decoded, without checks that take more time."""
    config = config_of(member, folder, folder / "none")
    encoder, [ready] = prepare(config, CPU)
    return load(config, ready, encoder, read_encoder_card(config.encoder))


@pytest.fixture(scope="module")
def run(member: Member, folder: Path) -> tuple[Path, ProbeReport]:
    """A complete run, and what it returned."""
    out = folder / f"run-{member.kind.part}"
    return out, probe(config_of(member, folder, out, null_check=True), show=False)


@pytest.fixture(scope="module")
def together(folder: Path) -> ProbeReport:
    """Data sets of all kinds in one run."""
    first, *more = MEMBERS.values()
    others = [one.data(folder) | {"workers": 0} for one in more]
    return probe(config_of(first, folder, folder / "together", more_data=others), show=False)


def measured(one: AnyKind) -> Done[Any]:
    encoder, _ = prepare(one.config, CPU)
    [done] = measure(one, encoder, read_encoder_card(one.config.encoder), HOW)
    return done


AnyResult = ProbeResult | Several
AnyProbed = Probed | SeveralProbed[SeveralScore]


def result_of(report: ProbeReport, of: type[AnyKind] | None = None) -> AnyResult:
    """The only result, or the only one of a kind."""
    results: list[AnyResult] = [one for kind in KINDS if of in (None, kind) for one in getattr(report, kind.part)]
    [result] = results
    return result


def linear(result: AnyResult) -> Mapping[str, AnyProbed]:
    """The linear probe of each subject."""
    if isinstance(result, ProbeResult):
        return {name: subject.probes["linear"] for name, subject in result.subjects.items()}
    return result.subjects


def choices(result: AnyResult) -> dict[str, ProbeChoice]:
    return {name: one.choice for name, one in linear(result).items()}


def number(one: AnyProbed) -> float:
    return one.test.accuracy if isinstance(one, Probed) else one.test.mean


def checks_of(result: AnyResult) -> Checks:
    assert result.checks is not None
    return result.checks


# ---- which kind it is


def test_every_kind_has_a_member_here_and_a_place_of_its_own_in_the_report() -> None:
    assert {member.kind for member in MEMBERS.values()} == set(KINDS)
    assert len({kind.part for kind in KINDS}) == len(KINDS)


def test_settings_name_the_kind_and_its_results_have_their_place(
    member: Member, folder: Path, run: tuple[Path, ProbeReport]
) -> None:
    config, (_, report) = config_of(member, folder, folder / "none"), run
    assert kind_of(config.data) is member.kind
    assert {kind.part: len(getattr(report, kind.part)) for kind in KINDS} == {
        kind.part: int(kind is member.kind) for kind in KINDS
    }


# ---- measurements


def test_the_encoder_and_both_baselines_are_measured_and_compared_on_the_same_images(
    run: tuple[Path, ProbeReport],
) -> None:
    result = result_of(run[1])
    subjects = linear(result)
    assert list(subjects) == ["encoder", "random_init", "pixels"]
    assert len({one.test.n for one in subjects.values()}) == 1
    compared: Mapping[str, Any] = subjects["encoder"].compared
    assert list(compared) == ["random_init", "pixels"]
    for name, one in compared.items():
        assert one.difference == pytest.approx(number(subjects["encoder"]) - number(subjects[name]))
        assert one.ci95[0] <= one.difference <= one.ci95[1]
    assert not any(subjects[name].compared for name in compared)
    assert number(subjects["encoder"]) > 0.6  # what the images show is easy to see


def test_strengths_are_those_of_the_settings(run: tuple[Path, ProbeReport]) -> None:
    assert {one.setting["l2"] for one in choices(result_of(run[1])).values()} <= set(STRENGTHS)


def test_choices_and_classifiers_know_no_test_label(
    member: Member, folder: Path, run: tuple[Path, ProbeReport], tmp_path: Path
) -> None:
    (out, report), turned = run, member.turned(folder, tmp_path)
    config = config_of(member, folder, tmp_path / "out", data=turned)
    one, other = result_of(report), result_of(probe(config, show=False))
    assert choices(one) == choices(other)
    first, second = (open_classifier(at / str(of.classifier)) for at, of in ((out, one), (config.out, other)))
    assert first.sha256 == second.sha256
    assert first.temperature == second.temperature
    for name, probed in linear(one).items():
        assert number(probed) > number(linear(other)[name]) + 0.1


def test_all_kinds_are_measured_in_one_run_as_each_alone(
    member: Member, together: ProbeReport, run: tuple[Path, ProbeReport], folder: Path
) -> None:
    alone, found = result_of(run[1]), result_of(together, member.kind)
    assert choices(found) == choices(alone)
    assert [number(one) for one in linear(found).values()] == [number(one) for one in linear(alone).values()]
    assert all((folder / "together" / name).is_file() for name in member.answers)
    lines = [json.loads(line) for line in (folder / "together" / "metrics.jsonl").read_text().splitlines()]
    told = [{key.rpartition("/")[0] for key in line if "/" in key} for line in lines]
    assert told.count({alone.task}) == 1


def test_each_subject_sees_every_test_image_once(loaded: AnyKind, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    batches = Images.batches

    def counting(self: Images, rows: Iterable[Tensor], workers: int = 0) -> Any:
        kept = list(rows)
        seen[self.source.fingerprint] += sum(map(len, kept))
        return batches(self, kept, workers)

    monkeypatch.setattr(Images, "batches", counting)
    measured(loaded)
    test = loaded.pair.test
    assert seen[test.source.fingerprint] == 3 * len(test)


# ---- checks


def test_labels_at_random_give_chance(run: tuple[Path, ProbeReport]) -> None:
    result = result_of(run[1])
    checks = checks_of(result)
    assert checks.null is not None
    assert checks.null.accuracy < checks.null.chance + 0.12
    assert checks.null.accuracy < number(linear(result)["encoder"]) - 0.2
    assert not checks.null.above_chance
    assert (checks.frozen, checks.missing) == (True, {})
    assert not any("at random" in note or "changed while" in note for note in run[1].notes)


def test_a_check_that_is_switched_off_says_so_and_changes_nothing_else(
    loaded: AnyKind, run: tuple[Path, ProbeReport]
) -> None:
    without, checked = measured(loaded).result, result_of(run[1])
    checks = checks_of(without)
    assert (checks.null, checks.missing) == (None, {"null": "switched off (null_check)"})
    for name, one in linear(without).items():
        other = linear(checked)[name]
        assert (one.choice, one.test) == (other.choice, other.test)


def test_an_encoder_that_changes_is_recorded_and_noted(
    member: Member, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = member.kind.measure

    def spoiling(self: AnyKind, subject: Any, how: Extraction) -> Any:
        found = real(self, subject, how)
        next(subject.encoder.parameters()).data.add_(1e-3)
        return found

    monkeypatch.setattr(member.kind, "measure", spoiling)
    alone = {"random_init": False, "pixels": False}
    report = probe(config_of(member, folder, tmp_path / "out", baselines=alone), show=False)
    assert checks_of(result_of(report)).frozen is False
    assert any("changed while it was measured" in note for note in report.notes)


# ---- written files


def test_results_are_read_back(run: tuple[Path, ProbeReport]) -> None:
    out, report = run
    assert read_results(out) == report


def test_answers_for_the_test_images_are_kept(member: Member, run: tuple[Path, ProbeReport]) -> None:
    out, _ = run
    assert tuple(name for name in ANSWERS if (out / name).is_file()) == member.answers


def test_the_classifier_that_is_kept_scores_as_the_one_that_was_tested(
    member: Member, loaded: AnyKind, run: tuple[Path, ProbeReport]
) -> None:
    (out, report), test = run, loaded.pair.test
    result = result_of(report)
    classifier = open_classifier(out / str(result.classifier))
    assert classifier.task == result.task
    with torch.inference_mode():
        logits = classifier(to_float(test.rows(torch.arange(len(test)))))
    assert member.score(logits, loaded) == pytest.approx(number(linear(result)["encoder"]), abs=2e-3)


@pytest.mark.parametrize("member", ["labels", "masks"], indirect=True)
def test_older_files_are_read(run: tuple[Path, ProbeReport], member: Member) -> None:
    """Files of classes alone had no such part; in the next ones, checks stood next to the other facts."""
    report, result = run[1], result_of(run[1])
    assert not isinstance(result, ProbeResult)
    tree = report.model_dump(mode="json")
    del tree[member.kind.part]
    assert getattr(ProbeReport.model_validate(tree), member.kind.part) == ()
    older = result.model_dump(mode="json")
    older |= older.pop("checks")
    del older["sha256"]
    checks = result.checks.model_copy(update={"sha256": {}})
    assert type(result).model_validate(older) == result.model_copy(update={"checks": checks})
    first = {key: value for key, value in older.items() if key not in ("null", "missing")}  # without a null check
    assert type(result).model_validate(first).checks == Checks(frozen=True, null=None)


def test_the_p_value_of_an_older_file_is_that_of_its_interval() -> None:
    assert LabelComparison(difference=0.1, ci95=(0.05, 0.15)).p == pytest.approx(8.9e-5, rel=0.05)  # 3.92 deviations
    assert LabelComparison(difference=0.05, ci95=(0.0, 0.1)).p == pytest.approx(0.05, rel=0.01)
    assert LabelComparison(difference=0.1, ci95=(0.05, 0.15), p_value=0.2).p == 0.2
