"""Weights from excess risks by He et al."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_integer, checked_range
from paddleseg_autoloss.weighting.base import JacobianWeighting

__all__ = ["ExcessMTLWeighting"]


class ExcessMTLWeighting(JacobianWeighting):
    r"""Weights from how far each loss is from its optimum (ExcessMTL, He et al. 2024).

    A noisy loss stays large even after good training.  So the weights do not depend on the loss
    values, but on estimates of how far each loss is above its optimum.  The estimates use the
    gradients and their accumulated squares:

    .. math::
        s_i(t) = \sum_k \frac{g_{ik}(t)^2}{\sqrt{\sum_{t' \le t} g_{ik}(t')^2}}, \qquad
        w_i(t) \propto w_i(t-1) \, \exp \left( \eta \, \frac{s_i(t)}{s_i(0)} \right), \qquad
        d = \sum_i w_i g_i

    Y. He, S. Zhou, G. Zhang, H. Yun, Y. Xu, B. Zeng, T. Chilimbi, H. Zhao, "Robust Multi-Task
    Learning with Excess Risks", ICML 2024, equations 6, 7 and 9.  :math:`s_i(0)` is the estimate of
    the first step, or the mean over the first steps, in which all weights are 1.  The weights are
    never negative and sum to K.

    Deviations:
        The authors' code and its ports add 1e-7 to the accumulated squares, which dominates the
        estimate if gradients are below 3e-4.  Here they are as in the formula, with a term of 0 if
        the sum is 0.  So the scale of the gradients does not matter, as long as the absolute values
        of their coordinates are from 1e-18 to 1e18, the range in which squares neither underflow
        nor overflow.  As in the authors' code the weights sum to K; the paper's and TorchJD's sum
        to 1.  A loss with zero gradient has no excess: its weight decreases relative to the others.
        If its gradient was zero in all of the first steps, its first other gradient determines
        :math:`s_i(0)`.

    Args:
        num_losses: K, the number of losses.
        step_size: :math:`\eta`, how fast the weights change, at least 0.
        n_warmup_steps: number of steps in which :math:`s_i(0)` is measured.  The authors' code uses
            1; their paper recommends 3 epochs.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import ExcessMTLWeighting
        >>> weighting, losses = ExcessMTLWeighting(2, step_size=1), paddle.ones([2])
        >>> _, weights = weighting.update(losses, paddle.to_tensor([[3.0], [4.0]]))
        >>> weights.tolist()  # s(0) = 3, 4
        [1.0, 1.0]
        >>> _, weights = weighting.update(losses, paddle.to_tensor([[4.0], [0.0]]))
        >>> [round(w, 4) for w in weights.tolist()]  # s = 16/5, 0: 2 softmax(16/15, 0)
        [1.4879, 0.5121]
    """

    config_name = "ExcessMTL"
    sums_to = "K"
    update_is_weighted_sum = True
    matrices = ("squares",)

    def __init__(self, num_losses: int, step_size: float = 1e-2, n_warmup_steps: int = 1) -> None:
        super().__init__(num_losses)
        self.step_size = checked_range("step_size", step_size, least=0)
        self.n_warmup_steps = checked_integer("n_warmup_steps", n_warmup_steps, least=1)
        self.register_buffer("initial_excess", paddle.zeros([num_losses], dtype="float32"))
        self.register_buffer("log_weights", paddle.zeros([num_losses], dtype="float32"))

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and the weights, shape [K]."""
        self.prepare(jacobian.shape[1])
        self.squares.add_(jacobian * jacobian)
        # An infinite sum would switch off its coordinate forever.
        self.squares.clip_(max=3e38)
        excess = paddle.stack([_excess(g, s) for g, s in zip(jacobian, self.squares)])
        initial = self.initial_excess
        if self.next_step() <= self.n_warmup_steps:
            initial.set_value(initial + excess / self.n_warmup_steps)
        else:
            initial.set_value(paddle.where(initial > 0, initial, excess))
            ratio = excess / paddle.where(initial > 0, initial, paddle.ones_like(initial))
            logits = self.log_weights + self.step_size * ratio.clip(max=1e30)
            self.log_weights.set_value(nn.functional.log_softmax(logits))
        weights = self.num_losses * nn.functional.softmax(self.log_weights)
        return weights @ jacobian, weights


def _excess(gradient: Tensor, squares: Tensor) -> Tensor:
    some = squares > 0
    share = gradient / paddle.where(some, squares, paddle.ones_like(squares)).sqrt()
    return (gradient * share).sum()
