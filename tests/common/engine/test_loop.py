"""The loop: it minimizes, resumes bit for bit, and stops politely."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data import Images, Loader
from common.encoders import EncoderConfig, build_encoder
from common.engine import loop
from common.engine.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from common.engine.curve import Curve, stall
from common.engine.gradient import GradientLearner, weight_decay_groups
from common.engine.loop import Periodic, Trained, learn
from common.errors import UserError
from common.machine.distributed import World
from common.runs.folder import open_run
from common.runs.memory import MemoryRun
from tests.toys import Example, RandomSource, ToyAutoencoder, ToyConfig, loop_config, noise_images, noisy

HERE = World(0, 1, torch.device("cpu"))
MORE = RandomSource(41)


class Killed(BaseException):
    """Ends a run at once, like SIGKILL: nothing in the loop may catch it."""


def run_loop(
    config: ToyConfig,
    *,
    norm: bool = True,
    prepare: Callable[[Tensor], Example] = noisy,
    periodic: tuple[Periodic, ...] = (),
    model: ToyAutoencoder | None = None,
    images: Images | None = None,
) -> tuple[nn.Module, Trained]:
    torch.manual_seed(0)
    model = model or ToyAutoencoder(norm)
    model.prepare = prepare
    loader = Loader(images or noise_images(), batch_size=config.batch_size, seed=config.seed)
    with open_run(config, HERE) as run:
        trained = learn(GradientLearner(model, config, HERE), loader, config, run, title="toy", periodic=periodic)
    return model, trained


def killed_at(step: int) -> Callable[[Tensor], Example]:
    """A ``prepare`` that dies while preparing ``step`` (counted from 0)."""
    calls = iter(range(10**6))

    def prepare(images: Tensor) -> Example:
        if next(calls) == step:
            raise Killed
        return noisy(images)

    return prepare


def metrics(folder: Path) -> list[dict[str, float]]:
    """The logged values, except those that depend on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "memory_gb")} for row in rows]


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("changes", "step"),
    [({}, 2), ({}, 9), ({"ema": 0.0}, 5), ({"accumulate": 2}, 5), ({"precision": "bfloat16"}, 6)],
    ids=str,
)
def test_run_killed_at_any_step_and_resumed_ends_bit_for_bit_the_same(
    tmp_path: Path, changes: dict[str, Any], step: int
) -> None:
    whole, _ = run_loop(loop_config(tmp_path / "whole", **changes))
    micro = changes.get("accumulate", 1)
    with pytest.raises(Killed):
        run_loop(loop_config(tmp_path / "cut", **changes), prepare=killed_at(step * micro))
    resumed, trained = run_loop(loop_config(tmp_path / "cut", resume=True, **changes))
    assert trained.finished
    assert same(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


@pytest.mark.parametrize(
    ("images", "now"),
    [
        (noise_images(39), "now 39"),
        (Images(MORE, 8, torch.arange(1, 41), MORE.pixels[1:]), "now the same number of others"),
    ],
    ids=["fewer", "others"],
)
def test_resuming_with_other_images_is_refused(tmp_path: Path, images: Images, now: str) -> None:
    with pytest.raises(Killed):
        run_loop(loop_config(tmp_path / "run"), prepare=killed_at(6))
    with pytest.raises(
        UserError, match=rf"training images differ from those of .*step-0000004: then 40, {now}; restore"
    ):
        run_loop(loop_config(tmp_path / "run", resume=True), images=images)


def test_loss_falls(tmp_path: Path) -> None:
    run_loop(loop_config(tmp_path / "run", steps=60))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["loss"] == rows[-1]["loss/restore"]
    assert all(row["grad_norm"] > 0 for row in rows)


def test_resuming_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    first, _ = run_loop(loop_config(tmp_path / "run"))
    again, trained = run_loop(loop_config(tmp_path / "run", resume=True), prepare=killed_at(0))
    assert trained.step == 12
    assert same(first, again)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    def clean(images: Tensor) -> Example:
        images = images.float() / 255
        return images, images

    def trained(out: Path, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        return run_loop(loop_config(out, **changes), prepare=clean, model=ToyAutoencoder(dropout=0.0))[0]

    whole, parts = trained(tmp_path / "a"), trained(tmp_path / "b", accumulate=4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_sigterm_writes_a_checkpoint_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = run_loop(loop_config(tmp_path / "whole"))
    calls = iter(range(10**6))

    def interrupted(images: Tensor) -> Example:
        if next(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return noisy(images)

    _, trained = run_loop(loop_config(tmp_path / "cut"), prepare=interrupted)
    assert (trained.finished, trained.step) == (False, 7)
    assert "stopped at step 7 of 12 with a checkpoint" in caplog.text
    resumed, _ = run_loop(loop_config(tmp_path / "cut", resume=True))
    assert same(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


@pytest.mark.parametrize("moment", ["in the last step", "while it is saved"])
def test_a_signal_at_the_end_of_training_stops_there_too(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage has more to do after its last step: exporting, testing, further runs."""
    whole, _ = run_loop(loop_config(tmp_path / "whole"))
    calls = iter(range(10**6))

    def interrupted(images: Tensor) -> Example:
        if next(calls) == 11 and moment == "in the last step":
            os.kill(os.getpid(), signal.SIGINT)
        return noisy(images)

    def saved(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
        if checkpoint.state.step == 12 and moment == "while it is saved":
            os.kill(os.getpid(), signal.SIGTERM)
        return save_checkpoint(folder, checkpoint, keep)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", saved)
        _, trained = run_loop(loop_config(tmp_path / "cut"), prepare=interrupted)
    assert (trained.finished, trained.step) == (False, 12)
    resumed, trained = run_loop(loop_config(tmp_path / "cut", resume=True), prepare=killed_at(0))
    assert (trained.finished, trained.step) == (True, 12)
    assert same(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_best_weights_are_kept_through_a_kill(tmp_path: Path) -> None:
    scores = {3: 0.2, 6: 0.9, 9: 0.5, 12: 0.1}
    seen: dict[int, list[Tensor]] = {}

    def evaluated(model: nn.Module) -> Periodic:
        def call(step: int) -> dict[str, float]:
            assert not model.training
            seen[step] = [parameter.detach().clone() for parameter in model.parameters()]
            return {"val/accuracy": scores[step]}

        return Periodic(3, call, select="val/accuracy")

    torch.manual_seed(0)
    model = ToyAutoencoder(True)
    with pytest.raises(Killed):
        run_loop(loop_config(tmp_path / "run"), model=model, periodic=(evaluated(model),), prepare=killed_at(10))
    torch.manual_seed(0)
    model = ToyAutoencoder(True)
    _, trained = run_loop(loop_config(tmp_path / "run", resume=True), model=model, periodic=(evaluated(model),))
    assert (trained.best, trained.best_step) == (0.9, 6)
    for kept, parameter in zip(seen[6], model.parameters(), strict=True):
        assert torch.equal(kept, parameter)


def test_loss_that_is_not_finite_stops_with_advice_and_keeps_the_old_checkpoints(tmp_path: Path) -> None:
    calls = iter(range(10**6))

    def poisoned(images: Tensor) -> Example:
        damaged, clean = noisy(images)
        return (damaged * float("nan"), clean) if next(calls) == 6 else (damaged, clean)

    with pytest.raises(UserError) as caught:
        run_loop(loop_config(tmp_path / "run"), prepare=poisoned)
    good = tmp_path / "run" / "checkpoints" / "step-0000004"
    message = f"the loss is nan at step 8: lower base_lr (now 0.05); the last good checkpoint is {good}"
    assert str(caught.value) == message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("float32", "lower base_lr (now 0.05)"),
        ("bfloat16", "lower base_lr (now 0.05), or set precision=float32"),
    ],
)
def test_loss_lost_before_the_first_checkpoint_names_none_and_advises_only_what_would_change_something(
    precision: str, advice: str, tmp_path: Path
) -> None:
    def poisoned(images: Tensor) -> Example:
        damaged, clean = noisy(images)
        return damaged * float("nan"), clean

    with pytest.raises(UserError) as caught:
        run_loop(loop_config(tmp_path / "run", precision=precision, log_every=1), prepare=poisoned)
    assert str(caught.value) == f"the loss is nan at step 1: {advice}"


class _Lost(torch.autograd.Function):
    """The same numbers, but their gradient is NaN."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


@pytest.mark.parametrize(("number", "noticed"), [(7, 8), (11, 12), (5, 6)], ids=["saving", "last", "showing"])
def test_gradient_that_is_not_finite_stops_before_its_weights_are_saved_or_shown(
    tmp_path: Path, number: int, noticed: int
) -> None:
    class Losing(ToyAutoencoder):
        calls = 0

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            losses = super().forward(images)
            self.calls += 1
            return {name: _Lost.apply(loss) for name, loss in losses.items()} if self.calls == number + 1 else losses

    shown: list[int] = []
    periodic = Periodic(3, lambda step: shown.append(step) or {})
    with pytest.raises(UserError, match=rf"the grad_norm is nan at step {noticed}: lower base_lr"):
        run_loop(loop_config(tmp_path / "run"), model=Losing(), periodic=(periodic,))
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).tensors["model"].values())
    assert shown == list(range(3, noticed, 3))
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path / "run"))


def test_epochs_are_turned_into_steps(tmp_path: Path) -> None:
    _, trained = run_loop(loop_config(tmp_path / "run", steps=None, epochs=1.5))
    assert trained.steps == 8  # 40 images, 8 a batch: 5 steps an epoch


def test_vectors_are_not_decayed() -> None:
    model = ToyAutoencoder(norm=True)
    decayed, free = weight_decay_groups(model, 0.05)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_what_a_module_keeps_from_decay_is_not_decayed() -> None:
    args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    vit = build_encoder(EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=args), image_size=16)
    names = {parameter: name for name, parameter in vit.named_parameters()}
    decayed, free = ({names[p] for p in group["params"]} for group in weight_decay_groups(vit, 0.05))
    assert {"model.cls_token", "model.pos_embed", "model.norm.bias"} <= free
    assert {"model.patch_embed.proj.weight", "model.blocks.0.mlp.fc1.weight"} <= decayed


def test_length_must_be_given_once() -> None:
    with pytest.raises(ValueError, match=r"give steps or epochs \["):
        loop_config(Path("run"), steps=None)
    with pytest.raises(ValueError, match="give steps or epochs, not both: set steps=null to train by epochs"):
        loop_config(Path("run"), epochs=1.0)


def until_flat(looks: list[int]) -> Periodic:
    """Follows a loss that falls until step 6, and ends training after two looks without progress."""
    curve = Curve()

    def call(step: int) -> dict[str, float]:
        looks.append(step)
        curve.add(step, 1 / min(step, 6))
        return {"followed": 1 / min(step, 6)}

    return Periodic(3, call, curve=curve, enough=lambda: stall(curve.points).points >= 2)


@pytest.mark.parametrize("step", [7, 11])
def test_training_ends_once_a_task_finds_it_enough_whether_killed_or_not(tmp_path: Path, step: int) -> None:
    looks: list[int] = []
    whole, trained = run_loop(loop_config(tmp_path / "whole", steps=40), periodic=(until_flat(looks),))
    assert looks == [3, 6, 9, 12]
    assert (trained.step, trained.steps, trained.finished) == (12, 40, True)
    with pytest.raises(Killed):
        run_loop(loop_config(tmp_path / "cut", steps=40), periodic=(until_flat([]),), prepare=killed_at(step))
    resumed, _ = run_loop(loop_config(tmp_path / "cut", steps=40, resume=True), periodic=(until_flat([]),))
    assert same(whole, resumed)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    ended = loop_config(tmp_path / "cut", steps=40, resume=True)
    again, trained = run_loop(ended, periodic=(until_flat([]),), prepare=killed_at(0))
    assert same(whole, again)
    assert (trained.step, trained.finished) == (12, True)


def test_what_tasks_find_is_in_the_line_of_the_losses(tmp_path: Path) -> None:
    run_loop(loop_config(tmp_path / "run", log_every=6), periodic=(Periodic(3, lambda step: {"found": 1.0}),))
    rows = metrics(tmp_path / "run")
    assert [(row["step"], "loss" in row, "found" in row) for row in rows] == [
        (3, False, True), (6, True, True), (9, False, True), (12, True, True),
    ]  # fmt: skip


def test_processes_end_together_where_the_first_finds_it_enough(tmp_path: Path) -> None:
    # at the start, stopping in the first step, enough after step 3, after step 6, stopping at the end
    answers = iter([False, False, False, True, False])

    class Second(World):
        """The second of two processes, which hears from the first."""

        def any(self, flag: bool) -> bool:
            assert not flag  # it has neither looked nor been stopped
            return next(answers)

        def mean(self, value: Tensor) -> Tensor:
            return value

        def barrier(self) -> None:
            pass

    config, looks = loop_config(tmp_path, steps=40), list[int]()
    learner = GradientLearner(ToyAutoencoder(True), config, HERE)
    loader = Loader(noise_images(), batch_size=config.batch_size, seed=config.seed)
    here = MemoryRun(Second(1, 2, torch.device("cpu")))
    trained = learn(learner, loader, config, here, title="toy", periodic=[until_flat(looks)])
    assert looks == []
    assert (trained.step, trained.steps, trained.finished) == (6, 40, True)
