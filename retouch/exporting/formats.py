"""The formats, one class each: which networks it cannot hold, how it is written, and how it is run."""

from __future__ import annotations

import io
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.encoders.export import write_files
from common.encoders.load import ENCODER, load_encoder
from common.encoders.small_stem import ENLARGED
from common.encoders.timm_encoder import TimmEncoder
from common.errors import UserError, one_line
from finetune.classifier import open_classifier, share_classifier
from pretrain.gradient.kept import open_objective, share_decoder
from pretrain.method import DECODER
from retouch.exporting.restorer import Restored
from retouch.exporting.settings import FormatName
from retouch.exporting.subject import FEATURES, LOGITS, Classes, Features, Subject, facts
from retouch.packages import how_to_install

Run = Callable[..., dict[str, Tensor]]  # images [B 3 S S], float RGB in [0, 1], and other inputs -> outputs by name
FACTS = "retouch.json"  # inside a program of torch.export


class Format(ABC):
    """One format. ``needs`` are the packages that write and run it."""

    name: ClassVar[FormatName]
    needs: ClassVar[tuple[str, ...]] = ()

    def refusal(self, subject: Subject) -> str:
        """Why it cannot hold this network; empty if it can."""
        return ""

    @abstractmethod
    def write(self, subject: Subject, folder: Path) -> None:
        """Write its files into an empty folder.

        Raises:
            UserError: the network cannot be written this way.
        """

    @abstractmethod
    def opened(self, subject: Subject, folder: Path) -> Run:
        """The network in these files, run without code of Retouch if the format allows it."""


class EncoderFolder(Format):
    """``config.json`` and ``model.safetensors``, as pretraining and fine-tuning write them."""

    def write(self, subject: Subject, folder: Path) -> None:
        write_files(subject.encoder, folder, subject.provenance, subject.class_names, subject.temperature)


class TimmFolder(EncoderFolder):
    """A folder that timm opens as ``local-dir:FOLDER``."""

    name = "timm"

    def refusal(self, subject: Subject) -> str:
        encoder = subject.encoder
        if subject.output == "restorer":
            return "it is an encoder with its decoder, and timm's two files can hold only an encoder"
        if subject.card is None:
            return "it is a probe's classifier, and timm's two files can hold only one on the average of the last map"
        if not isinstance(encoder, TimmEncoder):
            return f"{encoder.name} is not a timm model"
        return "" if encoder.plain else "its stem was replaced for small images, so timm has no such network"

    def opened(self, subject: Subject, folder: Path) -> Run:
        """timm's own network, with images prepared as described in the card's note."""
        import timm

        encoder = subject.encoder
        assert isinstance(encoder, TimmEncoder)
        plain: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

        def run(images: Tensor) -> dict[str, Tensor]:
            shown = encoder.prepare(images)
            if encoder.config.stem == "small":
                shown = shown.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
            if isinstance(subject.network, Classes):
                return {LOGITS: plain(shown)}
            [last] = plain.forward_intermediates(shown, indices=1, norm=encoder.normed, intermediates_only=True)
            return {FEATURES: last.mean(dim=(2, 3))}

        return run


class HubFolder(EncoderFolder):
    """A folder that Retouch opens, and timm too if it is a timm model.

    A probe's classifier or a decoder is next to its encoder, as in a run: ``encoder/`` with ``classifiers/TASK/`` or
    ``decoder/``.
    """

    name = "hub"
    needs = ("huggingface_hub",)

    def refusal(self, subject: Subject) -> str:
        missing = subject.card is None and subject.encoder_at is None
        return f"{subject.folder} is a decoder, and the {ENCODER}/ of its run is not next to it" if missing else ""

    def write(self, subject: Subject, folder: Path) -> None:
        if subject.card is not None:
            super().write(subject, folder)
            return
        assert subject.encoder_at is not None  # others are refused
        (folder / ENCODER).mkdir()
        write_files(load_encoder(subject.encoder_at), folder / ENCODER, subject.provenance)
        if isinstance(subject.network, Restored):
            share_decoder(subject.folder, folder / DECODER, subject.provenance.source or "")
        else:
            share_classifier(subject.folder, folder)

    def opened(self, subject: Subject, folder: Path) -> Run:
        if isinstance(subject.network, Restored):
            return type(subject.network)(open_objective(folder / DECODER)[0])
        if isinstance(subject.network, Features):
            return Features(load_encoder(folder))
        applied = open_classifier(folder)
        return Classes(applied, applied.temperature, applied.answers)


