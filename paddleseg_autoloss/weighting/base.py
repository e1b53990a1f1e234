"""The base classes of weighting methods: the common one, and one for each of the five kinds."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import paddle
from paddle import ParamAttr, Tensor, nn

from paddleseg_autoloss.checks import checked_choice, checked_integer, checked_range
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.tensors import beyond_float32, inner_product

__all__ = [
    "LEAST_LOSS",
    "AlignmentWeighting",
    "GramianWeighting",
    "HeldOutLossWeighting",
    "JacobianWeighting",
    "LossWeighting",
    "Weighting",
    "checked_rate",
    "inner_products",
    "nearest_weights",
    "own_arguments",
    "with_floor",
]

#: A loss above this does not count as negative: it may be 0 with a rounding error.
LEAST_LOSS = -1e-6


class Weighting(nn.Layer, ABC):
    r"""A method that computes the weights :math:`w_i` of K losses: :math:`\sum_i w_i L_i + P`.

    There are five kinds, which differ in the input of the method: `LossWeighting`,
    `GramianWeighting`, `JacobianWeighting`, `AlignmentWeighting` and `HeldOutLossWeighting`.  A
    method is a subclass of one of them, and needs no network.  If a method has learned parameters,
    it also defines the penalty :math:`P`, which prevents the weights from becoming zero.  All state
    of a method is in its parameters and buffers, including random state and step counter, so
    ``state_dict`` contains all of it.  Every argument of the constructor is stored in an attribute
    of the same name; ``repr`` shows them.

    Args:
        num_losses: K, the number of losses, at least `least_losses`.

    Raises:
        ConfigError: the method does not support this number of losses.
    """

    #: Name of the method in a config; None if a config cannot name it.
    config_name: ClassVar[str | None] = None
    #: Name of the learned parameter (the paper's symbol), or None if the method learns nothing.
    parameter_name: ClassVar[str | None] = None
    #: The learned parameter between the bounds that the method has for it.
    parameter_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    #: The sum of the weights, as text for the documentation: "K", "1", "about 1", ...
    sums_to: ClassVar[str] = "no fixed value"
    #: The scale of the update if all K losses have the same gradient g: K g for "sum", g for
    #: "mean", another multiple of g, or "its own" if the scale does not depend on g.
    scale: ClassVar[Literal["sum", "mean", "sqrt(K)", "K^2", "its own"]] = "sum"
    #: Whether the update is the sum of the gradients, or of their running means, times the weights.
    update_is_weighted_sum: ClassVar[bool] = True
    #: Whether a weight can be negative.
    may_be_negative: ClassVar[bool] = False
    #: The losses that the method accepts.  If weights are learned, the weight of a negative loss
    #: does not change.  Otherwise a loss below 0 is an error; a loss of exactly 0 is not.
    loss_range: Literal["any", "non-negative", "positive"] = "any"
    #: The number of losses that the method supports.
    least_losses: ClassVar[int] = 1
    most_losses: ClassVar[float] = math.inf
    #: Whether `observe_after_step` must be called after every step.
    needs_losses_after_step: bool = False
    #: Whether the method looks at batches that are held out of training.
    uses_held_out: ClassVar[bool] = False
    #: The default of ``update_interval``, see `LossAggregator`.
    default_interval: ClassVar[int] = 1

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        self.num_losses = checked_integer("num_losses", num_losses, least=1)
        if not self.least_losses <= num_losses <= self.most_losses:
            exact = self.least_losses == self.most_losses
            expected = f"{self.least_losses} losses" if exact else f"{self.least_losses} or more"
            raise ConfigError(f"losses: {self.short_name} expects {expected}, found {num_losses}")

    @property
    def class_name(self) -> str:
        """The name of the class that users know, for messages."""
        return type(self).__name__

    @property
    def short_name(self) -> str:
        """The name of the method in a config, or of the class without "Weighting", for messages."""
        return self.config_name or self.class_name.removesuffix("Weighting")

    def learnable(self, init: float, lr_mult: float) -> Tensor:
        """Create the learned parameter, shape [K], which gradient clipping ignores.

        Args:
            init: initial value of all its numbers.
            lr_mult: its learning rate relative to the optimizer's.
        """
        # The parameter's values when the losses became negative; NaN for losses that are not
        # negative.
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
        """Return the K weights, shape [K]; the inputs depend on the kind of method."""

    def penalty(self) -> Tensor | None:
        """Return the penalty P, which does not depend on the losses, 0-D; None if there is none."""
        return None

    def total(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Return the total loss, 0-D.

        Args:
            losses: the loss values, shape [K].
            weights: the weights that this method returned for them, shape [K].
        """
        total = (weights * losses).sum()
        penalty = self.penalty()
        return total if penalty is None else total + penalty

    def first_weights(self) -> np.ndarray:
        """Return the weights before the gradients or held-out data are seen, shape [K]."""
        return np.ones(self.num_losses)

    def scale_relative_to_mean(self) -> float:
        """Return the `scale` as a multiple of the scale of the mean."""
        count = float(self.num_losses)
        known = {"mean": 1.0, "sqrt(K)": math.sqrt(count), "K^2": count**2}
        # A scale of its own is treated as the scale of the sum.
        return known.get(self.scale, count)

    def learned(self) -> Tensor | None:
        """Return the learned parameter, shape [K], or None if the method learns nothing."""
        return None if self.parameter_name is None else getattr(self, self.parameter_name)

    @classmethod
    def is_at_bound(cls, value: float) -> bool:
        """Return whether a learned number is at an end of `parameter_range`, or beyond it.

        Args:
            value: one number of the learned parameter.
        """
        least, most = cls.parameter_range
        return value <= least or value >= most

    def out_of_range(self, losses: Tensor) -> Tensor:
        """Return which losses are negative or, for positive losses, not positive; bool, shape [K].

        Args:
            losses: the loss values, shape [K].
        """
        bounds = self.lower_bounds
        return (losses if bounds is None else losses - bounds) < LEAST_LOSS

    @property
    def lower_bounds(self) -> Tensor | None:
        """The values that the losses must not be below, shape [K]; None for 0."""
        return None

    def lower_bound(self, index: int) -> float:
        """Return the value that a loss must not be below, for messages.

        Args:
            index: the position of the loss.
        """
        bounds = self.lower_bounds
        return 0.0 if bounds is None else float(bounds[index])

    @paddle.no_grad()
    def freeze_negative(self, losses: Tensor) -> None:
        """Freeze the learned parameter of negative losses, in a training step.

        This does not wait for the device.

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
        """Undo the changes that the optimizer's momentum made to frozen parameters."""
        parameter = self.learned()
        if parameter is not None:
            kept = paddle.where(self.frozen.isnan(), parameter, self.frozen)
            paddle.assign(kept, output=parameter)

    def unfrozen(self) -> Tensor:
        """Return the learned parameter, shape [K]; its frozen numbers get no gradient."""
        parameter = self.learned()
        assert parameter is not None, "the method learns"
        return paddle.where(self.frozen.isnan(), parameter, parameter.detach())

    def take_names(self, names: Sequence[str]) -> None:
        """Receive the names of the losses; methods that use names override this.

        Args:
            names: K names, in the order of the losses.
        """

    def observe_after_step(self, losses: Tensor) -> None:
        """Receive the losses of the same batch after the step; see `needs_losses_after_step`.

        Args:
            losses: the loss values, shape [K].

        Raises:
            ConfigError: the method does not use them.
        """
        raise ConfigError(f"{self.class_name}: it does not use the losses after the step")

    def register_memory(self, name: str, value: np.ndarray | float) -> None:
        """Register a buffer on the host, for methods that compute there."""
        self.register_buffer(name, paddle.to_tensor(value, place=paddle.CPUPlace()))

    def remember(self, losses: Tensor, **memory: Tensor) -> None:
        """Set buffers to new values; if a loss is NaN or infinite, nothing changes.

        This does not wait for the device.

        Args:
            losses: the loss values, shape [K].
            **memory: the new value of each buffer, by its name.
        """
        finite = losses.isfinite().all()
        for name, value in memory.items():
            buffer = getattr(self, name)
            # In Paddle 2, set_value synchronizes the device with the host.
            paddle.assign(paddle.where(finite, value, buffer), output=buffer)


