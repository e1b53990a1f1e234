"""The gradients of K losses as a matrix with one row per loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.gradients.injection import inject
from paddleseg_autoloss.ranks import mean_over_ranks
from paddleseg_autoloss.tensors import as_float32, beyond_float32, inner_product

__all__ = ["Jacobian", "gradients_of"]

#: Targets of at least this size get a block of their own; smaller ones are joined, so that fewer
#: operations are launched.
_LARGE = 2**15
#: Several cards exchange this many numbers at once, and need memory for a second copy of them.
_BUCKET = 2**22


class Jacobian:
    r"""The matrix J whose row i is the gradient of loss i with respect to all targets.

    J is stored in blocks of columns.  A block has rows only for the losses that depend on its
    targets, so an auxiliary head needs no memory in the row of the main head's loss.  Each loss
    needs one backward pass.  No other copy of the gradients is kept.

    Args:
        losses: K losses, with one element each.  A loss that depends on no target has a row of
            zeros.
        targets: the tensors with respect to which the losses are differentiated: the parameters, or
            the outputs of a network.  They have n numbers in total.
        scale: factor by which the losses are multiplied before they are differentiated, or None.
            The scale of a gradient scaler prevents small gradients from becoming 0 in half
            precision.  J contains this factor.
        replicated: whether every card has the same targets, which is true for parameters.  J is
            then the Jacobian for the batches of all cards together.  Otherwise the targets belong
            to this card's batch, and `gramian` is the mean over the cards.
        rows: the gradient of each loss with respect to each target, if they are known already; None
            for 0.

    Attributes:
        targets: the argument ``targets``.
        scale: the argument ``scale``.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients import Jacobian
        >>> x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        >>> jacobian = Jacobian([x.sum(), (x * x).sum()], [x])
        >>> jacobian.gramian().tolist()
        [[2.0, 6.0], [6.0, 20.0]]
        >>> [row.tolist() for row in jacobian.combine(paddle.to_tensor([1.0, 0.5]))]
        [[2.0, 3.0]]
    """

    def __init__(
        self,
        losses: Sequence[Tensor],
        targets: Sequence[Tensor],
        scale: Tensor | None = None,
        replicated: bool = True,
        rows: list[list[Tensor | None]] | None = None,
    ) -> None:
        self.targets = list(targets)
        self._num_losses = len(losses if rows is None else rows)
        self.scale = scale
        self._replicated = replicated
        sizes = [math.prod(target.shape) for target in self.targets]
        if rows is None:
            rows = [gradients_of(loss, self.targets, scale) for loss in losses]
        if replicated and paddle.distributed.get_world_size() > 1:
            _take_means_over_ranks(rows, sizes)
        self._blocks = list(_make_blocks(rows, sizes))
        self._reached = {column for block in self._blocks for column in block.columns}

    @classmethod
    def for_groups(
        cls, losses: Sequence[Tensor], groups: Sequence[Sequence[Tensor]], scale: Tensor | None
    ) -> list[Jacobian]:
        """Differentiate each loss once, and return a Jacobian for each group of targets.

        The targets belong to this card's batch, see ``replicated``.

        Args:
            losses: K losses, with one element each.
            groups: groups of targets.
            scale: factor by which the losses are multiplied, or None.
        """
        targets = [target for group in groups for target in group]
        rows = [gradients_of(loss, targets, scale) for loss in losses]
        found = []
        for group in groups:
            own = [row[: len(group)] for row in rows]
            rows = [row[len(group) :] for row in rows]
            found.append(cls(losses, group, scale, replicated=False, rows=own))
        return found

    def gramian(self, dtype: str = "float32", metric: Sequence[Tensor] | None = None) -> Tensor:
        """Return the inner products of the rows, shape [K, K].

        Args:
            dtype: ``"float32"``, or ``"float64"`` for rows whose squares are `beyond_float32`.
            metric: factors of the products, one tensor of its shape for each target, or None for 1.
        """
        zero = paddle.zeros([], dtype=dtype)
        entries = [[zero] * self._num_losses for _ in range(self._num_losses)]
        for block in self._blocks:
            scaled = dict(block.numbered_rows())
            if metric is not None:
                factors = paddle.concat([metric[column].flatten() for column in block.columns])
                scaled = {i: row * factors for i, row in scaled.items()}
            for (i, _), (j, second) in combinations_with_replacement(block.numbered_rows(), 2):
                entries[i][j] = entries[i][j] + inner_product(scaled[i], second, dtype)
        # Only the upper triangle was computed.
        upper = paddle.stack(list(map(paddle.stack, entries)))
        total = upper + paddle.triu(upper, 1).T
        return total if self._replicated else mean_over_ranks(total)

    def read(
        self, losses: Tensor, metric: Sequence[Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Copy the Gramian, without `scale`, and the losses to the host, in double precision.

        This is the only transfer of a step, unless the squares are `beyond_float32`.

        Args:
            losses: the loss values, any number of them.
            metric: see `gramian`.
        """
        factor = paddle.ones([1], dtype="float32") if self.scale is None else self.scale
        parts = [self.gramian(metric=metric).flatten(), losses, factor.reshape([1])]
        numbers = paddle.concat(parts).numpy().astype("float64")
        count = self._num_losses
        products = numbers[: count * count].reshape([count, count])
        if beyond_float32(products.diagonal()):
            products = self.gramian("float64", metric).numpy()
        return products / numbers[-1] ** 2, numbers[count * count : -1]

    @property
    def is_shared(self) -> bool:
        """Whether all losses depend on the same targets; losses without any target do not count."""
        reaching = self._count_reaching()
        return all(len(block.losses) == reaching for block in self._blocks)

    def _count_reaching(self) -> int:
        """Return how many losses depend on at least one target."""
        return len({loss for block in self._blocks for loss in block.losses})

    def combine(self, weights: Tensor) -> list[Tensor | None]:
        """Return J^T w, one tensor for each target; None for a target that no loss depends on.

        If some losses depend on a target and others do not, negative weights count as 0 there: they
        would increase the losses of an auxiliary head.  This call consumes J: its blocks are freed
        one by one, so the result needs no additional memory.

        Args:
            weights: w, shape [K].
        """
        gradients: list[Tensor | None] = [None] * len(self.targets)
        reaching = self._count_reaching()
        while self._blocks:
            block = self._blocks.pop()
            own = weights if len(block.losses) == self._num_losses else weights[block.losses]
            own = own if len(block.losses) == reaching else own.clip(min=0)
            self._unpack(block, own @ paddle.stack(block.rows), gradients)
        return gradients

    def inject_combination(self, weights: Tensor) -> Tensor:
        """Return 0 as a tensor whose ``backward`` adds `combine` to the targets' gradients.

        The result is divided by `scale`, because a gradient scaler multiplies the total by it
        later.

        Args:
            weights: w, shape [K].
        """
        zero = paddle.zeros([], dtype="float32")
        return inject(zero, self.targets, self.combine(weights), divisor=self.scale)

    def inject_update(self, update: Tensor) -> Tensor:
        """Return 0 as a tensor whose ``backward`` adds an update to the targets' gradients.

        Args:
            update: d, shape [n], without `scale`, in the order of the columns of `matrix`.
        """
        return inject(paddle.zeros([], dtype="float32"), self.targets, self.split(update))

    def matrix(self) -> Tensor:
        """Return J as one tensor, float32, shape [K, n], with columns in the order of the targets.

        Unlike the blocks, it contains zeros where a loss does not depend on a target, and it does
        not contain `scale`.  This call consumes J: its blocks are freed one by one.
        """
        columns: list[Tensor | None] = [None] * len(self.targets)
        while self._blocks:
            self._write_dense(self._blocks.pop(), columns)
        count = self._num_losses
        for index, (target, part) in enumerate(zip(self.targets, columns)):
            if part is None:
                columns[index] = paddle.zeros([count, math.prod(target.shape)], dtype="float32")
        return paddle.concat(columns, axis=1)

    def _write_dense(self, block: _Block, columns: list[Tensor | None]) -> None:
        rows, zero = dict(block.numbered_rows()), paddle.zeros_like(block.rows[0])
        dense = paddle.stack([rows.get(loss, zero) for loss in range(self._num_losses)])
        dense = dense if self.scale is None else dense / self.scale
        sizes = [math.prod(self.targets[column].shape) for column in block.columns]
        for column, part in zip(block.columns, paddle.split(dense, sizes, axis=1)):
            columns[column] = part

    def split(self, update: Tensor) -> list[Tensor | None]:
        """Split a vector, shape [n], into one tensor for each target.

        It is None for a target that no loss depends on; an optimizer does not change such a
        parameter.
        """
        shapes = [target.shape for target in self.targets]
        parts = paddle.split(update, [math.prod(shape) for shape in shapes])
        return [
            part.reshape(shape) if column in self._reached else None
            for column, (part, shape) in enumerate(zip(parts, shapes))
        ]

    def row(self, loss: int) -> list[Tensor | None]:
        """Return the gradient of one loss, one tensor for each target, or None where it is zero."""
        gradients: list[Tensor | None] = [None] * len(self.targets)
        for block in self._blocks:
            if loss in block.losses:
                self._unpack(block, block.rows[block.losses.index(loss)], gradients)
        return gradients

    def _unpack(self, block: _Block, vector: Tensor, gradients: list[Tensor | None]) -> None:
        shapes = [self.targets[column].shape for column in block.columns]
        parts = paddle.split(vector, [math.prod(shape) for shape in shapes])
        for column, part, shape in zip(block.columns, parts, shapes):
            gradients[column] = part.reshape(shape)