class Graph(Format):
    """A graph of tensor operations for batches of any size."""

    def refusal(self, subject: Subject) -> str:
        if subject.encoder.iterates:
            return f"{subject.encoder.name} computes codes with a solver whose number of steps depends on the images"
        return subject.network.varies


class TorchProgram(Graph):
    """``model.pt2`` of ``torch.export``, which torch opens without code of Retouch."""

    name = "torch"
    file = "model.pt2"

    def write(self, subject: Subject, folder: Path) -> None:
        written = io.BytesIO()  # torch's own writer aborts the process if the disk is full
        torch.export.save(traced(subject), written, extra_files={FACTS: json.dumps(facts(subject).content())})
        (folder / self.file).write_bytes(written.getbuffer())

    def opened(self, subject: Subject, folder: Path) -> Run:
        found: Run = torch.export.load(folder / self.file).module()
        return found


class OnnxGraph(Graph):
    """``model.onnx``; weights above 1.5 GB are in ``model.onnx.data`` next to it."""

    name = "onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    file = "model.onnx"

    def write(self, subject: Subject, folder: Path) -> None:
        program = traced(subject)
        names = list(subject.network.names)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = torch.onnx.export(
                    program,
                    input_names=list(subject.network.inputs),
                    output_names=names,
                    dynamic_shapes=tuple({0: "batch"} for _ in subject.network.inputs),
                    dynamo=True,
                    verbose=False,
                )
        except Exception as error:  # the exporter may raise anything
            raise UserError(f"ONNX cannot express {subject.encoder.name}: {one_line(error, 300)}") from error
        assert made is not None
        _clear_traces(made.model)
        for key, value in facts(subject).content().items():
            made.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        made.save(folder / self.file)

    def opened(self, subject: Subject, folder: Path) -> Run:
        """In ONNX Runtime, on the CPU, with as many threads as torch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(folder / self.file), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]

        def run(*given: Tensor) -> dict[str, Tensor]:
            inputs = {name: one.numpy() for name, one in zip(subject.network.inputs, given, strict=True)}
            found = session.run(names, inputs)
            return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}

        return run


FORMATS: dict[str, Format] = {one.name: one for one in (TimmFolder(), OnnxGraph(), TorchProgram(), HubFolder())}


def chosen_format(name: FormatName, subject: Subject) -> Format:
    """The format of this name.

    Raises:
        UserError: it cannot hold this network; says which formats can.
    """
    if reason := FORMATS[name].refusal(subject):
        others = " or ".join(f"format={one.name}" for one in FORMATS.values() if not one.refusal(subject))
        use = f"use {others}" if others else "no other format can either; use the network in Python"
        raise UserError(f"format={name} cannot hold this network: {reason}; {use}")
    return FORMATS[name]


def check_packages(name: FormatName) -> None:
    """Refuse a format whose packages are not installed."""
    missing = [package for package in FORMATS[name].needs if find_spec(package) is None]
    if missing:
        raise UserError(f"format={name} needs {', '.join(missing)}; install them: {how_to_install('export')}")


def traced(subject: Subject) -> torch.export.ExportedProgram:
    """The network as a graph, for batches of any size.

    Raises:
        UserError: its operations depend on the images or on the batch size.
    """
    size, network = subject.image_size, subject.network
    try:
        with torch.no_grad():
            given = network.given(torch.full((2, 3, size, size), 0.5))
            shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in network.inputs}
            program = torch.export.export(network, given, dynamic_shapes=shapes)
    except Exception as error:  # third-party networks may do anything
        other = "" if FORMATS["hub"].refusal(subject) else "; use format=hub"
        raise UserError(
            f"torch.export cannot make a graph of {subject.encoder.name}: {one_line(error, 300)}{other}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def _clear_traces(model: Any) -> None:
    """Remove the exporter's notes about the source code from an ``onnx_ir`` model: they hold paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
