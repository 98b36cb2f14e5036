"""A second device where there is no GPU: its tensors are computed for real, and refused where a GPU refuses them.

A tensor on the device holds another one, on the CPU, with its values. Operations on it compute on that one; they are an
error together with tensors of the CPU, but for what PyTorch allows between the CPU and a GPU: copies, single numbers,
and indices into a tensor of the GPU. The device is "lazy" because a build for the CPU can differentiate on no other:
for "cuda" autograd asks a driver that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "lazy"
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXES = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
NO_SINGLE_NUMBERS = (aten.cat.default, aten.stack.default)


@contextmanager
def other_device() -> Iterator[str]:
    """The device's name, which is good for everything that PyTorch does with a device until the block ends."""
    lifted, autocast = torch._C._only_lift_cpu_tensors(), torch.autocast

    def known_autocast(device: str, *arguments: Any, **options: Any) -> Any:
        return nullcontext() if device == NAME else autocast(device, *arguments, **options)

    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device) reads numbers on the CPU, and moves them then
    try:
        with patch.object(torch, "autocast", known_autocast), _Dispatch():
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


class Elsewhere(Tensor):
    """A tensor on the other device; `values` is on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=f"{NAME}:0",
        )
        tensor.values = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"a tensor of the other device is used after it is gone: {func}")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert a tensor of the other device to numpy. Use Tensor.cpu() first.")


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, known = dict(kwargs or {}), {}
        values = _values(args, known), _values(kwargs, known)
        there = any(isinstance(one, Elsewhere) for one in known.values())
        if there and func not in MOVES:
            _check_devices(func, args, known)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]).type == NAME
            if there:
                values[1]["device"] = torch.device("cpu")
        if there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func} expects a generator of the tensor's device, got one of the CPU")
        result = func(*values[0], **values[1])
        if not there:
            return known.get(id(result), result)

        def placed(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            if id(one) not in known:
                return Elsewhere(one)
            same = known[id(one)]  # it was written in place
            if not isinstance(same, Elsewhere) and func not in MOVES:
                raise RuntimeError(f"{func} writes to a tensor on the CPU what is on another device")
            assert same.shape == one.shape, f"{func} has changed a shape in place, which is not emulated"
            return same

        return pytree.tree_map(placed, result)


def _values(one: Any, known: dict[int, Tensor]) -> Any:
    """The same arguments on the CPU; `known` gets the tensors among them as they came, by their values' identity."""
    if isinstance(one, Tensor):
        values = one.values if isinstance(one, Elsewhere) else one
        known[id(values)] = one
        return values
    if isinstance(one, (list, tuple)):
        return type(one)([_values(part, known) for part in one])
    return {key: _values(part, known) for key, part in one.items()} if isinstance(one, dict) else one


def _check_devices(func: Any, args: Any, known: dict[int, Tensor]) -> None:
    """That no tensor of the CPU goes together with those of the other device, but for what may."""
    indices = args[1] if func in INDEXES and isinstance(args[0], Elsewhere) else []
    for one in known.values():
        if isinstance(one, Elsewhere) or any(one is index for index in indices):
            continue
        if one.dim() or func in NO_SINGLE_NUMBERS:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} got {NAME} and cpu {tuple(one.shape)}"
            )
