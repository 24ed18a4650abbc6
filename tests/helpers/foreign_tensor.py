"""Tensors that say they are on a GPU, on machines without one: for errors, never for values."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

# dlpack.h, version 0.8.
CUDA, FLOAT = 2, 2


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("dimensions", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_keep: list[object] = []  # what capsules point to


def cuda_tensor(*shape: int) -> Tensor:
    """A float32 tensor on "cuda:0", whose data nobody may touch."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    data = ctypes.create_string_buffer(4)
    tensor = _Tensor(
        ctypes.addressof(data), _Device(CUDA, 0), len(shape), _DataType(FLOAT, 32, 1), sizes, None, 0
    )
    managed = _ManagedTensor(tensor, None, None)
    _keep.extend((sizes, data, managed))
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    initialise, torch.cuda._lazy_init = torch.cuda._lazy_init, lambda: None
    try:
        return torch._C._from_dlpack(new_capsule(ctypes.addressof(managed), b"dltensor", None))
    finally:
        torch.cuda._lazy_init = initialise
