"""How an optimizer scales each number of a gradient before it becomes a step."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor
from paddle.optimizer import SGD, Adam, AdamW, Momentum, Optimizer

from paddleseg_autoloss.compat import create_accumulators
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.tensors import as_float32

__all__ = ["OptimizerScaling"]


class OptimizerScaling:
    r"""The diagonal matrix P with which an optimizer turns a gradient g into a step.

    The step is :math:`-\eta P g`, with the learning rate :math:`\eta` and

    .. math::
        P = \frac{m}{\sqrt{\hat v} + \epsilon} \quad \text{for Adam and AdamW}, \qquad
        P = m \quad \text{for SGD and momentum}

    :math:`\hat v` is Adam's second moment after the latest step, without its bias (the largest
    one so far, with ``amsgrad``), and m is the multiplier that a parameter's learning rate may
    have, as for ``custom_cfg`` or the layers of ``AdamWDL``.  Adam adds the gradient itself to v
    before it takes the step; P leaves this out, which is a relative difference of about
    :math:`1 - \beta_2`.  It also leaves out momentum, which only spreads a gradient over
    several steps.

    Args:
        optimizer: the optimizer that trains the parameters.

    Raises:
        ConfigError: it scales gradients in another way.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.optimizer_scaling import OptimizerScaling
        >>> x = paddle.create_parameter([2], "float32")
        >>> adam = paddle.optimizer.Adam(0.1, parameters=[x])
        >>> (x * paddle.to_tensor([2.0, 4.0])).sum().backward()
        >>> adam.step()
        >>> factors = OptimizerScaling(adam).factors([x])[0]  # 1 / sqrt(4) and 1 / sqrt(16)
        >>> [round(factor, 3) for factor in factors.tolist()]
        [0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # PaddleSeg's AdamWDL is an AdamW.
        self._is_adam = isinstance(optimizer, (Adam, AdamW))
        self._moment = "moment2_max" if getattr(optimizer, "_amsgrad", False) else "moment2"
        if not self._is_adam and type(optimizer) not in (SGD, Momentum):
            raise ConfigError(
                "scaling: expected the optimizer Adam, AdamW, SGD or Momentum, found "
                f"{type(optimizer).__name__}; set scaling: none"
            )
        self._optimizer = optimizer

    @paddle.no_grad()
    def factors(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the diagonal of P, one tensor of its shape for each parameter.

        It is 0 where Adam has seen no gradient other than 0, because no loss depends on such a
        number; a held-out target may, and would outweigh all others, divided by epsilon.

        Args:
            parameters: parameters that the optimizer trains.
        """
        missing = [p for p in parameters if self._is_adam and self._slot(self._moment, p) is None]
        if missing:
            # After a resume, the optimizer creates its state only in its first step.
            create_accumulators(self._optimizer, missing)
        return [self._factor(parameter) for parameter in parameters]

    def _factor(self, parameter: Tensor) -> Tensor:
        multiplier = self._multiplier(parameter)
        moment, power = self._slot(self._moment, parameter), self._slot("beta2_pow_acc", parameter)
        if moment is None or power is None:
            return paddle.full(parameter.shape, multiplier, dtype="float32")
        # The power counts the next step already.
        bias = 1 - power.astype("float64") / float(self._optimizer._beta2)
        bias = bias.astype("float32").reshape([])
        scaled = (as_float32(moment) / bias.clip(min=1e-12)).sqrt() + self._optimizer._epsilon
        is_known = (bias > 0).logical_and(as_float32(moment) > 0)
        return paddle.where(is_known, multiplier / scaled, paddle.zeros_like(scaled))

    def _multiplier(self, parameter: Tensor) -> float:
        """Return the multiplier of the learning rate of a parameter."""
        attributes = getattr(parameter, "optimize_attr", {})
        before = dict(attributes)
        # AdamWDL has its multipliers in the parameters only during a step.
        getattr(self._optimizer, "set_param_lr_fun", lambda _: None)(parameter)
        multiplier = attributes.get("learning_rate", 1.0)
        attributes.update(before)
        of_layer = getattr(self._optimizer, "_lr_ratio", None)
        return multiplier if of_layer is None else multiplier * of_layer(parameter)

    def _slot(self, name: str, parameter: Tensor) -> Tensor | None:
        """Return a state of Adam, which is that of the master weight if there is one."""
        if not self._is_adam:
            return None
        master = getattr(self._optimizer, "_master_weights", {}).get(parameter.name, parameter)
        slots = self._optimizer._accumulators.get(name, {})
        return slots.get(master.name, slots.get(parameter.name))