class LossWeighting(Weighting):
    """A method that computes the weights only from the loss values: ``method(losses)``.

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
    r"""A method that computes the weights from the Gramian of the gradients.

    The Gramian is :math:`G_{ij} = \langle g_i, g_j \rangle`.  The call is
    ``weights = method(losses, gramian)``.  K is small, so the weights are computed on the host in
    double precision; most buffers are on the host too.

    Args:
        num_losses: K, the number of losses, at least 1.
    """

    #: If every loss gets an optimizer step of its own: K factors of the learning rate, one for each
    #: step.  None if all losses share one step.
    substep_rates: list[float] | None = None

    def forward(self, losses: Tensor, gramian: Tensor | None = None) -> Tensor:
        """Return the K weights, shape [K], detached.

        Args:
            losses: the loss values, shape [K].
            gramian: the inner products of their gradients, shape [K, K].

        Raises:
            ConfigError: the Gramian is missing.
            TrainingDiverged: a number is NaN or infinite; no state has changed.
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


class JacobianWeighting(Weighting):
    r"""A method that needs the gradients :math:`g_i` themselves, which are the rows of J.

    The call is ``update, weights = method.update(losses, jacobian)``.  The update d need not be a
    combination :math:`J^T w` of the gradients of this step.  It is computed on the device, in
    single precision.  State that depends on gradients is in buffers with n columns, one for every
    number of every trainable parameter.

    Args:
        num_losses: K, the number of losses.

    Attributes:
        step: number of updates so far; it exists only if the method stores gradients.
    """

    update_is_weighted_sum = False
    #: Buffers of shape [K, n] and of shape [n], all zeros before the first update.
    matrices: ClassVar[tuple[str, ...]] = ()
    vectors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_losses: int) -> None:
        super().__init__(num_losses)
        if self.matrices or self.vectors:
            host = paddle.CPUPlace()
            self.register_buffer("step", paddle.to_tensor(0, dtype="int64", place=host))

    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """Refuse the call, because the weights do not determine the update.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.class_name}: expected a call of update(losses, jacobian), found a call of the "
            "method itself, whose weights do not determine the update"
        )

    def prepare(self, num_columns: int) -> None:
        """Create the buffers for gradients, unless they exist already.

        Args:
            num_columns: n, the number of elements of a gradient.

        Raises:
            ConfigError: the existing buffers have another size.
        """
        shapes = {name: [self.num_losses, num_columns] for name in self.matrices}
        shapes.update({name: [num_columns] for name in self.vectors})
        found = {name: self._buffers[name].shape for name in shapes if name in self._buffers}
        if found == shapes:
            return
        if int(self.step) > 0:
            known = f"of {next(iter(found.values()))[-1]} numbers" if found else "that bind expects"
            raise ConfigError(
                f"{self.short_name}: expected gradients {known}, as at its first step, found "
                f"{num_columns}; continue with the same network and the same trainable parameters"
            )
        for name, shape in shapes.items():
            self.register_buffer(name, paddle.zeros(shape, dtype="float32"))

    def next_step(self) -> int:
        """Count an update; return its number, the first is 1."""
        step = int(self.step) + 1
        self.step.set_value(np.asarray(step))
        return step

    @abstractmethod
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return the update d, shape [n], and the weights to display, shape [K].

        Args:
            losses: the loss values, finite, shape [K].
            jacobian: the gradients, finite, shape [K, n].

        Raises:
            ConfigError: the stored gradients have another size.
        """


