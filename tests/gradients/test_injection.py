"""Gradients on their way into ``p.grad``."""

from __future__ import annotations

import paddle

from paddleseg_autoloss.gradients import inject


class TestInjection:
    def test_adds_to_earlier_gradients_and_follows_the_incoming_one(self):
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        (x * x).sum().backward()
        value = inject(paddle.to_tensor(0.25), [x], [paddle.to_tensor([1.0, -1.0])])
        assert float(value) == 0.25
        (value * 3 + x.sum()).backward()
        assert x.grad.tolist() == [2 + 3 + 1, 4 - 3 + 1]

    def test_frozen_and_unreached_parameters_are_left_out(self):
        x, y, z = (paddle.to_tensor([1.0], stop_gradient=False) for _ in range(3))
        y.stop_gradient = True
        inject(
            paddle.to_tensor(0.0), [x, y, z], [paddle.ones([1]), paddle.ones([1]), None]
        ).backward()
        assert x.grad.tolist() == [1]
        assert y.grad is None
        assert z.grad is None
