"""Settings of ``retouch export``."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from common.config import Config, HomePath, OutPath, ProblemsError, read_settings, validate
from common.recipes import Settings, understand_run

FormatName = Literal["timm", "onnx", "torch", "hub"]
Output = Literal["features", "classifier", "restorer"]

HUB_ONLY = ("license", "push", "private", "report")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class ExportConfig(Config):
    """``retouch export``: a trained network as a file that works without Retouch."""

    run: str = Field(min_length=1)
    """A finished run of pretrain, finetune or probe, a folder in it, or hf:USER/NAME."""
    to: OutPath
    """The folder to write."""
    format: FormatName
    """timm: a folder for timm (timm models only); onnx: model.onnx; torch: model.pt2 of torch.export; hub: a folder for
    the Hugging Face Hub."""
    output: Output | None = None
    """features (a vector per image), classifier (the default if there is one) or restorer (encoder and decoder)."""
    task: str | None = None
    """Which task's classifier, if a probe has several tasks."""
    encoder: HomePath | None = None
    """The folder of a probe's encoder, if it was moved."""
    check: int = Field(default=64, ge=1, le=2_000)
    """Number of images on which the export is compared with the network in torch."""
    data: str | None = Field(default=None, min_length=1)
    """Images to compare on; by default the run's training images if no download is needed, else generated ones."""
    license: str | None = None
    """License of the weights, such as apache-2.0, mit or cc-by-4.0 (format=hub)."""
    push: str | None = None
    """USER/NAME: also upload the folder to the Hugging Face Hub (format=hub); log in first with `hf auth login`."""
    private: bool = False
    """Make the repository on the Hub private, if it is new."""
    report: tuple[HomePath, ...] = ()
    """More runs whose results go into the model card, such as probes of this encoder (format=hub)."""
    overwrite: bool = False
    """Replace an earlier export in the folder, and files of the same names on the Hub."""

    @classmethod
    def about_unknown(cls, key: str) -> str:
        if key == "token":
            return "tokens are not settings and are never stored: log in once with `hf auth login`, or set HF_TOKEN"
        return super().about_unknown(key)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        given = [key for key in HUB_ONLY if getattr(self, key)]
        if self.format != "hub" and given:
            problems.append(f"{', '.join(given)}: only for the Hub; set format=hub, or remove {', '.join(given)}")
        if self.license is not None and not LICENSE.fullmatch(self.license):
            problems.append(
                f"license: {self.license!r} is not an identifier of the Hub; use one such as apache-2.0, mit, "
                "cc-by-4.0 or other"
            )
        if self.push is not None and not REPOSITORY.fullmatch(self.push):
            problems.append(f"push: {self.push!r} does not have the form USER/NAME")
        if self.push is not None and self.license is None:
            problems.append(
                "license: name the license under which others may use the weights, such as license=apache-2.0"
            )
        if problems:
            raise ProblemsError(problems)
        return self


def export_config(run: Settings, *overrides: str) -> ExportConfig:
    """The settings; a string is the run, unless it is itself a setting.

    Raises:
        UserError: with every problem.
    """
    given = understand_run("export", run, overrides)
    return validate(ExportConfig, read_settings(ExportConfig, given.source, given.overrides), given.origin)
