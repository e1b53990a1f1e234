"""Fast adaptive multitask optimization by Liu et al."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_flag, checked_range
from paddleseg_autoloss.weighting.objective import (
    ObjectiveWeighting,
    logarithm,
    reciprocal,
    usable,
)

__all__ = ["FAMOWeighting"]


class FAMOWeighting(ObjectiveWeighting):
    r"""Fast adaptive multitask optimization (FAMO, Liu et al. 2023).

    All losses should decrease at the same rate :math:`\Delta_i`, which is the difference of the
    logarithms before and after a step.  Losses that decreased less than others get a larger share z
    of the update:

    .. math::
        w_i &= \frac{z_i}{c D_i}, \qquad z = \text{softmax}(\xi), \quad D_i = L_i - b_i,
            \quad c = \sum_j \frac{z_j}{D_j} \\
        \xi &\leftarrow \text{Adam}\Big(\xi, \;
            \Big(\frac{\partial z}{\partial \xi}\Big)^T \Delta + \gamma \xi\Big), \qquad
        \Delta_i = \log D_i(t) - \log D_i(t + 1)

    B. Liu, Y. Feng, P. Stone, Q. Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023
    (arXiv:2306.03792), algorithm 1.  The weights are treated as constants in differentiation, never
    negative, and sum to 1, so the gradient has the scale of the losses' mean.  The total is
    :math:`\frac{1}{c} \sum_i z_i \log D_i` and can be negative.

    By default :math:`D(t + 1)` are the losses of the next batch.  So a step costs no more than with
    fixed weights, and any training loop can be used.  The disadvantage is noise: :math:`\Delta`
    then contains the difference between two batches, which is larger than the change by one step.
    This difference cancels over the steps, but the weights fluctuate more.  The exact form is that
    of the paper: it evaluates the same batch again after the step, which costs one more forward
    pass.

    Deviations:
        The default form above; ``exact: true`` gives that of the paper.  The authors' code adds
        1e-8 to D, which is negative if a loss is below its bound.  Here a D that is not above 1e-8
        has no usable logarithm: such a loss gets the weight 0, the others are weighted without it,
        and its :math:`\Delta_i` is 0.  If no D is above 1e-8, the weights are z.  The authors clip
        the network's gradient to length 1; here the optimizer can do it.  The decay :math:`\gamma`
        is 0.001 as in LibMTL; the authors use 1e-5 to 0.01.

    Args:
        num_losses: K, the number of losses.
        gamma: weight decay of :math:`\xi`, at least 0; a large one keeps the shares nearly equal.
        w_lr: learning rate of :math:`\xi`, at least 0.
        exact: whether to evaluate the same batch again after every step.

    Attributes:
        xi: logits of the shares, shape [K].
        min_losses: b, lower bounds of the losses, shape [K]: 0 by default; set a bound below 0 for
            a loss that can be negative.

    Raises:
        ConfigError: ``gamma`` or ``w_lr`` is negative, or ``exact`` is not true or false.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import FAMOWeighting
        >>> weighting = FAMOWeighting(2)
        >>> weights = weighting(paddle.to_tensor([1.0, 0.25]))  # 1 / L over their sum
        >>> [round(w, 4) for w in weights.tolist()]
        [0.2, 0.8]
        >>> weights = weighting(paddle.to_tensor([0.5, 0.25]))  # the first has fallen
        >>> [round(x, 4) for x in weighting.xi.tolist()]
        [-0.025, 0.025]
    """

    config_name = "FAMO"
    loss_range = "positive"
    sums_to = "1"
    scale = "mean"
    betas = (0.9, 0.999)
    adam_eps = 1e-8

    def __init__(
        self, num_losses: int, gamma: float = 1e-3, w_lr: float = 0.025, exact: bool = False
    ) -> None:
        super().__init__(num_losses)
        self.gamma = checked_range("gamma", gamma, least=0)
        self.w_lr = checked_range("w_lr", w_lr, least=0)
        self.exact = checked_flag("exact", exact)
        self.needs_losses_after_step = exact
        for name in ("xi", "m", "v", "min_losses"):
            self.register_buffer(name, paddle.zeros([num_losses]))
        self.register_buffer("step", paddle.to_tensor(0, dtype="int64"))
        # NaN if no step is waiting for the losses after it.
        self.register_buffer("losses_prev", paddle.full([num_losses], float("nan")))

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights, shape [K], detached."""
        learned = {} if self.exact else self._step_of_adam(losses)
        self.remember(losses, losses_prev=losses, **learned)
        shares, normaliser = self._shares(losses)
        return paddle.where(normaliser > 0, shares / _nonzero(normaliser), self._z())

    @paddle.no_grad()
    def observe_after_step(self, losses: Tensor) -> None:
        """Update xi from the losses of the same batch after the step, for ``exact``."""
        nothing = paddle.full_like(self.losses_prev, float("nan"))
        self.remember(losses, losses_prev=nothing, **self._step_of_adam(losses))

    def objective(self, losses: Tensor) -> Tensor:
        """Return the weighted sum of the logarithms, 0-D."""
        _, normaliser = self._shares(losses)
        return (self._z() * logarithm(losses - self.min_losses)).sum() / _nonzero(normaliser)

    @property
    def lower_bounds(self) -> Tensor:
        """The bounds ``min_losses``, shape [K]."""
        return self.min_losses

    def _z(self) -> Tensor:
        return nn.functional.softmax(self.xi)

    def _shares(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        shares = self._z() * reciprocal(losses - self.min_losses)
        return shares, shares.sum()

    def _step_of_adam(self, losses: Tensor) -> dict[str, Tensor]:
        """Return xi and the moments after a step; unchanged if no step was taken before."""
        before, after = self.losses_prev - self.min_losses, losses - self.min_losses
        fallen = logarithm(before) - logarithm(after)
        delta = paddle.where(usable(before) & usable(after), fallen, paddle.zeros_like(fallen))
        z = self._z()
        gradient = z * (delta - (z * delta).sum()) + self.gamma * self.xi
        first, second = self.betas
        m = first * self.m + (1 - first) * gradient
        v = second * self.v + (1 - second) * gradient**2
        step = self.step + 1
        # Double precision is needed, because 1 - beta**t loses digits.
        time = step.astype("float64")
        m_hat = m / (1 - first**time).astype(m.dtype)
        v_hat = v / (1 - second**time).astype(v.dtype)
        xi = self.xi - self.w_lr * m_hat / (v_hat.sqrt() + self.adam_eps)
        waiting = ~self.losses_prev.isnan().any()
        learned = {"xi": xi, "m": m, "v": v, "step": step}
        return {
            name: paddle.where(waiting, value, getattr(self, name))
            for name, value in learned.items()
        }


def _nonzero(number: Tensor) -> Tensor:
    return paddle.where(number > 0, number, paddle.ones_like(number))
