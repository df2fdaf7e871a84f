"""Build a timm model suited to small images, or say in one line why that fails."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from common.encoders.config import Args, EncoderConfig
from common.encoders.small_stem import replace_stem
from common.errors import UserError, cache_refused, one_line

log = logging.getLogger("retouch")

SMALL_STEM_UP_TO = 64  # px; above it, a ResNet's own stem (7x7, then pooling) leaves enough resolution
MIN_SIDE, MIN_GRID = 4, 8  # smallest side of a convolutional network's last map, and of a token grid
SIZES = (48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512)  # px, of which one is proposed where another is refused
MANAGED = {  # model arguments that Retouch sets itself, and what to do instead
    "in_chans": "it is determined by the pretext",
    "num_classes": "it is determined by the labels",
    "features_only": "features are read from the whole model",
    "out_indices": "every stage is read",
    "pretrained": "set encoder.pretrained",
    "pretrained_cfg": "set encoder.pretrained",
    "pretrained_cfg_overlay": "set encoder.pretrained",
    "checkpoint_path": "export an encoder folder and use its path",
    "patch_drop_rate": "use the pretext `mask`, which drops patches and records which",
}


def create_timm_model(config: EncoderConfig, image_size: int) -> tuple[Any, EncoderConfig]:
    """The timm model without a classifier, and the config with every automatic choice made explicit.

    Raises:
        UserError: no such model, wrong ``model_args``, or timm cannot build it or download its weights.
    """
    architecture = config.name.removeprefix("timm/")
    _check_name(architecture)
    problems = [f"encoder.model_args.{key}: {MANAGED[key]}; remove it" for key in config.model_args if key in MANAGED]
    args = _sized(architecture, config.model_args, image_size)
    if args.get("img_size", image_size) not in (image_size, [image_size] * 2, (image_size,) * 2):
        problems.append(
            f"encoder.model_args.img_size is {args['img_size']}, but images are {image_size} px; "
            f"remove it, or set data.image_size={args['img_size']}"
        )
    if problems:
        raise UserError(*problems)

    try:
        model = _create(architecture, config.pretrained, args)
    except UserError as error:
        size = None if config.pretrained else other_size(config, image_size)
        if size is None:
            raise
        raise UserError(f"{error}; set data.image_size={size}") from error
    if not hasattr(model, "forward_intermediates"):
        raise UserError(
            f"{config.name} cannot be used as an encoder: it has no intermediate features in timm "
            "(no forward_intermediates); use another model"
        )
    stem = config.stem
    if stem == "auto":
        small = isinstance(model, ResNet) and image_size <= SMALL_STEM_UP_TO and not config.pretrained
        stem = "small" if small else "default"
        if stem == "default" and not config.pretrained:
            model, args = _finer(config.name, model, image_size, args)
    if stem == "small":
        replace_stem(config.name, model)
        if config.pretrained:
            log.warning("%s: the small stem has no pretrained weights and starts from random ones", config.name)
    return model, config.model_copy(update={"model_args": args, "stem": stem})


def add_mask_channel(model: Any, config: EncoderConfig) -> bool:
    """Add a fourth input channel with zero weights to the first convolution; False if the model has no such layer.

    It is one slice of one weight, so an export can drop it without changing the features of whole images.
    """
    name = "conv1" if config.stem == "small" else model.pretrained_cfg.get("first_conv")
    first = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    if not isinstance(first, nn.Conv2d) or first.in_channels != 3 or first.groups != 1:
        return False
    first.weight = nn.Parameter(torch.cat([first.weight.detach(), torch.zeros_like(first.weight[:, :1])], dim=1))
    first.in_channels = 4
    return True


def other_size(config: EncoderConfig, image_size: int, model: Any = None) -> int | None:
    """The next larger size of images that a model takes where it refuses ``image_size``, else the next smaller one.

    Args:
        model: the one that refuses, if there is one.
    """
    architecture = config.name.removeprefix("timm/")
    args = {key: value for key, value in config.model_args.items() if key != "img_size"}
    described = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    own = [] if described is None else [int(described.input_size[-1]), int(described.input_size[-1]) // 2]
    for size in sorted({*SIZES, *own} - {image_size}, key=lambda size: (size < image_size, abs(size - image_size))):
        other, sized = model, _sized(architecture, args, size)
        if model is None or "img_size" in sized:  # a network of its own for each size: on meta, for shapes alone
            try:
                with torch.device("meta"):
                    other = _create(architecture, False, sized)
            except UserError:
                continue
        if _takes(other, size):
            return size
    return None


def _takes(model: Any, size: int) -> bool:
    """Whether timm's model gives maps of images of this size."""
    training = model.training
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            maps = model.eval().forward_intermediates(image, intermediates_only=True)
    except Exception:  # third-party networks raise anything
        return False
    finally:
        model.train(training)
    return all(tensor.ndim == 4 and 0 not in tensor.shape for tensor in maps)


