"""Retouch: learn from images without labels, by restoring damaged ones.

    import retouch

    result = retouch.pretrain("denoise", "data=my/pictures", "out=runs/mine")
    encoder = retouch.load_encoder(result.encoder)
    vectors = encoder.encode(images)  # [B 3 H W], RGB in [0, 1] -> [B D]

Each stage takes the name of a recipe, the path of a YAML file, a mapping or a config object, and ``key.sub=value``
overrides. A string is a path if it ends in .yaml or contains a separator. ``predict`` takes a finished run instead:

    retouch.predict("runs/mine-probe", "data=my/new")
    classifier = retouch.load_classifier("runs/mine-probe")  # images [B 3 H W] -> logits [B classes]
"""

from __future__ import annotations

from retouch.interrupts import end_plainly

end_plainly()  # before anything that takes time

from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from retouch.packages import check_packages  # noqa: E402

check_packages()  # before ours are imported

from common.config import validate  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.machine.turns import in_thread, in_turn  # noqa: E402
from common.recipes import Settings, stage_config  # noqa: E402
from retouch.calls import stage  # noqa: E402
from retouch.networks import load_classifier, load_encoder, open_restorer  # noqa: E402
from retouch.pages import label, model_card, report  # noqa: E402
from retouch.pictures import atoms_picture, read_images, write_images  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from common.data.given import Items
    from common.encoders.base import Encoder
    from finetune.embed import EmbedResult
    from finetune.predict.run import PredictResult
    from finetune.results import FinetuneResult, ProbeReport
    from finetune.search.run import SearchResult
    from pretrain.linear.base import LinearMethod
    from pretrain.restoring.results import RestoreResult, StrangeResult
    from pretrain.results import Pretrained
    from retouch.comparison import Repetition
    from retouch.exporting.export import Exported
    from retouch.listing.found import Order, RunFacts
    from retouch.studies.results import StudyReport

__all__ = [
    "UserError",
    "atoms_picture",
    "embed",
    "export",
    "finetune",
    "fit",
    "images",
    "in_thread",
    "label",
    "load_classifier",
    "load_encoder",
    "model_card",
    "open_restorer",
    "predict",
    "pretrain",
    "probe",
    "read_images",
    "repeat",
    "report",
    "restore",
    "runs",
    "search",
    "strange",
    "study",
    "write_images",
]


@stage
def pretrain(config: Settings, *overrides: str) -> Pretrained:
    """Fit an encoder on unlabeled images. See ``pretrain.config.PretrainConfig`` for the settings.

    Returns:
        The exported folder, its sha256, and how training ended; with ``seeds``, the folder of all runs and a summary.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from pretrain.config import PretrainConfig
    from pretrain.seeds import pretrain as work

    return work(stage_config(PretrainConfig, config, overrides))


@stage
def probe(config: Settings | None = None, *overrides: str) -> ProbeReport:
    """Evaluate a frozen encoder on labeled tasks with baselines. See ``finetune.config.ProbeConfig`` for the settings.

    Returns:
        The content of ``results.json``; ``report.results[0].linear.test.accuracy`` is for the first task. With
        ``seeds``, ``results`` holds the results of every seed, and ``report.seeds`` their mean and spread.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from finetune.config import ProbeConfig
    from finetune.seeds import probe as work

    return work(stage_config(ProbeConfig, config, overrides))


@stage
def finetune(config: Settings | None = None, *overrides: str) -> FinetuneResult | None:
    """Fine-tune the whole encoder with a new head. See ``finetune.config.FinetuneConfig`` for the settings.

    Returns:
        The content of ``results.json``; None if a signal stopped training.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from finetune.config import FinetuneConfig
    from finetune.full import finetune as work

    return work(stage_config(FinetuneConfig, config, overrides))


@stage
def study(config: Settings | None = None, *overrides: str) -> StudyReport | None:
    """Find out whether pretraining helps, and with which method. See ``retouch.studies.config`` for the settings.

    Returns:
        The content of ``results.json``; ``report.verdict`` is the answer. None if a signal stopped training.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from retouch.studies.config import StudyConfig
    from retouch.studies.run import study as work

    return work(stage_config(StudyConfig, config, overrides))


