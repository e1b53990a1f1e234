"""What every weighting method has in common, and the three kinds of method."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import paddle
from paddle import ParamAttr, Tensor, nn

from paddleseg_autoloss.checks import checked_integer
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.tensors import beyond_float32, inner_product

__all__ = [
    "LEAST_LOSS",
    "GramianWeighting",
    "JacobianWeighting",
    "LossWeighting",
    "Weighting",
    "inner_products",
    "nearest_weights",
    "own_arguments",
]

#: A loss above this is not negative: it can be the rounding of 0.
LEAST_LOSS = -1e-6


class Weighting(nn.Layer, ABC):
    r"""A method that finds the weights :math:`w_i` of K losses: :math:`\sum_i w_i L_i + P`.

    There are three kinds, by what the weights depend on: `LossWeighting`, `GramianWeighting` and
    `JacobianWeighting`.  A method is a subclass of one of them, and needs no network.  Where its
    parameters are learned, it also defines the penalty :math:`P` that keeps the weights from
    collapsing to zero.  All that a method remembers lies in parameters and buffers, random state
    and step counter included, so ``state_dict`` holds the whole of it.  Every argument of the
    constructor is kept in an attribute of its name, from which ``repr`` is made.

    Args:
        num_losses: K, the number of losses, at least `least_losses`.

    Raises:
        ConfigError: the method is not for so many losses.
    """

    #: What a config calls the method; None where no config can name it.
    config_name: ClassVar[str | None] = None
    #: Name of the learned parameter (the paper's symbol), or None where nothing is learned.
    parameter_name: ClassVar[str | None] = None
    #: What the weights sum to, for the reader: "K", "1", "about 1", ...
    sums_to: ClassVar[str] = "nothing in particular"
    #: The scale of the update where K losses agree: that of their sum, K times that of one, or of
    #: their mean, another multiple, or one that does not come from the losses.
    scale: ClassVar[Literal["sum", "mean", "sqrt(K)", "K^2", "its own"]] = "sum"
    #: Whether a weight can be negative.
    may_be_negative: ClassVar[bool] = False
    #: The losses that the method is made for.  Where weights are learned, that of a negative loss
    #: stays as it is; where they are not, a loss below 0 is an error.  0 itself is none.
    loss_range: Literal["any", "non-negative", "positive"] = "any"
    #: How many losses the method is for.
    least_losses: ClassVar[int] = 1
    most_losses: ClassVar[float] = math.inf
    #: Whether `observe_after_step` is to be called after every step.
    needs_losses_after_step: bool = False

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        self.num_losses = checked_integer("num_losses", num_losses, least=1)
        if not self.least_losses <= num_losses <= self.most_losses:
            exact = self.least_losses == self.most_losses
            expected = f"{self.least_losses} losses" if exact else f"{self.least_losses} or more"
            raise ConfigError(f"losses: {self.short_name} expects {expected}, found {num_losses}")

    @property
    def class_name(self) -> str:
        """The name by which users call the class, for messages."""
        return type(self).__name__

    @property
    def short_name(self) -> str:
        """What a config calls the method, or the class without "Weighting", for messages."""
        return self.config_name or self.class_name.removesuffix("Weighting")

    def learnable(self, init: float, lr_mult: float) -> Tensor:
        """Make a parameter for each loss, which gradient clipping leaves alone, shape [K].

        Args:
            init: its initial value.
            lr_mult: its learning rate as a multiple of the optimizer's.
        """
        # What it was when its loss became negative; NaN where the loss is not.
        nothing = paddle.full([self.num_losses], math.nan)
        self.register_buffer("frozen", nothing, persistable=False)
        return self.create_parameter(
            [self.num_losses],
            attr=ParamAttr(learning_rate=lr_mult, need_clip=False),
            default_initializer=nn.initializer.Constant(init),
        )

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in inspect.signature(type(self)).parameters
        )
        return f"{self.class_name}({arguments})"

    @abstractmethod
    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """Return the K weights, shape [K]; the kind of the method says from what."""

    def penalty(self) -> Tensor | None:
        """Return the sum of the terms that do not depend on the losses, 0-D, or None."""
        return None

    def total(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Return the total loss, 0-D.

        Args:
            losses: the loss values, shape [K].
            weights: what this method returned for them, shape [K].
        """
        total = (weights * losses).sum()
        penalty = self.penalty()
        return total if penalty is None else total + penalty

    def scale_relative_to_mean(self) -> float:
        """Return the `scale` as a multiple of that of the mean."""
        count = float(self.num_losses)
        known = {"mean": 1.0, "sqrt(K)": math.sqrt(count), "K^2": count**2}
        # One of its own counts as that of the sum.
        return known.get(self.scale, count)

    def learned(self) -> Tensor | None:
        """Return the learned parameter, shape [K], or None where nothing is learned."""
        return None if self.parameter_name is None else getattr(self, self.parameter_name)

    def out_of_range(self, losses: Tensor) -> Tensor:
        """Return which losses are below all that `loss_range` can mean, bool, shape [K].

        Args:
            losses: the loss values, shape [K].
        """
        return losses < LEAST_LOSS

    @paddle.no_grad()
    def freeze_negative(self, losses: Tensor) -> None:
        """Keep the learned parameter as it is for losses that are negative, in a step of training.

        Nothing here waits for the device.

        Args:
            losses: the loss values, shape [K].
        """
        if self.training:
            self.undo_drift()
            frozen = paddle.where(
                self.out_of_range(losses), self.learned(), paddle.full_like(losses, math.nan)
            )
            paddle.assign(frozen, output=self.frozen)

    @paddle.no_grad()
    def undo_drift(self) -> None:
        """Undo what the optimizer's momentum did to parameters that are frozen."""
        parameter = self.learned()
        if parameter is not None:
            kept = paddle.where(self.frozen.isnan(), parameter, self.frozen)
            paddle.assign(kept, output=parameter)

    def unfrozen(self) -> Tensor:
        """Return the learned parameter, without gradient where it is frozen, shape [K]."""
        parameter = self.learned()
        assert parameter is not None, "the method learns"
        return paddle.where(self.frozen.isnan(), parameter, parameter.detach())

    def take_names(self, names: Sequence[str]) -> None:
        """Take the names of the losses, for methods that tell them apart by name.

        Args:
            names: K names, in the order of the losses.
        """

    def observe_after_step(self, losses: Tensor) -> None:
        """Take the losses of the same batch after the step; see `needs_losses_after_step`.

        Args:
            losses: the loss values, shape [K].

        Raises:
            ConfigError: the method has no use for them.
        """
        raise ConfigError(f"{self.class_name}: it does not ask for the losses after the step")

    def remember(self, losses: Tensor, **memory: Tensor) -> None:
        """Set buffers to new values, unless a loss is NaN or infinite: then all stay as they are.

        Nothing here waits for the device.

        Args:
            losses: the loss values, shape [K].
            **memory: the new value of each buffer, by its name.
        """
        finite = losses.isfinite().all()
        for name, value in memory.items():
            buffer = getattr(self, name)
            # set_value waits for the host in Paddle 2.
            paddle.assign(paddle.where(finite, value, buffer), output=buffer)