class AlignmentWeighting(Weighting):
    r"""A method that learns the weights from how each loss serves a target on held-out data.

    The alignment of a loss is :math:`a_i = \langle g_v, P g_i \rangle`, where :math:`g_v` is the
    gradient of the target for a batch that is held out of training.  A step of the optimizer with
    the weights w changes the target by :math:`-\eta \sum_i w_i a_i`, to first order.  P is the
    identity, or what the optimizer multiplies a gradient by.

    The call is ``weights = method(losses, gramian)``, and the Gramian has one more row and column
    than there are losses: the first ones are those of :math:`g_v`.

    Args:
        num_losses: K, the number of losses.
        target: what you want to improve, see `paddleseg_autoloss.losses.targets.Target`.
        scaling: P: ``"optimizer"``, see `OptimizerScaling`, or ``"none"`` for the identity.
        rating: :math:`r_i`, what the method uses of the alignments, see `ratings`.
        floor: the least share of each loss in the sum of the weights, from 0 to 1 / K.

    Attributes:
        shares: the weights divided by their sum, shape [K].

    Raises:
        ConfigError: an argument is out of its range.
    """

    sums_to = "K"
    least_losses = 2
    uses_held_out = True
    default_interval = 20
    #: Where the alignments come from: ``"gradients"``, or ``"differences"`` of the losses.
    alignment: str = "gradients"

    def __init__(
        self, num_losses: int, target: Any, scaling: str, rating: str, floor: float
    ) -> None:
        super().__init__(num_losses)
        # A loss that is the target is no part of the method's state, as an attribute of a Layer is.
        object.__setattr__(self, "target", target)
        self.scaling = checked_choice("scaling", scaling, ["optimizer", "none"])
        self.rating = checked_choice("rating", rating, ["direction", "cosine", "product"])
        self.floor = checked_range("floor", floor, least=0, most=1 / num_losses)
        self.register_memory("shares", np.full(num_losses, 1 / num_losses))

    def first_weights(self) -> np.ndarray:
        """Return the weights before the first look, shape [K]."""
        return self.num_losses * self.shares.numpy()

    def forward(self, losses: Tensor, gramian: Tensor | None = None) -> Tensor:
        """Return the K weights, shape [K], detached.

        Args:
            losses: the loss values, shape [K].
            gramian: the inner products of the gradients, shape [K + 1, K + 1], the target first.

        Raises:
            ConfigError: the Gramian is missing.
            TrainingDiverged: a number is NaN or infinite; no state has changed.
        """
        if gramian is None:
            raise ConfigError(f"{self.class_name}: expected the Gramian of the gradients")
        products = _to_double(gramian)
        if not np.isfinite(products).all():
            raise TrainingDiverged(f"{self.class_name}: a gradient is not finite")
        return paddle.to_tensor(self.solve(products), dtype="float32")

    def solve(self, gramian: np.ndarray) -> np.ndarray:
        """Return the K weights.

        Args:
            gramian: symmetric and positive semi-definite, finite, shape [K + 1, K + 1]; the first
                row and column are those of the target.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            ratings = self.ratings(gramian)
        return self.learn(ratings)

    def learn(self, ratings: np.ndarray) -> np.ndarray:
        """Return the K weights after a look.

        Args:
            ratings: r of this look, shape [K].

        Raises:
            TrainingDiverged: the weights are not finite; no state has changed.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            shares = self.next_shares(ratings)
        if not np.isfinite(shares).all():
            other = ", or rating: cosine" if self.alignment == "gradients" else ""
            raise TrainingDiverged(
                f"{self.class_name}: expected finite weights, found {shares.tolist()}; choose a "
                f"smaller lr{other}"
            )
        shares = with_floor(shares, self.floor)
        self.shares.set_value(shares)
        return self.num_losses * shares

    @abstractmethod
    def next_shares(self, ratings: np.ndarray) -> np.ndarray:
        """Return the new shares, which are not negative and sum to 1, shape [K].

        Args:
            ratings: r of this look, shape [K].
        """

    def ratings(self, gramian: np.ndarray) -> np.ndarray:
        r"""Return how well each loss serves the target, shape [K].

        With :math:`\lVert x \rVert^2 = \langle x, P x \rangle`, the shares s and
        :math:`d = \sum_i s_i g_i`, the rating :math:`r_i` is

        - ``"product"``: :math:`a_i`, which the papers have;
        - ``"cosine"``: :math:`a_i / (\lVert g_v \rVert \lVert g_i \rVert)`;
        - ``"direction"``: the derivative of the cosine of :math:`g_v` and d with respect to
          :math:`\log s_i`.  It asks how the weights change the direction of a step, whose length
          Adam determines.

        Args:
            gramian: see `solve`.
        """
        products, gram = gramian[0, 1:], gramian[1:, 1:]
        if self.rating == "product":
            return products
        length = np.sqrt(gramian[0, 0])
        if self.rating == "cosine":
            return _ratio(products, length * np.sqrt(gram.diagonal()))
        shares = self.shares.numpy()
        of_step = gram @ shares
        square = shares @ of_step
        gain = products - (shares @ products) * _ratio(of_step, square)
        return shares * _ratio(gain, length * np.sqrt(square))


