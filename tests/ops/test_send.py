"""A tensor that is sent is there, with its values."""

from __future__ import annotations

import torch

from scaleeq.ops.send import send


def test_the_tensor_is_on_the_device():
    x = torch.randn(2, 3)
    assert torch.equal(send(x, torch.device("cpu")), x)
    sent = send(x, torch.device("meta"))
    assert sent.device.type == "meta" and sent.shape == x.shape and sent.dtype == x.dtype
