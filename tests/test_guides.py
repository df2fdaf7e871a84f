"""The code of the guides and of the page on Python runs as it stands, on small pictures, in two steps."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from tests.common.data.samples import picture
from tests.documents import PICTURES, TORCHRUN, Command, commands, make_home, run, samples, shorten_recipes, text_of
from tests.hub import TOKEN, Hub, serving

EXPORT, RESTORING = "docs/guides/export.md", "docs/guides/restoring.md"
FIRST, PYTHON = "docs/guides/first-minutes.md", "docs/reference/python.md"
BEGUN = (EXPORT, "docs/guides/scale.md", "docs/guides/reading-a-report.md")  # they go on from runs/mine and its probe
DOCUMENTS = (*BEGUN, RESTORING, FIRST, "docs/guides/lecture.md")
RUN = commands(*DOCUMENTS)
PROGRAMS = r"(?:retouch|hf|torchrun|pip|make|source|python|wandb) "
NOT_RUN = {
    "retouch demo": "takes a minute; tests of its own",
    "retouch lecture": "takes minutes; tests of its own",
    "hf auth login": "asks for an account; the server of the tests knows a token",
    "head -4 runs/predict-1/predictions.csv": "not ours; the file is looked at",
    "ls exported": "not ours; the folder is looked at",
}  # and torchrun, for which there are too few machines: what it starts is run in one process
ON_THE_HUB = "USER/NAME"  # as a document names a repository
# what is on the Hub for a command of a stage: a run, and how it was exported
KEPT = {"probe": ("runs/mine", ()), "predict": ("runs/mine-probe", ()), "restore": ("runs/mine", ("output=restorer",))}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with ``runs/mine``, which was pretrained, and ``runs/mine-probe``."""
    home = make_home(tmp_path_factory.mktemp("begun"), classes=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETOUCH_CACHE", str(home / "cache"))
        shorten_recipes(patch, tmp_path_factory.mktemp("recipes"))
        patch.chdir(home)
        retouch.pretrain("denoise", "data=my/pictures", "out=runs/mine")
        retouch.probe("linear", "encoder=runs/mine", "data=my/labeled", "probe.l2=[0.01]", "out=runs/mine-probe")
    return home


@pytest.fixture(scope="module")
def homes(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of a user for each document, in which its commands run one after the other."""
    found = {one: tmp_path_factory.mktemp("guides") / "home" for one in (*DOCUMENTS, PYTHON)}
    for document, home in found.items():
        leave = () if document in BEGUN else ("runs",)
        shutil.copytree(begun, home, ignore=shutil.ignore_patterns(*leave))
    return found


@pytest.fixture(autouse=True)
def quick(few_strengths: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipes with a few steps on a few images."""
    (tmp_path / "recipes").mkdir()
    shorten_recipes(monkeypatch, tmp_path / "recipes")


def test_there_is_code_to_run() -> None:
    assert {one.document for one in RUN} == set(DOCUMENTS)
    assert {document for document in DOCUMENTS if samples(document)} == {EXPORT, RESTORING}


def test_what_is_not_run_is_listed() -> None:
    """Commands of a session, and those that start with a program's name."""
    typed = re.compile(rf"^    (?:\$ |(?={PROGRAMS}))(?:{TORCHRUN})?(\S.*)$", re.MULTILINE)
    found = {line.partition(" #")[0] for document in DOCUMENTS for line in typed.findall(text_of(document))}
    assert found - {one.typed for one in RUN} == NOT_RUN.keys()


# ---- commands


@pytest.mark.slow
@pytest.mark.parametrize("one", RUN, ids=lambda one: f"{one.document}: {one.line}")
def test_commands_work_as_typed(
    one: Command,
    homes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of a document in one folder, in its order; those of the Hub with a server on this machine."""
    monkeypatch.chdir(homes[one.document])
    stage = one.line.split()[1]
    with ExitStack() as stack:
        line = one.line
        if ON_THE_HUB in line:
            hub = stack.enter_context(serving(monkeypatch, tmp_path / "hub"))
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            line = line.replace(ON_THE_HUB, "me/mine")
            keep_on(hub, stage, tmp_path / "kept")
        assert run(line) == 0, capsys.readouterr().err
        if "push=" in line:
            pushed = hub.repos["me/mine"].files("main") or {}
            assert {"README.md", "config.json", "model.safetensors"} <= pushed.keys()


@pytest.mark.slow
def test_the_first_minutes_leave_the_files_that_they_show(homes: dict[str, Path]) -> None:
    """After the guide's commands."""
    listed = re.search(r"\$ ls exported\n((?:    \S+\n)+)", text_of(FIRST))
    assert listed is not None
    assert listed[1].split() == sorted(path.name for path in (homes[FIRST] / "exported").iterdir())
    shown = re.search(r"\$ head -4 (\S+)\n    (.*?p\()", text_of(FIRST))
    assert shown is not None
    assert (homes[FIRST] / shown[1]).read_text().startswith(shown[2])


def keep_on(hub: Hub, stage: str, folder: Path) -> None:
    """Put on the Hub what a command of this stage reads from there."""
    if stage in KEPT:
        start, more = KEPT[stage]
        retouch.export(start, f"to={folder}", "format=hub", "check=2", *more)
        hub.add("me/mine", folder)


# ---- Python


@pytest.fixture
def exported(homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the guide to exports, with the folders that its samples open."""
    home = homes[EXPORT]
    monkeypatch.chdir(home)
    torch.manual_seed(0)
    export_encoder(build_encoder(EncoderConfig(name="timm/test_vit"), image_size=32), home / "vit")
    images = "data=my/new"
    retouch.export("vit", "to=exports/timm", "format=timm", images)
    retouch.export("runs/mine", "to=exports/torch", "format=torch", images)
    return home


@pytest.mark.slow
def test_exports_are_opened_as_the_guide_says(exported: Path) -> None:
    """Each sample gives the features of the encoder; the last one makes the file that the first one opens."""
    *opening, making = samples(EXPORT)
    run_sample(making, EXPORT)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for code in opening:
        found = run_sample(code, EXPORT, images=images.numpy() if "onnxruntime" in code else images)["features"]
        own = retouch.load_encoder("vit" if "timm" in code else "runs/mine").encode(images)
        torch.testing.assert_close(torch.as_tensor(found).detach(), own, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_pictures_are_restored_as_the_guide_says(homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the guide's commands, which make the run."""
    monkeypatch.chdir(homes[RESTORING])
    (code,) = samples(RESTORING)
    damaged = torch.rand(2, 3, 50, 44, generator=torch.Generator().manual_seed(0))
    found = run_sample(code, RESTORING, damaged=damaged)
    assert found["restored"].shape == damaged.shape
    assert found["result"].restored == PICTURES


def run_sample(code: str, document: str, **given: Any) -> dict[str, Any]:
    """The names that a sample leaves; it may await, and finds the names ``given``."""
    names = {"__name__": "sample", **given}
    work = eval(compile(code, document, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(work):
        asyncio.run(work)
    return names


@pytest.mark.slow
def test_the_page_on_python_runs(homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its indented lines as one program, and then each call within a sentence."""
    monkeypatch.chdir(homes[PYTHON])
    text = text_of(PYTHON).partition("\n## Functions")[0]
    lines, calls = re.findall(r"^    (\S.*)$", text, re.MULTILINE), re.findall(r"`(retouch\.\w+\([^`]*\))`", text)
    assert lines
    assert calls
    names = run_sample("\n".join(lines), PYTHON)
    assert names["run"].encoder == Path("runs/mine/encoder")
    dataset = [picture(number, 40, 36) for number in range(PICTURES)]
    for code in calls:
        run_sample(f"found = {code}", PYTHON, retouch=names["retouch"], dataset=dataset)