class _Block:
    """Some columns of J.

    Args:
        losses: indices of the losses that depend on these targets.
        columns: indices of the targets.
        rows: these columns of the rows of those losses, float32, flat.
    """

    def __init__(self, losses: list[int], columns: list[int], rows: list[Tensor]) -> None:
        self.losses = losses
        self.columns = columns
        self.rows = rows

    def numbered_rows(self) -> list[tuple[int, Tensor]]:
        """Return each row together with the index of its loss."""
        return list(zip(self.losses, self.rows))


def gradients_of(
    loss: Tensor, targets: Sequence[Tensor], scale: Tensor | None
) -> list[Tensor | None]:
    """Return the gradient of a loss times ``scale``, one tensor for each target; None for 0."""
    if loss.stop_gradient:
        return [None] * len(targets)
    # A loss times the scale may overflow in half precision.
    scaled = loss if scale is None else as_float32(loss) * scale
    return paddle.grad(scaled, targets, retain_graph=True, allow_unused=True)


def _take_means_over_ranks(rows: list[list[Tensor | None]], sizes: list[int]) -> None:
    """Replace the gradients by their means over all cards, bucket by bucket.

    A loss may depend on a target on some cards only.  So the cards first tell each other which
    losses depend on which targets.
    """
    reach = paddle.to_tensor([[float(gradient is not None) for gradient in row] for row in rows])
    places = np.argwhere(mean_over_ranks(reach).numpy() > 0).tolist()
    for bucket in _buckets(places, sizes):
        parts = []
        for loss, column in bucket:
            gradient, rows[loss][column] = rows[loss][column], None
            if gradient is None:
                gradient = paddle.zeros([sizes[column]], dtype="float32")
            parts.append(as_float32(gradient.flatten()))
        mean = mean_over_ranks(paddle.concat(parts))
        for (loss, column), part in zip(bucket, paddle.split(mean, [part.size for part in parts])):
            rows[loss][column] = part