class LossWeighting(Weighting):
    """A method whose weights follow from the values of the losses alone: ``method(losses)``.

    Args:
        num_losses: K, the number of losses, at least 1.
    """

    @abstractmethod
    def forward(self, losses: Tensor) -> Tensor:
        """Return the K weights, shape [K].

        Args:
            losses: the loss values, detached, shape [K].
        """


class GramianWeighting(Weighting):
    r"""A method whose weights follow from the Gramian :math:`G_{ij} = \langle g_i, g_j \rangle`.

    ``weights = method(losses, gramian)``.  K is small, so the weights are found on the host in
    double precision; most buffers live there too.

    Args:
        num_losses: K, the number of losses, at least 1.
    """

    #: Where every loss takes an optimizer step of its own, the factor of the learning rate in each,
    #: K of them; None where all losses share one step.
    substep_rates: list[float] | None = None

    def forward(self, losses: Tensor, gramian: Tensor | None = None) -> Tensor:
        """Return the K weights, shape [K], detached.

        Args:
            losses: the loss values, shape [K].
            gramian: the inner products of their gradients, shape [K, K].

        Raises:
            ConfigError: there is no Gramian.
            TrainingDiverged: a number is NaN or infinite; nothing is remembered of it.
        """
        if gramian is None:
            raise ConfigError(f"{self.class_name}: expected the Gramian of the gradients")
        values, products = _to_double(losses), _to_double(gramian)
        if not (np.isfinite(values).all() and np.isfinite(products).all()):
            raise TrainingDiverged(f"{self.class_name}: a loss or gradient is not finite")
        return paddle.to_tensor(self.solve(values, products), dtype="float32")

    @abstractmethod
    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the K weights.

        Args:
            losses: the loss values, finite, shape [K].
            gramian: symmetric and positive semi-definite, finite, shape [K, K].
        """

    def register_memory(self, name: str, value: np.ndarray | float) -> None:
        """Register a buffer on the host, where `solve` reads and writes it."""
        self.register_buffer(name, paddle.to_tensor(value, place=paddle.CPUPlace()))


class JacobianWeighting(Weighting):
    r"""A method that needs the gradients :math:`g_i` themselves, the rows of J.

    ``update, weights = method.update(losses, jacobian)``.  The update d need not be a combination
    :math:`J^T w` of the gradients of this step.  It is found on the device, in single precision.
    What the method remembers of gradients lies in buffers as wide as they are, in which every
    number of every trainable parameter has its place.

    Args:
        num_losses: K, the number of losses.

    Attributes:
        step: how many updates there were; only where gradients are remembered.
    """

    #: Buffers of shape [K, n] and of shape [n], all zeros before the first update.
    matrices: ClassVar[tuple[str, ...]] = ()
    vectors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_losses: int) -> None:
        super().__init__(num_losses)
        if self.matrices or self.vectors:
            host = paddle.CPUPlace()
            self.register_buffer("step", paddle.to_tensor(0, dtype="int64", place=host))

    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """Refuse the call: weights are not all that the method finds.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.class_name}: expected a call of update(losses, jacobian), as its weights alone "
            "do not give the update; found a call of the method itself"
        )

    def prepare(self, num_columns: int) -> None:
        """Make room for what is remembered of gradients, unless there is such room already.

        Args:
            num_columns: n, how many numbers a gradient has.

        Raises:
            ConfigError: gradients of another size are remembered.
        """
        shapes = {name: [self.num_losses, num_columns] for name in self.matrices}
        shapes.update({name: [num_columns] for name in self.vectors})
        found = {name: self._buffers[name].shape for name in shapes if name in self._buffers}
        if found == shapes:
            return
        if int(self.step) > 0:
            known = f"of {next(iter(found.values()))[-1]} numbers" if found else "that bind foresaw"
            raise ConfigError(
                f"{self.short_name}: expected gradients {known}, as when it began, found "
                f"{num_columns}: it goes on only with the same network, trainable parameters "
                "neither more nor fewer"
            )
        for name, shape in shapes.items():
            self.register_buffer(name, paddle.zeros(shape, dtype="float32"))

    def next_step(self) -> int:
        """Count an update; return its number, which begins at 1."""
        step = int(self.step) + 1
        self.step.set_value(np.asarray(step))
        return step

    @abstractmethod
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return the update d, shape [n], and weights to show, shape [K].

        Args:
            losses: the loss values, finite, shape [K].
            jacobian: the gradients, finite, shape [K, n].

        Raises:
            ConfigError: gradients of another size are remembered.
        """


def inner_products(matrix: Tensor) -> np.ndarray:
    """Return the inner products of the rows of a matrix, on the host in double precision.

    Args:
        matrix: K long rows, shape [K, n].
    """
    indices = np.triu_indices(len(matrix))
    pairs = list(zip(*map(np.ndarray.tolist, indices)))
    products = np.zeros([len(matrix)] * 2)
    for dtype in ("float32", "float64"):
        upper = [inner_product(matrix[i], matrix[j], dtype) for i, j in pairs]
        products[indices] = _to_double(paddle.stack(upper))
        if not beyond_float32(products.diagonal()):
            break
    return products + np.triu(products, 1).T


def nearest_weights(jacobian: Tensor, update: Tensor) -> Tensor:
    """Return the weights w, shape [K], whose combination J^T w comes nearest to an update.

    Args:
        jacobian: the gradients, shape [K, n].
        update: d, shape [n].
    """
    gramian = inner_products(jacobian)
    dtype = "float64" if beyond_float32(gramian.diagonal()) else "float32"
    products = _to_double(paddle.stack([inner_product(row, update, dtype) for row in jacobian]))
    weights = np.linalg.pinv(gramian, rcond=1e-6, hermitian=True) @ products
    return paddle.to_tensor(weights, dtype="float32")


def _to_double(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype("float64")


def own_arguments(method: type[Weighting]) -> dict[str, inspect.Parameter]:
    """Return what a method's constructor takes beside the number of losses, by name."""
    arguments = dict(inspect.signature(method).parameters)
    del arguments["num_losses"]
    return arguments
