"""Small stand-ins for transfer: an encoder whose maps are easy to compute, and labeled images given by a formula."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.data import Images, Labels, Source
from common.encoders.base import Encoder, View
from finetune.records import CodeProperties, DataFacts, EncoderFacts, ProbeChoice, Setting
from finetune.results import Comparison, FinetuneResult, Probed, ProbeResult, Score, StepChoice, SubjectResult, Tuned


class HalvingEncoder(Encoder):
    """Two maps: the standardized image averaged to half and to a quarter of its side, times a weight."""

    def __init__(self, size: int = 8, weight: float = 1.0) -> None:
        super().__init__("halving", size, "rgb", mask_channel=False)
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.passes = 0
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        self.passes += 1
        half = torch.nn.functional.avg_pool2d(self.prepare(images), 2) * self.weight
        return [half, torch.nn.functional.avg_pool2d(half, 2)]


class BrightSource(Source):
    """Seeded noise; class k is brighter in its k-th quarter, so the position of the light separates the classes."""

    tasks = ("quarter",)

    def __init__(self, length: int = 60, classes: int = 3, size: int = 8, seed: int = 0, name: str = "bright") -> None:
        self.spec, self.seed, self.classes = name, seed, classes
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 130, (length, 3, size, size), generator=generator, dtype=torch.uint8)
        self.values = torch.arange(length) % classes
        half = size // 2
        for row, label in enumerate(self.values.tolist()):
            top, left = divmod(label, 2)
            pixels[row, :, top * half : (top + 1) * half, left * half : (left + 1) * half] += 60
        self.pixels = pixels

    @property
    def fingerprint(self) -> str:
        return f"{self.spec} {self.seed} {len(self)}"

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image | Tensor:
        return self.pixels[index]

    def where(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        values = self.values if rows is None else self.values[rows]
        return Labels(values, tuple(f"q{k}" for k in range(self.classes)), self.resolve(task))


class Shuffled(Source):
    """Another source with its labels in another order."""

    def __init__(self, source: Source) -> None:
        self.source, self.spec, self.tasks, self.endless = source, source.spec, source.tasks, source.endless

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Any:
        return self.source.image(index)

    def bulk(self, rows: Tensor) -> Any:
        return self.source.bulk(rows)

    def where(self, index: int) -> str:
        return self.source.where(index)

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        labels = self.source.labels(task, rows)
        return labels._replace(values=labels.values.roll(1))


def bright_images(length: int = 60, seed: int = 0, classes: int = 3) -> Images:
    source = BrightSource(length, classes, seed=seed)
    return Images(source, 8, torch.arange(length), source.pixels)


def score_of(accuracy: float, n: int = 10_000) -> Score:
    """A score with an interval of one point on each side."""
    return Score(accuracy=accuracy, ci95=(accuracy - 0.01, accuracy + 0.01), per_class=(None,), confusion=((n,),), n=n)


def gain_of(difference: float) -> Comparison:
    """A difference with an interval of two points on each side."""
    interval = (difference - 0.02, difference + 0.02)
    return Comparison(difference=difference, ci95=interval, p_value=0.01, n10=30, n01=10)


def probed(accuracy: float, setting: Setting, n: int = 10_000, gain: float | None = None, **damaged: float) -> Probed:
    choice = ProbeChoice(
        val_accuracy=accuracy,
        how="held-out 10%",
        layer="0+1+2",
        pooling="avg",
        features=8,
        setting=setting,
        at_end_of_grid=False,
    )
    return Probed(
        choice=choice,
        n_train=20_000,
        n_val=2000,
        test=score_of(accuracy, n),
        seconds=1.0,
        compared={} if gain is None else {"random_init": gain_of(gain), "pixels": gain_of(gain + 0.1)},
        damaged={name: score_of(value) for name, value in damaged.items()},
    )


def probe_result(
    task: str, accuracy: float, pretext: str = "denoise", view: View = "rgb", n: int = 10_000, **data: str
) -> ProbeResult:
    """A result of three subjects and two probes each, as tables show them."""

    def subject(
        value: float, view: View = view, gain: float | None = None, damaged: dict[str, float] | None = None
    ) -> SubjectResult:
        linear = probed(value, {"l2": 0.001}, n, gain, **(damaged or {}))
        return SubjectResult(view=view, probes={"linear": linear, "knn": probed(value / 2, {"k": 20}, n, gain)})

    return ProbeResult(
        task=task,
        classes=("one",),
        needs_color=task == "color",
        data=DataFacts.model_validate(
            {"train": "shapes:train:20000", "test": "shapes:test:4000", "image_size": 32, "duplicates": 0} | data
        ),
        protocol="tested once",
        encoder=EncoderFacts(path="e", name="small_cnn", view=view, pretext=pretext, sha256="0" * 64),
        subjects={
            "encoder": subject(accuracy, gain=0.2, damaged={"gaussian sigma=0.1": 0.3, "gray": 0.2}),
            "random_init": subject(accuracy - 0.2),
            "pixels": subject(0.25, "rgb"),
        },
        code=CodeProperties(
            size=2048,
            nonzeros=12.3,
            bytes=98.4,
            invariance={"gaussian": 0.912, "shift": -1.234, "flip": None, "brightness": 1.0, "gray": -0.001},
        ),
    )


def hits(share: float, n: int = 1000, draws: int = 1) -> Tensor:
    """Which of ``n`` test images are answered right: the first ones, in every draw, ``[draws n]``."""
    return (torch.arange(n) < share * n).expand(draws, -1)


def finetune_result(tuned: float, probe: float, over_probe: Comparison | None = None) -> FinetuneResult:
    """The accuracies of a fine-tuned network and of a linear probe, and how they compare."""
    result = probe_result("shape", probe)
    choice = StepChoice(val_accuracy=0.5, step=450, of_steps=1000)
    compared = {} if over_probe is None else {"linear_probe": over_probe}
    return FinetuneResult(
        task="shape",
        classes=result.classes,
        data=result.data,
        protocol="trained",
        start="runs/denoise/encoder",
        encoder_sha256="0" * 64,
        tuned=Tuned(choice=choice, n_train=90, n_val=10, test=score_of(tuned), seconds=1.5, compared=compared),
        linear_probe=result.linear,
    )
