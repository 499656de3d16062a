"""Vector instructions of the `software` renderer, written as LLVM's own code.

LLVM makes no vectors of loops as short as the lines of a small triangle. All arrays are float32,
and a vector of `LANES` numbers may end outside the part that is meant: arrays have room for it.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8
CONTRACT = {"contract"}  # of `fastmath`: a product and a sum may be one instruction
FLAGS = tuple(CONTRACT)
VECTOR = ir.VectorType(ir.FloatType(), LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)
COUNTS = ir.Constant(VECTOR, [float(lane) for lane in range(LANES)])


@intrinsic
def keep_nearer(typing, depth, numbers, line, column, w, w_step, count, number):
    """Write a face into a z-buffer where it is nearer: `count` samples from (line, column) on.

    The face's w is `w` at the first of them and grows by `w_step` a sample; only the first `LANES`
    samples are written.
    """
    signature = types.void(depth, numbers, *[types.intp] * 2, *[types.float32] * 4)

    def generate(context, builder, signature, arguments):
        w, w_step, count, number = (_spread(builder, x) for x in arguments[4:])
        w = _sum_of_product(builder, COUNTS, w_step, w)
        depth_at, number_at = (
            _pointer(context, builder, kind, array, arguments[2:4])
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        nearer = builder.fcmp_ordered(">", w, builder.load(depth_at, align=4))
        nearer = builder.and_(nearer, builder.fcmp_ordered("<", COUNTS, count))
        for pointer, value in ((depth_at, w), (number_at, number)):
            kept = builder.select(nearer, ZEROS, builder.load(pointer, align=4))
            # A sum, because one select would become a masked store: very slow on AMD with AVX2.
            both = builder.fadd(builder.select(nearer, value, ZEROS), kept)
            builder.store(both, pointer, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fill_line(typing, array, index, value, step):
    """Write value, value + step, ... into `LANES` numbers of `array` (N,) from `index` on."""
    signature = types.void(array, types.intp, types.float32, types.float32)

    def generate(context, builder, signature, arguments):
        value, step = (_spread(builder, x) for x in arguments[2:])
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1:2])
        builder.store(_sum_of_product(builder, COUNTS, step, value), pointer, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fill_rows(typing, array, index, row_length, table, corners, weights, steps):
    """Write `LANES` blends of three rows of `table` (V, LANES) into the columns of `array`.

    Blend k weighs the rows `corners` (three integers) by weights + k · steps (three numbers each),
    and its number i goes to array[i · row_length + index + k].
    """
    triple = types.UniTuple(types.float32, 3)
    signature = types.void(
        array, types.intp, types.intp, table, types.UniTuple(types.intp, 3), triple, triple
    )

    def generate(context, builder, signature, arguments):
        array, index, row_length, table, corners, weights, steps = arguments
        corners = cgutils.unpack_tuple(builder, corners, 3)
        zero = ir.Constant(ir.IntType(64), 0)
        rows = [
            builder.load(
                _pointer(context, builder, signature.args[3], table, (corner, zero)), align=4
            )
            for corner in corners
        ]
        first, step = (
            _blend(builder, rows, cgutils.unpack_tuple(builder, x, 3)) for x in (weights, steps)
        )
        for lane in range(LANES):
            value = _sum_of_product(
                builder, COUNTS, _lane(builder, step, lane), _lane(builder, first, lane)
            )
            pointer = _pointer(context, builder, signature.args[0], array, (index,))
            builder.store(value, pointer, align=4)
            index = builder.add(index, row_length)
        return context.get_dummy_value()

    return signature, generate


def _sum_of_product(builder, a, b, c):
    """a · b + c."""
    return builder.fadd(builder.fmul(a, b, flags=FLAGS), c, flags=FLAGS)


def _blend(builder, rows, weights):
    """The sum of vectors times numbers."""
    total = builder.fmul(rows[0], _spread(builder, weights[0]), flags=FLAGS)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total = _sum_of_product(builder, row, _spread(builder, weight), total)
    return total


def _pointer(context, builder, kind, array, index):
    """Pointer to the vector that begins at array[index]."""
    array = context.make_array(kind)(context, builder, array)
    at = cgutils.get_item_pointer(context, builder, kind, array, index, wraparound=False)
    return builder.bitcast(at, VECTOR.as_pointer())


def _lane(builder, vector, lane):
    """The vector whose lanes all have the value of one lane of `vector`."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane] * LANES)
    return builder.shuffle_vector(vector, undefined, lanes)


def _spread(builder, value):
    """The vector whose lanes all have a value."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    zero = ir.Constant(ir.IntType(32), 0)
    return _lane(builder, builder.insert_element(undefined, value, zero), 0)