def _sized(architecture: str, model_args: Args, image_size: int) -> Args:
    """The arguments, with the size of the images where the model must know it."""
    described = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    fixed = described is not None and described.fixed_input_size
    return ({"img_size": image_size} if fixed else {}) | model_args


def _check_name(architecture: str) -> None:
    known = timm.list_models()
    base, _, tag = architecture.partition(".")
    if base not in known:
        raise UserError(f"encoder.name: timm has no model {base!r}{nearest(base, known)}")
    if tag and architecture not in timm.list_pretrained(f"{base}.*"):
        tags = ", ".join(f"timm/{name}" for name in timm.list_pretrained(f"{base}.*"))
        raise UserError(f"encoder.name: timm has no weights {architecture!r}; it has {tags or 'none for this model'}")


def nearest(word: str, models: Iterable[str], own: Collection[str] = ()) -> str:
    """``; did you mean ...?`` with up to three similar names of timm models and our own encoders, or nothing."""
    close = difflib.get_close_matches(word, [*own, *models], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(name if name in own else f'timm/{name}' for name in close)}?" if close else ""


def _create(architecture: str, pretrained: bool, args: Args) -> Any:
    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=0, in_chans=3, **args)
    except Exception as error:  # timm and its downloaders raise anything
        reason = one_line(error)
        if pretrained and (kept := cache_refused(error, "HF_HOME (or TORCH_HOME)")):
            raise UserError(f"timm/{architecture}: its pretrained weights: {kept}") from error
        if pretrained:
            raise UserError(
                f"timm/{architecture}: its pretrained weights cannot be downloaded or do not match these model_args "
                f"({reason}); check the network and model_args, or set encoder.pretrained=false"
            ) from error
        raise UserError(f"timm/{architecture} cannot be built with model_args {args}: {reason}") from error


def _finer(name: str, model: Any, image_size: int, args: Args) -> tuple[Any, Args]:
    """The same architecture with a lower patch size or output stride, if its last map is too coarse."""
    if {"patch_size", "output_stride"} & set(args):
        return model, args  # the user's choice
    strides = [_stride(info) for info in getattr(model, "feature_info", [])]
    if not strides:
        return model, args
    wanted = MIN_GRID if len(set(strides)) == 1 else MIN_SIDE
    if image_size / strides[-1] >= wanted:
        return model, args
    parameters = inspect.signature(type(model).__init__).parameters
    patches = [p for p in range(_patch_size(model, parameters) - 1, 0, -1) if image_size % p == 0]
    choices = [{"patch_size": p} for p in patches if image_size / p >= wanted]
    if "output_stride" in parameters:
        choices += [{"output_stride": stride} for stride in (16, 8)]
    finer: list[tuple[float, Any, dict[str, int]]] = []  # side of the last map, model, what was changed
    for choice in choices:
        try:
            candidate = _create(model.pretrained_cfg["architecture"], False, args | choice)
        except UserError:
            continue  # some models have the argument but reject the value, at once or when they see an image
        side = image_size / _stride(candidate.feature_info[-1])
        if side >= wanted and _takes(candidate, image_size):
            finer.append((side, candidate, choice))
            if side < 2 * wanted:
                break  # a map of half this side would be too coarse, so none is cheaper
    if not finer:
        return model, args
    side, chosen, choice = min(finer, key=lambda found: found[0])  # the cheapest; the first of equals
    key, value = next(iter(choice.items()))
    log.info("%s: set %s=%d, so that the last map of a %d px image is %dx%d", name, key, value, image_size, side, side)
    return chosen, args | choice


def _stride(info: dict[str, Any]) -> int:
    stride = info["reduction"]
    return int(max(stride)) if isinstance(stride, (tuple, list)) else int(stride)


def _patch_size(model: Any, parameters: Mapping[str, inspect.Parameter]) -> int:
    """The patch size in use; 0 if the model has no such argument."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None and "patch_size" in parameters:
        patch = parameters["patch_size"].default
    return int(max(patch)) if isinstance(patch, (tuple, list)) else int(patch or 0)