def _buckets(places: list[list[int]], sizes: list[int]) -> Iterator[list[list[int]]]:
    """Group places, which are pairs of a loss and a column, into buckets of `_BUCKET` numbers."""
    bucket, room = list[list[int]](), _BUCKET
    for place in places:
        size = sizes[place[1]]
        if bucket and size > room:
            yield bucket
            bucket, room = [], _BUCKET
        bucket.append(place)
        room -= size
    if bucket:
        yield bucket


def _make_blocks(rows: list[list[Tensor | None]], sizes: list[int]) -> Iterator[_Block]:
    """Copy the gradients into blocks, and free each of them after it is copied."""
    for losses, columns in _columns_by_reach(rows, sizes):
        yield _Block(losses, columns, [_join_columns(rows[loss], columns) for loss in losses])


def _join_columns(row: list[Tensor | None], columns: list[int]) -> Tensor:
    """Return some columns of a row as one vector, and remove them from the row."""
    parts = []
    for column in columns:
        gradient, row[column] = row[column], None
        assert gradient is not None, "the loss depends on this target"
        parts.append(gradient.flatten())
    if any(part.dtype != paddle.float32 for part in parts):
        # Under mixed precision, parameters have different data types.
        parts = [as_float32(part) for part in parts]
    return parts[0] if len(parts) == 1 else paddle.concat(parts)


def _columns_by_reach(
    rows: list[list[Tensor | None]], sizes: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Group the columns that the same losses depend on; a large one gets a group of its own."""
    by_reach: dict[tuple[int, ...], list[int]] = {}
    for column, gradients in enumerate(zip(*rows)):
        reach = tuple(i for i, gradient in enumerate(gradients) if gradient is not None)
        if reach:
            by_reach.setdefault(reach, []).append(column)
    for reach, columns in by_reach.items():
        losses, group = list(reach), list[int]()
        for column in columns:
            if sizes[column] >= _LARGE:
                yield losses, [column]
            else:
                group.append(column)
        if group:
            yield losses, group
