"""How little a new part touches: each is added to a copy of the project, in as few files as promised, and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "pretrain", "finetune", "retouch", "configs")


class Part(NamedTuple):
    """A new file, and the one file that names it: each text there and what replaces it, a name and its import."""

    most_files: int
    file: str
    text: str
    register: str
    edits: tuple[tuple[str, str], ...]


PARTS = {
    "corruption": Part(
        2,
        "common/corruptions/stripes.py",
        '''
from typing import Literal
from torch import Tensor
from common.corruptions.base import Corruption

class Stripes(Corruption):
    """Every other row is black."""

    kind: Literal["stripes"] = "stripes"

    def __call__(self, images: Tensor) -> Tensor:
        images = images.clone()
        images[:, :, ::2] = 0
        return images
''',
        "common/corruptions/__init__.py",
        (
            ("Gray | Holes,", "Gray | Holes | Stripes,"),
            (
                "from common.corruptions.salt_pepper import SaltPepper\n",
                "from common.corruptions.salt_pepper import SaltPepper\n"
                "from common.corruptions.stripes import Stripes\n",
            ),
        ),
    ),
    "pretext": Part(
        2,
        "pretrain/gradient/pretexts/unflip.py",
        '''
from typing import Literal
from torch import Tensor
from common.encoders.base import Encoder
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.restore import Restore

class Unflip(Restore):
    """Restore an image from its mirror image."""

    kind: Literal["unflip"] = "unflip"

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        return Example(input=images.flip(3), clean=images, target=images)
''',
        "pretrain/gradient/pretexts/__init__.py",
        (
            ("Mixed | Identity,", "Mixed | Identity | Unflip,"),
            (
                "from pretrain.gradient.pretexts.mixed import Mixed\n",
                "from pretrain.gradient.pretexts.mixed import Mixed\n"
                "from pretrain.gradient.pretexts.unflip import Unflip\n",
            ),
        ),
    ),
    "encoder": Part(
        2,
        "common/encoders/averages.py",
        '''
from torch import Tensor, nn
from common.encoders.base import Encoder, View
from common.encoders.config import EncoderConfig

class Averages(Encoder):
    """One strided convolution."""

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        super().__init__(config.name, image_size, view, mask_channel)
        self.last = nn.Conv2d(4 if mask_channel else 3, 8, 4, stride=4)
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        return [self.last(self.prepare(images))]
''',
        "common/encoders/build.py",
        (
            ('    "mlp": MLP,\n', '    "mlp": MLP,\n    "averages": Averages,\n'),
            (
                "from common.encoders.config import EncoderConfig\n",
                "from common.encoders.averages import Averages\nfrom common.encoders.config import EncoderConfig\n",
            ),
        ),
    ),
    "source": Part(
        2,
        "common/data/ramps.py",
        '''
import torch
from torch import Tensor
from common.data.request import Request
from common.data.source import Labels, Source

class RampsSource(Source):
    """64 images of one gray each, bright ones and dark ones."""

    tasks = ("bright",)

    def __init__(self, request: Request) -> None:
        self.spec = request.spec

    @property
    def fingerprint(self) -> str:
        return "ramps"

    def __len__(self) -> int:
        return 64

    def image(self, index: int) -> Tensor:
        return torch.full((3, 16, 16), 3 * index, dtype=torch.uint8)

    def where(self, index: int) -> str:
        return f"ramps[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        values = (torch.arange(64) >= 32).long()
        return Labels(values if rows is None else values[rows], ("dark", "bright"), self.resolve(task))
''',
        "common/data/build.py",
        (
            ("SOURCES = {\n", 'SOURCES = {\n    "ramps": Scheme("ramps:NAME", RampsSource),\n'),
            (
                "from common.data.request import Request, Scheme\n",
                "from common.data.ramps import RampsSource\nfrom common.data.request import Request, Scheme\n",
            ),
        ),
    ),
    "linear method": Part(
        2,
        "pretrain/linear/first_pixels.py",
        '''
from typing import Literal
import torch
from torch import Tensor
from common.encoders import EncoderConfig
from common.encoders.linear import Linear
from pretrain.linear.base import LinearMethod, SampleLearner

class FirstPixels(LinearMethod):
    """The code is the first pixels of an image."""

    kind: Literal["first_pixels"] = "first_pixels"
    components: int = 4

    @property
    def streams(self) -> bool:
        return False

    def encoder_config(self) -> EncoderConfig:
        return EncoderConfig(name="linear", model_args={"code": self.components})

    @property
    def learner(self) -> type["FirstPixelsLearner"]:
        return FirstPixelsLearner


class FirstPixelsLearner(SampleLearner):
    encoder: Linear

    def initialize(self, sample: Tensor) -> None:
        self.encoder.code.weight.copy_(torch.eye(*self.encoder.code.weight.shape))
''',
        "pretrain/linear/__init__.py",
        (
            ("AnyLinear = Annotated[Pca |", "AnyLinear = Annotated[FirstPixels | Pca |"),
            (
                "from pretrain.linear.ica import Ica\n",
                "from pretrain.linear.first_pixels import FirstPixels\nfrom pretrain.linear.ica import Ica\n",
            ),
        ),
    ),
    "probe": Part(
        2,
        "finetune/probes/majority.py",
        '''
from collections.abc import Sequence
from typing import Literal
import torch
from torch import Tensor
from finetune.probes.base import Classifiers, Probe, Rows
from finetune.probes.search import Task
from finetune.records import Setting

class Majority(Probe):
    """Answers the most frequent class."""

    kind: Literal["majority"] = "majority"

    def grid(self, task: Task) -> Sequence[Setting]:
        return [{}]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Classifiers:
        return MostFrequent(int(rows.labels.bincount().argmax()))


class MostFrequent(Classifiers):
    def __init__(self, answer: int) -> None:
        self.answer = answer

    def predict(self, features: Tensor) -> Tensor:
        return torch.full((1, len(features)), self.answer)
''',
        "finetune/probes/__init__.py",
        (
            ("AnyProbe = Annotated[Linear |", "AnyProbe = Annotated[Majority | Linear |"),
            (
                "from finetune.probes.linear import Linear\n",
                "from finetune.probes.linear import Linear\nfrom finetune.probes.majority import Majority\n",
            ),
        ),
    ),
}

USE = """
import retouch