def repeat(result: str | Path, out: str | Path | None = None, *, resume: bool = False) -> Repetition | None:
    """Run a result of pretraining, a probe, fine-tuning or a study again with its settings, and compare every number.

    Args:
        result: a ``results.json``, or the run folder around it.
        out: the folder of the repetition; by default ``RESULT-repeat-1``, or the next free number.
        resume: continue a repetition that was stopped, in ``out``.

    Returns:
        Its ``verdict``: ``identical``, ``within the interval`` or ``different``. None if a signal stopped it.

    Raises:
        UserError: there is no such result, or it cannot be repeated; nothing has been written.
    """
    from retouch.repetition import repeat as work

    with in_turn():
        return work(result, out, resume=resume)


def images(items: Items, name: str = "images", labels: Items | None = None) -> str:
    """Give images in memory a name that settings can use in place of a path.

        data = retouch.images(dataset, "birds")
        retouch.pretrain("denoise", f"data={data}")

    Args:
        items: PIL images, arrays ``[h w 3]`` or tensors ``[3 h w]`` (uint8, or float in [0, 1]), or the bytes of image
            files: a list of them, a tensor ``[N 3 h w]``, a column of pandas, or a torch ``Dataset`` with a length,
            whose items may be tuples of an image and its class. An item must be the same every time it is
            read: no random augmentation. One that cannot be read is left out later.
        name: their name, which is taken from any images that had it before.
        labels: one class per image, a word or a number, as a list, a tensor or a column of pandas; by default those
            of the data set.

    Returns:
        ``memory:NAME``, for ``data=`` and all other settings that name images, in this program only.

    Raises:
        UserError: there are no items, or they are not images; labels are too few, too many or not classes; items or
            labels are a table or a mapping, which have no order 0, 1, ...
    """
    from common.data.given import hold

    return hold(items, name, labels)


@stage
def search(run: Settings, *overrides: str) -> SearchResult:
    """Find the images most similar to some query images, by an encoder's features. See ``finetune.search.config``.

        found = retouch.search("runs/mine", "data=my/pictures", "query=image.jpg")

    Args:
        run: a finished run of ``pretrain`` or ``finetune``, or its encoder; or a mapping of all settings.

    Returns:
        ``found``, the neighbors of each query, nearest first, and the paths of the table and the contact sheet.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from finetune.search.config import SearchConfig
    from finetune.search.run import search as work

    return work(stage_config(SearchConfig, run, overrides))


def runs(folder: str | Path = "runs", sort: Order = "started") -> tuple[RunFacts, ...]:
    """List the runs in a folder and below: stage, recipe, state, headline, size.

    Args:
        sort: ``started``, ``name``, ``stage``, ``state``, ``result`` or ``size``; the latest and largest first.
            ``result``: accuracies, then mAP, mIoU, PSNR, reconstruction errors, no number; the best of each first.

    Raises:
        UserError: there is no such folder or order.
    """
    from retouch.listing.found import find_runs

    return find_runs(folder, sort)


@stage
def embed(config: Settings | None = None, *overrides: str) -> EmbedResult:
    """Write path, label and features of every image to parquet.

    Returns:
        The file's ``path``, and the storage size of its features.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from finetune.config import EmbedConfig
    from finetune.embed import embed as work

    return work(stage_config(EmbedConfig, config, overrides))


