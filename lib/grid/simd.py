"""Explicit SIMD for Numba: a value of type `f64x8` is eight float64 lanes, one operation is one vector instruction.

Auto-vectorisation of kernels that read a dozen arrays fails or drowns in run-time alias checks; a vector type says
what is meant. Every lane goes through the same instructions, so a lane's result never depends on its neighbours.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 8
_F64 = ir.DoubleType()
_VEC = ir.VectorType(_F64, WIDTH)
_MASK = ir.VectorType(ir.IntType(1), WIDTH)
_ALLOW_FMA = ("contract",)


class LaneType(types.Type):
    """Numba type of eight float64 lanes."""

    def __init__(self) -> None:
        super().__init__(name="f64x8")


class MaskType(types.Type):
    """Numba type of eight booleans."""

    def __init__(self) -> None:
        super().__init__(name="i1x8")


f64x8 = LaneType()
i1x8 = MaskType()


@register_model(LaneType)
class _LaneModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _VEC)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _MASK)


def _element_pointer(context, builder, array_type, array, row, lane):
    ary = cgutils.create_struct_proxy(array_type)(context, builder, value=array)
    return cgutils.get_item_pointer2(
        context, builder, ary.data, cgutils.unpack_tuple(builder, ary.shape),
        cgutils.unpack_tuple(builder, ary.strides), array_type.layout, [row, lane], wraparound=False, boundscheck=False,
    )  # fmt: skip


@intrinsic
def load(typingctx, array, row, lane):
    """Eight lanes of `array[row, lane:lane+8]` as float64. `array` is 2-D, C-contiguous, float32 or float64."""
    if not (isinstance(array, types.Array) and array.ndim == 2 and array.layout == "C"):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, signature.args[0], *args)
        scalar = ir.FloatType() if signature.args[0].dtype == types.float32 else _F64
        vector = ir.VectorType(scalar, WIDTH)
        value = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=scalar_bytes(scalar))
        return value if scalar is _F64 else builder.fpext(value, _VEC)

    return f64x8(array, types.intp, types.intp), codegen


@intrinsic
def store(typingctx, array, row, lane, value):
    """Writes eight lanes to `array[row, lane:lane+8]`, rounded where the array is float32."""
    if not (isinstance(array, types.Array) and array.ndim == 2 and array.layout == "C" and value == f64x8):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, signature.args[0], *args[:3])
        value = args[3]
        scalar = ir.FloatType() if signature.args[0].dtype == types.float32 else _F64
        vector = ir.VectorType(scalar, WIDTH)
        if scalar is not _F64:
            value = builder.fptrunc(value, vector)
        builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=scalar_bytes(scalar))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


def scalar_bytes(scalar) -> int:
    """Bytes of an LLVM float type: NumPy promises no more alignment than that."""
    return 8 if scalar is _F64 else 4


@intrinsic
def splat(typingctx, x):
    """The same float64 in all lanes."""

    def codegen(context, builder, signature, args):
        vector = builder.insert_element(ir.Constant(_VEC, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(vector, ir.Constant(_VEC, ir.Undefined), mask)

    return f64x8(types.float64), codegen


@intrinsic
def select(typingctx, mask, a, b):
    """Lane by lane: a where mask, else b."""

    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return f64x8(i1x8, f64x8, f64x8), codegen


@intrinsic
def sqrt(typingctx, a):
    """Square root, lane by lane."""

    def codegen(context, builder, signature, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VEC, [_VEC]), "llvm.sqrt.v8f64")
        return builder.call(function, args)

    return f64x8(f64x8), codegen


def _operation(name: str):
    @intrinsic
    def op(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(*args, flags=_ALLOW_FMA)

        return f64x8(f64x8, f64x8), codegen

    return op


def _comparison(symbol: str):
    @intrinsic
    def op(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.fcmp_ordered(symbol, *args)

        return i1x8(f64x8, f64x8), codegen

    return op


def _define(python_operator, op) -> None:
    @overload(python_operator)
    def impl(a, b):
        if a == f64x8 and b == f64x8:
            return lambda a, b: op(a, b)
        if a == f64x8 and isinstance(b, types.Float):
            return lambda a, b: op(a, splat(b))
        if b == f64x8 and isinstance(a, types.Float):
            return lambda a, b: op(splat(a), b)
        return None


_define(operator.add, _operation("fadd"))
_define(operator.sub, _operation("fsub"))
_define(operator.mul, _operation("fmul"))
_define(operator.truediv, _operation("fdiv"))
_define(operator.gt, _comparison(">"))
_define(operator.lt, _comparison("<"))