data = {"source": "ramps:all", "image_size": 16, "workers": 0}
quiet = {"wandb": {"mode": "disabled"}}
retouch.pretrain({
    "out": "striped", "steps": 2, "batch_size": 8, "data": data, "encoder": {"name": "averages"}, **quiet,
    "pretext": {"kind": "denoise", "corruption": {"kind": "stripes"}},
})
short = {"steps": 2, "batch_size": 8, "encoder": {"model_args": {"width": 8, "depth": 1}}}
retouch.pretrain({"out": "unflipped", "data": data, "pretext": {"kind": "unflip"}, **short, **quiet})
retouch.pretrain({"out": "first", "data": data, "fit": {"kind": "first_pixels"}, **quiet})
retouch.probe({
    "out": "probe", "encoder": "first/encoder", "data": {"train": "ramps:all", "workers": 0}, "knn": None,
    "more_probes": [{"kind": "majority"}], "damage": [{"kind": "stripes"}],
    "feature_cache": False, "null_check": False, "properties": False, **quiet,
})
"""


@pytest.mark.slow
def test_every_kind_of_part_is_added_in_as_few_files_as_promised_and_works(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)  # with its bytecode
    for kind, part in PARTS.items():
        assert len({part.file, part.register}) <= part.most_files, kind
        assert len(part.edits) <= 2, kind
        assert not (tmp_path / part.file).exists()
        (tmp_path / part.file).write_text(part.text, encoding="utf-8")
        text = (tmp_path / part.register).read_text(encoding="utf-8")
        for old, new in part.edits:
            assert text.count(old) == 1, (kind, old)
            text = text.replace(old, new)
        (tmp_path / part.register).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for run in ("striped", "unflipped", "first"):
        assert (tmp_path / run / "encoder" / "model.safetensors").is_file()
    [result] = json.loads((tmp_path / "probe" / "results.json").read_text())["results"]
    probes = result["subjects"]["encoder"]["probes"]
    assert probes["majority"]["test"]["accuracy"] < 0.7
    assert probes["linear"]["test"]["accuracy"] > 0.9
    assert "stripes" in probes["linear"]["damaged"]
