"""The encoder contract: a few calls, the same for our encoders and timm's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from common.encoders.config import EncoderConfig
from common.errors import UserError, one_line

View = Literal["rgb", "gray"]
# Whether a fourth input channel marks hidden pixels; "maps": unless the encoder can drop hidden patches (tokens).
MaskChannel = bool | Literal["maps"]

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics, in [0, 1]: what most of timm's models expect
STD = (0.229, 0.224, 0.225)
# Images are RGB in [0, 1]. Resizing and noise may leave that range a little; images in 0..255, in [-1, 1] or
# standardized ones leave it by far.
LOWEST, HIGHEST = -0.5, 1.5
TO_TENSOR = "for a numpy array use torch.from_numpy, for PIL images torchvision.transforms.functional.to_tensor"
# The mean of independent noise is never as many of its own standard errors away from the mean of the clean images.
FAR = 8
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of a gray photograph


@contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block: BatchNorm accepts a batch of one, and dropout draws no random numbers."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def check_own(config: EncoderConfig, mask_channel: bool = False) -> None:
    """Refuse the settings that only timm's models have, and a mask channel where the encoder takes none.

    Raises:
        UserError: with every problem.
    """
    name = config.name
    problems = []
    if config.pretrained:
        problems.append(f"encoder.pretrained: {name} has no pretrained weights; use a timm model, or false")
    if config.stem == "small":
        problems.append(f"encoder.stem: {name} has no stem to replace; leave it at auto")
    if mask_channel:
        problems.append(f"encoder.name: {name} takes no mask channel; use another encoder for masking")
    if problems:
        raise UserError(*problems)


def _refuse_no_tensor(images: object) -> None:
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a torch tensor [B 3 H W], not {type(images).__name__}; {TO_TENSOR}")


def refuse_other_ranges(images: Tensor, noise: float = 0.0) -> None:
    """Refuse images in 0..255, standardized ones and others that are far outside [0, 1]; ``prepare`` refuses no images.

    One pass over the pixels, small compared with a network. A graph that is traced has no such check.

    Args:
        noise: standard deviation of noise that they may have; where it is infinite, only their mean is looked at.

    Raises:
        ValueError: says what to do.
    """
    _refuse_no_tensor(images)
    if torch.compiler.is_compiling() or not images.is_floating_point() or not images.numel():
        return
    low, high = (float(value) for value in images.aminmax())
    if low >= LOWEST - FAR * noise and high <= HIGHEST + FAR * noise:
        if noise:
            refuse_other_means(images[:, :3].float())
        return
    if low != low or high != high:
        hint = "they have NaN"
    elif low >= 0:
        hint = "divide them by 255" if high <= 255 else "scale them to [0, 1]"
    else:
        hint = "do not standardize them: the encoder does that itself"
    raise ValueError(f"images must be RGB in [0, 1], but their values go from {low:.3g} to {high:.3g}; {hint}")


def refuse_other_means(rgb: Tensor) -> None:
    """Refuse images whose mean is far outside [0, 1], which noise does not explain.

    Raises:
        ValueError: says what to do.
    """
    mean = float(rgb.mean())
    if LOWEST <= mean <= HIGHEST or not rgb.numel():
        return
    stray = FAR * float(rgb.std()) / math.sqrt(rgb.numel())
    if not LOWEST - stray <= mean <= HIGHEST + stray:
        hint = "; divide them by 255" if mean > HIGHEST else ""
        raise ValueError(f"images must be RGB in [0, 1], but their mean is {mean:.3g}{hint}")


class Encoder(nn.Module, ABC):
    """Maps images to feature maps.

    A subclass builds its layers in its constructor and ends with ``settle()``.

    Attributes:
        name: its name in the config, e.g. ``small_cnn`` or ``timm/convnext_atto``.
        config: the config that rebuilds it, with every automatic choice made explicit.
        image_size: side in pixels of the square images it was built for.
        view: ``rgb``, or ``gray``: the encoder converts its input to luminance, repeated on three channels.
        mask_channel: whether the input may have a fourth channel, 1 where a pixel is hidden; zero if absent.
        layer_shapes: ``(D, h, w)`` of each map that ``layers`` returns, shallow to deep.
        num_classes: outputs of its classifier; 0 without one.
        narrowed_by: the model argument that sets the width of its code, if there is one.
        statistics: buffers with statistics of the training images rather than learned weights; an untrained twin gets
            them too.
    """

    narrowed_by: ClassVar[str | None] = None
    statistics: ClassVar[tuple[str, ...]] = ()
    name: str
    config: EncoderConfig
    image_size: int
    view: View
    mask_channel: bool
    layer_shapes: list[tuple[int, int, int]]
    num_classes: int
    mean: Tensor
    std: Tensor
    luma: Tensor
    classifier: nn.Linear | None

    def __init__(
        self,
        name: str,
        image_size: int,
        view: View,
        mask_channel: bool,
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.name, self.image_size, self.view, self.mask_channel = name, image_size, view, mask_channel
        self.config = EncoderConfig(name=name)
        self.num_classes, self.classifier = 0, None
        self._frozen = False
        self._trainable: frozenset[str] | None = None  # parameters that reach the output; None: all of them
        # constants, not weights: they follow the device but are not saved
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """``(D, h, w)`` of the last map."""
        return self.layer_shapes[-1]

    @property
    def code_kept(self) -> int | None:
        """The number of entries its code keeps at each position (top-k); None if it keeps all."""
        return None

    @property
    def iterates(self) -> bool:
        """Whether its code comes from a solver that repeats steps until it is done, which no fixed graph can do."""
        return False

    @property
    def body(self) -> nn.Module:
        """The module whose tensors are exported."""
        return self

    def tensors_at(self, size: int) -> dict[str, Tensor]:
        """Parameters and buffers by name, for the same network at images of ``size`` pixels, where they depend on it.

        Those that cannot be translated stay as they are.
        """
        return self.state_dict()

    # ---- images to features

    @abstractmethod
    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 H W]`` (or ``[B 4 H W]`` with a mask channel), RGB in [0, 1] -> maps ``[B D_l h_l w_l]``."""

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] (noise may exceed the range) -> the last map ``[B D h w]``.

        As noise may do anything to single pixels, only their mean is checked, once the encoder is frozen: standardized
        images pass. ``encode`` refuses them.
        """
        return self.layers(images)[-1]

    def encode(self, images: Tensor, layer: int = -1) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> one vector per image ``[B D]``: the average of one layer's map.

        Raises:
            ValueError: not floating-point images ``[B 3 H W]``, or their values are far outside [0, 1].
        """
        refuse_other_ranges(images)
        return self._average(images, layer)

    def _average(self, images: Tensor, layer: int = -1) -> Tensor:
        return self.layers(images)[layer].float().mean(dim=(2, 3))

    def prepare(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], of any precision -> the network's input: view, standardization, mask channel (zero if absent).

        Raises:
            ValueError: not a tensor of floating-point images ``[B 3 H W]``, or, once the encoder is frozen, pixels that
                are not in [0, 1] on average.
        """
        _refuse_no_tensor(images)
        channels = (3, 4) if self.mask_channel else (3,)
        if images.ndim != 4 or images.shape[1] not in channels or not images.is_floating_point():
            raise ValueError(
                f"images must be floating-point RGB in [0, 1], [B 3 H W], not {images.dtype} {list(images.shape)}"
                + ("; divide by 255" if images.dtype == torch.uint8 else "")
                + ("; for one image, pass image[None]" if images.ndim == 3 else "")
            )
        images = images.to(self.luma.dtype)
        rgb, mask = images[:, :3], images[:, 3:]
        # In use, not in training, where it would make a GPU wait. Strong noise moves the mean a little.
        if self._frozen and not torch.compiler.is_compiling():
            refuse_other_means(rgb.float())
        if self.view == "gray":
            rgb = (rgb * self.luma.to(rgb.dtype)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        rgb = (rgb - self.mean.to(rgb.dtype)) / self.std.to(rgb.dtype)
        if not self.mask_channel:
            return rgb
        return torch.cat([rgb, mask if mask.shape[1] else torch.zeros_like(rgb[:, :1])], dim=1)

    # ---- classification, for fine-tuning

    @property
    def takes_classifier(self) -> bool:
        """Whether ``add_classifier`` works."""
        return True

    def add_classifier(self, num_classes: int) -> None:
        """Add a new classifier, or replace the old one: by default, linear on the average of the last map."""
        self.classifier = nn.Linear(self.map_shape[0], num_classes).to(self.mean.device)
        self.num_classes = num_classes
        self._train_only_path_of(self.logits)

    def remove_classifier(self) -> None:
        """Remove the classifier."""
        self.classifier, self.num_classes = None, 0
        self._train_only_path_of(self.forward)

    @property
    def linear_classifier(self) -> nn.Linear | None:
        """The one linear layer that gives the logits; None if there is none, or the classifier is something else."""
        return self.classifier

    def logits(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> logits ``[B classes]``; only after ``add_classifier``."""
        assert self.classifier is not None, "call add_classifier first"
        logits: Tensor = self.classifier(self._average(images))
        return logits

    def depths(self) -> dict[str, int]:
        """Depth of each parameter by name, 0 closest to the image, for layer-wise learning rates."""
        return {name: 0 for name, _ in self.named_parameters()}

    # ---- frozen and trained

    @property
    def frozen(self) -> bool:
        """Whether ``freeze`` has been called, and ``unfreeze`` not since."""
        return self._frozen

    def freeze(self) -> Self:
        """No gradients, and eval mode that ``train()`` does not change: frozen features never drift."""
        self._frozen = True
        self.eval()
        return self.requires_grad_(False)

    def unfreeze(self) -> Self:
        """Undo ``freeze``: every parameter that reaches the output is trainable again."""
        self._frozen = False
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._trainable is None or name in self._trainable)
        return self

    def train(self, mode: bool = True) -> Self:
        """Like torch's, except that a frozen encoder stays in eval mode."""
        return super().train(mode and not self._frozen)

    # ---- set-up

    def settle(self) -> None:
        """End construction: measure ``layer_shapes`` on one image, refuse what cannot work, freeze unused parameters.

        Raises:
            UserError: the network rejects images of this size, its outputs are not finite spatial maps, or two of its
                weights share a tensor.
        """
        self._refuse_shared_weights()
        try:
            with torch.no_grad(), _in_eval(self):
                maps = self.layers(self._trial_image())
        except Exception as error:  # third-party networks raise anything; the user needs the reason
            raise self.refusal(f"{one_line(error)}{self.advice()}") from error
        for tensor in maps:
            if tensor.ndim != 4 or tensor.shape[0] != 1 or 0 in tensor.shape:
                raise self.refusal(f"a layer returns {list(tensor.shape)}, not a map [B D h w]{self.advice()}")
            if not tensor.isfinite().all():
                raise self.refusal("its features are not finite")
        self.layer_shapes = [(t.shape[1], t.shape[2], t.shape[3]) for t in maps]
        self._train_only_path_of(self.forward)

    def _refuse_shared_weights(self) -> None:
        """A weights file stores every tensor separately: shared weights would diverge after loading."""
        first: dict[int, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            other = first.setdefault(id(parameter), name)
            if other != name:
                raise self.refusal(
                    f"{other} and {name} share one weight, which a weights file cannot represent; use another encoder"
                )

    def advice(self) -> str:
        """What to do where the network rejects images of this size: the end of a refusal."""
        return ""

    def refusal(self, reason: str) -> UserError:
        """The error that says in one line why this encoder cannot be used."""
        return UserError(
            f"{self.name} cannot be used as an encoder at {self.image_size} px: {' '.join(reason.split())}"
        )

    def _train_only_path_of(self, function: Callable[[Tensor], Tensor]) -> None:
        """Freeze the parameters that do not affect ``function``'s output (DDP refuses parameters without gradient)."""
        named = dict(self.named_parameters())
        if not named:
            return
        for parameter in named.values():
            parameter.requires_grad_(True)
        with torch.enable_grad(), _in_eval(self):
            output = function(self._trial_image())
            if output.requires_grad:
                gradients = torch.autograd.grad(output.sum(), list(named.values()), allow_unused=True)
                self._trainable = frozenset(name for name, g in zip(named, gradients, strict=True) if g is not None)
        self.unfreeze()

    def _trial_image(self) -> Tensor:
        """One smooth image, made without random numbers."""
        ramp = torch.linspace(0, 1, self.image_size, device=self.mean.device)
        image = torch.stack([ramp.expand(self.image_size, -1), ramp[:, None].expand(-1, self.image_size)])
        return torch.cat([image, image.mean(0, keepdim=True)])[None]


class TokenEncoder(Encoder):
    """An encoder of patch tokens, which can process a subset of the patches (timm VisionTransformer)."""

    patch_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @abstractmethod
    def tokens(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images ``[B 3 H W]`` and indices of kept patches ``[B n]`` (row-major) -> their tokens ``[B n D]``."""