@stage
def predict(run: Settings, *overrides: str) -> PredictResult:
    """Write class or labels and probabilities of every image to a file. See ``finetune.predict.config`` for settings.

        found = retouch.predict("runs/mine-probe", "data=my/new")
        table = pandas.read_csv(found)

    Args:
        run: a finished run of ``probe`` or ``finetune``, or one of its classifiers; or a mapping of all settings.

    Returns:
        The file's ``path``, and how many images each class or label has.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from finetune.predict.config import PredictConfig
    from finetune.predict.run import predict as work

    return work(stage_config(PredictConfig, run, overrides))


@stage
def export(run: Settings, *overrides: str) -> Exported:
    """Write a trained network for timm, ONNX Runtime, torch alone or the Hugging Face Hub.

        done = retouch.export("runs/mine", "to=exports/mine", "format=onnx")

    Args:
        run: a finished run, its ``encoder/`` or ``classifier/`` folder, ``hf:USER/NAME``, or a mapping of settings. See
            ``retouch.exporting.settings.ExportConfig`` for the settings.

    Returns:
        Its ``folder`` and ``files``, and the ``max_difference`` from the network in torch on ``images_checked`` images.

    Raises:
        UserError: with every problem, and nothing has been written; or it could not be uploaded.
    """
    from retouch.exporting.export import export as work
    from retouch.exporting.settings import export_config

    return work(export_config(run, *overrides))


def fit(
    config: LinearMethod | Settings,
    images: Tensor,
    other: Tensor | None = None,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Encoder:
    """Learn from images in memory, without a run folder.

        encoder = retouch.fit("denoise", images, steps=500)
        encoder = retouch.fit({"kind": "pca", "components": 16}, images)

    Args:
        config: a pretraining recipe, as for ``retouch.pretrain``, whose data is ignored; or, for the linear family
            only, a method of ``pretrain.linear`` or a mapping with its ``kind``.
        images: ``[N 3 S S]``, RGB in [0, 1]; for CCA with ``views: neighbors``, of twice the encoder's side.
        other: CCA's second view with ``views: other``, row by row, or TCA's second domain ``[M 3 S S]``.
        steps: replaces the recipe's. Without a recipe, sparse coding and patch dictionaries make one pass over the
            images, and no other method takes steps.
        batch_size: replaces the recipe's; 256 without a recipe.
        seed: replaces the recipe's; 0 without a recipe.

    Returns:
        The encoder, frozen and in eval mode, on the device of ``images``; on the CPU it equals what ``pretrain``
        exports for the same settings and images.

    Raises:
        UserError: with every problem in the settings and the images.
    """
    from pretrain.config import PretrainConfig
    from pretrain.in_memory import fit as work
    from pretrain.in_memory import fit_recipe
    from pretrain.linear import OneMethod
    from pretrain.linear.base import LinearMethod

    asked = {"steps": steps, "batch_size": batch_size, "seed": seed}
    given = {key: value for key, value in asked.items() if value is not None}
    if isinstance(config, Mapping) and "kind" in config:
        config = validate(OneMethod, {"fit": dict(config)}).fit
    changes = [f"{key}={value}" for key, value in given.items()]
    if steps is not None:
        changes.append("epochs=null")
    with in_turn():
        if isinstance(config, LinearMethod):
            return work(config, images, other, **given)
        return fit_recipe(stage_config(PretrainConfig, config, changes), images, other)


@stage
def restore(run: Settings, *overrides: str) -> RestoreResult:
    """Restore pictures at their own resolution with the decoder that a run kept.

        result = retouch.restore("runs/mine", "data=my/pictures", "damage=recipe")
        result.folder, result.after  # where they are; mean PSNR and SSIM

    See ``pretrain.restoring.config.RestoreConfig`` for the settings, and ``open_restorer`` for tensors.

    Args:
        run: a finished run of pretraining, or its ``decoder/`` folder; or a mapping of all settings.

    Returns:
        The content of ``results.json``; ``pictures`` holds the measurements of each.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from pretrain.restoring.config import RestoreConfig
    from pretrain.restoring.restore import restore as work

    return work(stage_config(RestoreConfig, run, overrides))


@stage
def strange(run: Settings, *overrides: str) -> StrangeResult:
    """Rank pictures by how much worse a run restores them than equally hard ones.

    See ``pretrain.restoring.config.StrangeConfig`` for the settings.

    Args:
        run: a finished run of pretraining, or its ``decoder/`` folder; or a mapping of all settings.

    Returns:
        The content of ``results.json``; ``pictures`` ranks all of them, the strangest first.

    Raises:
        UserError: with every problem at once; nothing has been written.
    """
    from pretrain.restoring.config import StrangeConfig
    from pretrain.restoring.strange import strange as work

    return work(stage_config(StrangeConfig, run, overrides))
