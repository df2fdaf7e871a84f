"""What sparse coding and patch dictionaries share: how a batch of codes improves the dictionary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.engine.learner import Named
from pretrain.linear.base import LinearLearner, user_errors
from pretrain.linear.dictionary import DictionaryStatistics, replace_unused, unused_atoms, update_dictionary

REPLACE_EVERY = 10  # steps; an atom has this long to be used before it is replaced


NOTED = 512  # images whose codes are checked


def unconverged_note(missed: Tensor, steps: int, advice: str) -> list[str]:
    """A sentence about codes of which some, bool ``[B]``, did not converge."""
    share = float(missed.float().mean())
    return [f"{share:.1%} of the codes did not converge in {steps} steps; {advice}"] if share else []


class DictionaryLearner(LinearLearner):
    """Keeps running moments of codes and rows."""

    statistics: DictionaryStatistics

    def improved(
        self,
        dictionary: Tensor,
        rows: Tensor,
        codes: Tensor,
        step: int,
        candidates: Callable[[int], Tensor],
        *,
        gamma: float = 0.0,
        sweeps: int = 1,
    ) -> tuple[Tensor, Named]:
        """The next dictionary ``[d h]``, and what is logged of this batch.

        Args:
            dictionary: ``[d h]``.
            rows: ``[B d]``, with their codes under it ``[B h]``.
            candidates: returns that many rows ``[k d]`` to replace unused atoms with.
            gamma: weight of ``‖W‖²_F``; 0 keeps atoms at unit norm.
            sweeps: passes over the atoms.

        Raises:
            UserError: an atom is to be replaced, but no row has any structure.
        """
        self.statistics.add(rows, codes)
        moments = self.statistics.codes_gram, self.statistics.cross
        fresh = update_dictionary(dictionary, *moments, gamma=gamma, unit_norm=not gamma, sweeps=sweeps)
        dead = unused_atoms(self.statistics.use)
        if step % REPLACE_EVERY == REPLACE_EVERY - 1 and bool(dead.any()):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            with user_errors(self.method):
                fresh = replace_unused(fresh, self.statistics.use, candidates(int(dead.sum())), generator)
            self.statistics.forget(dead)
        return fresh, {"nonzeros": (codes != 0).sum(1).float().mean(), "unused_atoms": dead.sum()}
