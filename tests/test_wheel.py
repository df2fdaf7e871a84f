"""The installed package: a wheel with the recipes, which works from any folder without the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from common.recipes import recipes, sweeps
from tests.common.data.samples import write_folder

ROOT = Path(__file__).resolve().parents[1]
PACKED = ("common", "configs", "finetune", "pretrain", "retouch", "README.md", "LICENSE", "pyproject.toml")


class Installed(NamedTuple):
    """A wheel, and the folder that it is installed into."""

    wheel: Path
    site: Path

    def run(self, here: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of it, or Python, in a folder."""
        program = (
            [sys.executable, *command[1:]]
            if command[0] == "python"
            else [str(self.site / "bin" / command[0]), *command[1:]]
        )
        environment = {**os.environ, "PYTHONPATH": str(self.site), "WANDB_MODE": "disabled"}
        done = subprocess.run(program, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy, since setuptools also packs what it finds in an old build folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", out, source], check=True)
    [wheel] = out.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", out / "site", wheel], check=True)
    return Installed(wheel, out / "site")


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_recipes_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKED[:5])
    assert {name for name in names if name.endswith(".yaml")} == {
        f"configs/{one.stage}/{one.name}.yaml" for one in [*recipes(), *sweeps()]
    }
    assert "retouch/reporting/page.html.jinja" in names
    assert {f"{package}/py.typed" for package in ("common", "finetune", "pretrain", "retouch")} <= set(names)


@pytest.mark.slow
def test_an_installed_program_works_from_a_folder_of_the_user(installed: Installed, tmp_path: Path) -> None:
    write_folder(tmp_path / "my pictures")
    found = json.loads(installed.run(tmp_path, "retouch", "recipes", "--json").stdout)
    assert len(found) == len(recipes())
    assert all(Path(one["path"]).is_relative_to(installed.site) for one in found)

    # one process for all: it imports torch once
    small = ["batch_size=4", "data.workers=0", "encoder.model_args={width: 4, depth: 1}"]
    pretrained = ["denoise", "data=my pictures", "steps=2", *small]
    quick = ["data.workers=0", "knn=null", "damage=[]", "null_check=false", "properties=false", "probe.layers=[-1]"]
    pictures = ["data=my pictures", "data.test=my pictures", "probe.validation=0.4", "probe.l2=[0.01]"]
    probed = ["encoder=runs/denoise-1", *pictures, *quick]
    script = (
        "from retouch.cli import main\n"
        f"assert main(['pretrain', *{pretrained}]) == main(['probe', *{probed}]) == main(['report', 'runs']) == 0\n"
        "assert main(['demo', '--probe', 'knm=null', '--out', 'demo']) == 2\n"  # by its recipes, it finds the mistake
        "import retouch, common, pretrain, finetune\n"
        "print(retouch.__file__, common.__file__, len(retouch.__all__), sep='\\n')"
    )
    done = installed.run(tmp_path, "python", "-c", script)
    assert "run folder: runs/denoise-1" in done.stderr
    assert "knm: unknown key; did you mean 'knn'?" in done.stderr
    assert not (tmp_path / "demo").exists()
    *said, ours, shared, _ = done.stdout.splitlines()
    assert "report.html" in said
    assert all(Path(path).is_relative_to(installed.site) for path in (ours, shared))
    [result] = json.loads((tmp_path / "runs" / "linear-1" / "results.json").read_text())["results"]
    assert (result["task"], result["classes"]) == ("label", ["cat", "dog"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does denoise beat the same network untrained, on " in page
    assert "versions: " not in page
    assert "torch " in page  # of train.log