class HeldOutLossWeighting(Weighting):
    """A method that computes the weights from the losses of held-out batches.

    The call is ``weights = method(losses)``.

    Args:
        num_losses: K, the number of losses, at least 1.
    """

    uses_held_out = True
    default_interval = 20

    @abstractmethod
    def forward(self, losses: Tensor) -> Tensor:
        """Return the K weights, shape [K], detached.

        Args:
            losses: the losses of a held-out batch, detached, shape [K].
        """


def checked_rate(lr: float | None, rating: str, default: float) -> float:
    """Return the learning rate of shares that follow ratings.

    Args:
        lr: what the user set, or None.
        rating: ``rating`` of an `AlignmentWeighting`.
        default: the rate for ratings that have no scale.

    Raises:
        ConfigError: it is no number of at least 0, or it is missing for ratings with a scale.
    """
    if lr is None and rating == "product":
        raise ConfigError(
            "lr: expected a number with rating: product, whose size depends on the network and "
            "for which no default is right, found none; begin with 0.1, and take less if the "
            "weights jump"
        )
    return default if lr is None else checked_range("lr", lr, least=0)


def with_floor(shares: np.ndarray, floor: float) -> np.ndarray:
    """Return the shares with none below a floor; the others keep their proportions and the sum 1.

    Args:
        shares: not negative, with the sum 1, shape [K].
        floor: from 0 to 1 / K.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.weighting.base import with_floor
        >>> with_floor(np.array([0.9, 0.1, 0.0]), 0.1).round(4).tolist()
        [0.8, 0.1, 0.1]
    """
    low = np.zeros(len(shares), bool)
    raised = shares
    while (raised[~low] < floor).any():
        low |= raised < floor
        rest = shares[~low].sum()
        kept = shares * (1 - floor * low.sum()) / (rest if rest > 0 else 1)
        raised = np.where(low, floor, kept)
    return raised / raised.sum()


def _ratio(numerator: np.ndarray, denominator: Any) -> np.ndarray:
    """Return a quotient; 0 where the denominator is 0."""
    safe = np.where(np.asarray(denominator) > 0, denominator, 1)
    return np.where(np.asarray(denominator) > 0, numerator / safe, 0)


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
    """Return the weights w, shape [K], whose combination J^T w is closest to an update.

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
    """Return the arguments of a method's constructor, except the number of losses, by name."""
    arguments = dict(inspect.signature(method).parameters)
    del arguments["num_losses"]
    return arguments
