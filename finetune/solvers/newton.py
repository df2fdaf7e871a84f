"""Newton steps that end a logistic fit with the curvature it really has, and tell how much is left to be gained.

L-BFGS predicts this with its preconditioner, which averages the curvature of the rows and of the classes. Where
outlying rows are fitted, the truth can be a thousand times as much. Here, conjugate gradients solve for the step with
products of the exact Hessian (truncated Newton, Nocedal & Wright 2006, section 7.1), each as expensive as a step of
L-BFGS. Half of the product of step and gradient is what is left, if the objective is nearly quadratic so close to its
minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.solvers.lbfgs import Point, Problems, dot

ACCURACY = 1e-6  # squared residual of a step, relative to the gradient, in the norm of the preconditioner
MOST_PRODUCTS = 100  # per step; all together are limited as well


def end(problems: Problems, tolerance: float, most: int) -> None:
    """Continue every problem from its weights; it has converged if what is left is below ``tolerance``.

    Args:
        tolerance: relative to the objective.
        most: products with the Hessian, for each problem.
    """
    for place in range(len(problems.l2)):
        _end_one(problems, place, tolerance, most)


def _end_one(problems: Problems, place: int, tolerance: float, most: int) -> None:
    one = slice(place, place + 1)
    l2 = problems.l2[one]
    point = torch.cat([problems.weight[one], problems.centered_bias[one, :, None]], dim=2)  # [1 C F+1]
    tolerance += torch.finfo(point.dtype).eps
    logits = problems.product(point)
    here = problems.evaluate(logits)
    value, gradient = problems.penalized(here, point, l2)
    done, left = False, most
    while left > 0:
        step, gain, products = _step(problems, here, gradient, l2, min(left, MOST_PRODUCTS))
        left -= products
        done = gain <= tolerance * float(value)
        slope = dot(step, gradient)
        if done or not float(slope) < 0:
            break
        length, _, _ = problems.line_search(logits, problems.product(step), point, step, value, slope, l2)
        there = point + length[:, None, None] * step
        logits = problems.product(there)
        here = problems.evaluate(logits)
        lower, gradient = problems.penalized(here, there, l2)
        if not float(lower) < float(value):  # no more than rounding, or not finite: the step before is as good
            break
        point, value = there, lower
    problems.weight[one], problems.centered_bias[one] = point[..., :-1], point[..., -1]
    problems.steps[place] += most - left
    problems.converged[place] = done


def _step(problems: Problems, here: Point, gradient: Tensor, l2: Tensor, most: int) -> tuple[Tensor, float, int]:
    """The minimum of the quadratic model: the step to it, the decrease that it predicts, and the products it took."""
    # no objective depends on a bias that all classes share: rounding alone would move it, without bounds
    step, residual = torch.zeros_like(gradient), problems.without_shared_bias(-gradient)
    toward = problems.preconditioned(residual, here.curvature, l2)
    direction, squared = toward, dot(residual, toward)
    small, gain = ACCURACY * float(squared), 0.0
    products = 0
    while products < most:
        products += 1
        curved = problems.without_shared_bias(problems.hessian_product(here, direction, l2))
        along = dot(direction, curved)
        if not (float(along) > 0 and float(squared) > 0):
            break  # by rounding alone
        length = squared / along
        step = step + length[:, None, None] * direction
        residual = residual - length[:, None, None] * curved
        gain += float(length * squared) / 2
        toward = problems.preconditioned(residual, here.curvature, l2)
        before, squared = squared, dot(residual, toward)
        if float(squared) <= small:
            break
        direction = toward + (squared / before)[:, None, None] * direction
    return step, gain, products
