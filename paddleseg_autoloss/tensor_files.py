"""Reads the files of ``paddle.save`` without ``pickle``: only tensors, numbers and names.

The files are pickles of protocol 2 to 4, and ``pickle`` runs any code that a file contains.  This
module interprets the opcodes that ``paddle.save`` writes.  It knows the few functions that they
need by name and never imports one, it creates arrays of plain numeric types, and it refuses
everything else.  Lengths are compared with the file's size before memory is allocated.  Small
objects, which need only one byte in the file, are counted against a memory budget.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from paddleseg_autoloss.errors import TensorFileError

__all__ = ["read_tensor_file"]

#: Most opcodes of a file, which limits the time; a tensor needs about 35.
_MOST_STEPS = 2**21
#: Most memory: this multiple of the file's size, plus this many bytes.
_TIMES_SIZE, _BYTES = 3, 32 * 2**20
#: Bytes in the memory budget for each object, at least as many as Python and NumPy need.
_COST_OF_STEP, _COST_OF_ENTRY, _COST_OF_CONTAINER, _COST_OF_ARRAY = 64, 128, 256, 640
#: Most bytes of a name and of an integer.
_LONGEST_NAME, _LONGEST_INTEGER = 2**16, 16
#: Most axes of an array, which is Paddle's limit, and most elements of an axis.
_MOST_AXES, _LONGEST_AXIS = 9, 2**31 - 1
#: Largest depth of nested containers, and most values in all of them.
_DEEPEST, _MOST_VALUES = 32, 2**20

#: NumPy's names of Paddle's data types; bfloat16 is saved as u2.
_TYPES = ("b1", "u1", "i1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")
#: NumPy's description of a plain type, after its version and its byte order.
_PLAIN_TYPE = (None, None, None, -1, -1, 0)
_PLAIN = (np.ndarray, str, int, float, bool, type(None))
_END = object()
#: Key of the table of arrays that were saved in slices: those above 1 GiB, in protocols 2 and 3.
_SLICED = "UnpackBigParamInfor@@"


def read_tensor_file(path: str | os.PathLike[str]) -> Any:
    """Read a file of ``paddle.save``; tensors become NumPy arrays.

    A tensor that was saved with its name becomes a tuple of the name and the array.  Paddle's table
    of names is kept.  Large arrays, which Paddle saves in slices, are joined again.

    Args:
        path: the file.

    Returns:
        Dicts with names as keys, lists and tuples that contain arrays, numbers, names, booleans and
        None.

    Raises:
        TensorFileError: the file is damaged, contains other objects, or cannot be read.

    Example:
        >>> import tempfile, paddle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paddle.save({"weight": paddle.ones([2])}, f"{folder}/model.pdparams")
        ...     read_tensor_file(f"{folder}/model.pdparams")["weight"]
        array([1., 1.], dtype=float32)
    """
    try:
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _Malformed("it is not a regular file")
        with open(path, "rb") as file:
            return _join_slices(_Parser(file, os.fstat(file.fileno()).st_size).parse())
    except _Foreign as error:
        raise TensorFileError(
            f"expected a file that contains only tensors, found {error} in {path}"
        ) from error
    except _Malformed as error:
        raise TensorFileError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise TensorFileError(f"cannot read {path}: {error.strerror}") from error
    except MemoryError as error:
        raise TensorFileError(f"cannot read {path}: there is not enough memory for it") from error


class _Malformed(Exception):
    """The file is damaged, or is not from ``paddle.save``."""


class _Foreign(Exception):
    """The file contains something that no tensor needs."""


class _Callable:
    """A function that a file may call: it replaces the function that the file names."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class _Array:
    """An array whose data follow later in the file, which refers to it before and after that."""

    def __init__(self) -> None:
        self.filled: np.ndarray | None = None


class _LongText:
    """Text that is too long for a name: these are bytes, which protocol 2 writes as text.

    Args:
        data: the text as UTF-8.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data


class _Parser:
    """Interprets one file.

    Args:
        file: the file, at its start.
        size: its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.budget = _TIMES_SIZE * size + _BYTES
        self.array_bytes = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def parse(self) -> Any:
        """Return the content of the file."""
        if self.size < 2 or self.take(1) != b"\x80" or self.take(1)[0] not in (2, 3, 4):
            raise _Malformed("it was not written by paddle.save, or not by protocol 2, 3 or 4")
        read, operations = self.file.read, _OPERATIONS
        for _ in range(_MOST_STEPS):
            code = read(1)
            operation = operations.get(code)
            if operation is None:
                break
            self.spend(_COST_OF_STEP)
            operation(self)
        else:
            raise _Malformed(f"it has more than {_MOST_STEPS} opcodes")
        if code == b".":
            return self.result()
        raise _Malformed(f"paddle.save writes no opcode {code!r}" if code else "it ends too early")

    def result(self) -> Any:
        if self.file.read(1):
            raise _Malformed("something follows its end")
        value = self.pop()
        if self.stack or self.marks:
            raise _Malformed("something is left over at its end")
        self.memo.clear()
        _check_plain(value)
        return value

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise _Malformed(f"it asks for more memory than {self.size} bytes of tensors need")

    # The file

    def take(self, count: int) -> bytes:
        """Read a small number of bytes."""
        data = self.file.read(count)
        if len(data) != count:
            raise _Malformed("it ends too early")
        return data

    def data(self, count: int) -> memoryview:
        """Read bytes directly to their final place in memory."""
        if count > self.size:
            raise _Malformed("it ends too early")
        self.spend(count + _COST_OF_ARRAY)
        view = np.empty(count, np.uint8).data
        if self.file.readinto(view) != count:  # type: ignore[attr-defined]
            raise _Malformed("it ends too early")
        return view

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """Read a line of text, which is the name of a module or a function."""
        line = self.file.readline(256)
        if not line.endswith(b"\n"):
            raise _Malformed("a name does not end")
        return _decode(line[:-1])

    # The stack

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Malformed("something is missing in it")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """Return the topmost value of the stack, a list or a dict that will be filled."""
        value = self.pop()
        if type(value) is not kind:
            raise _Malformed(f"expected a {kind.__name__} in it, found {type(value).__name__}")
        self.stack.append(value)
        return value

    def items(self) -> list[Any]:
        """Remove and return all values since the latest mark."""
        if not self.marks:
            raise _Malformed("a mark is missing in it")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    # Operations: one for each opcode

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def frame(self) -> None:
        # The length of a frame is only useful for reading ahead.
        self.take(8)

    def constant(self, value: Any) -> None:
        self.stack.append(value)

    def integer(self, width: int, signed: bool) -> None:
        self.stack.append(int.from_bytes(self.take(width), "little", signed=signed))

    def long_integer(self) -> None:
        width = self.number(1)
        if width > _LONGEST_INTEGER:
            raise _Malformed(f"an integer has {width} bytes")
        self.integer(width, signed=True)

    def floating(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def text(self, width: int) -> None:
        count = self.number(width)
        if count > _LONGEST_NAME:
            self.stack.append(_LongText(self.data(count)))
            return
        text = _decode(self.take(count))
        self.spend(sys.getsizeof(text))
        self.stack.append(text)

    def string(self, width: int) -> None:
        """Read a string of Python 2, which has one type for names and bytes; both are Latin-1."""
        count = self.number(width)
        if count > _LONGEST_NAME:
            self.stack.append(self.data(count))
            return
        text = self.take(count).decode("latin1")
        self.spend(sys.getsizeof(text))
        self.stack.append(text)

    def bytes(self, width: int) -> None:
        self.stack.append(self.data(self.number(width)))

    def dictionary(self) -> None:
        self.spend(_COST_OF_CONTAINER)
        self.stack.append({})

    def sequence(self) -> None:
        self.spend(_COST_OF_CONTAINER)
        self.stack.append([])

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        values = self.items()
        self.top(list).extend(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self._fill([key, value])

    def set_items(self) -> None:
        self._fill(self.items())

    def _fill(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise _Malformed("a name has no value")
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2]):
            if type(key) is not str:
                raise _Malformed(f"expected names as keys, found {type(key).__name__}")
            self.spend(_COST_OF_ENTRY)
            target[key] = value

    def pack(self, count: int | None = None) -> None:
        """Make a tuple of the topmost values, or of all values since the latest mark."""
        values = self.items() if count is None else [self.pop() for _ in range(count)][::-1]
        self.spend(8 * len(values) + 64)
        self.stack.append(tuple(values))

    def put(self, width: int) -> None:
        self._remember(self.number(width))

    def memoize(self) -> None:
        self._remember(len(self.memo))

    def _remember(self, index: int) -> None:
        if not self.stack:
            raise _Malformed("something is missing in it")
        self.spend(_COST_OF_ENTRY)
        self.memo[index] = self.stack[-1]

    def get(self, width: int) -> None:
        index = self.number(width)
        if index not in self.memo:
            raise _Malformed(f"it refers to a value {index}, which it does not have")
        value = self.memo[index]
        if type(value) is _Array and value.filled is not None:
            value = value.filled
        self.stack.append(value)

    def name(self) -> None:
        self._name(self.line(), self.line())

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise _Malformed("a function's name is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        found = _CALLABLES.get((module, name))
        if found is None:
            shown = f"{module}.{name}"[:100]
            raise _Foreign(shown if shown.isprintable() else ascii(shown))
        self.stack.append(found)

    def reduce(self) -> None:
        """Call."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Callable or type(arguments) is not tuple:
            raise _Malformed("it calls what is no function")
        self.spend(_COST_OF_CONTAINER)
        self.stack.append(function.call(self, *arguments))

    def build(self) -> None:
        """Set the content of a created object."""
        state, target = self.pop(), self.pop()
        if isinstance(target, np.dtype):
            _check_type(target, state)
        elif type(target) is _Array and target.filled is None:
            target.filled = self._array(state)
            target = target.filled
        else:
            raise _Malformed(f"it changes the state of a {type(target).__name__}")
        self.stack.append(target)

    def _array(self, state: Any) -> np.ndarray:
        if type(state) is not tuple or len(state) != 5 or not _is_exactly(state[0], 1):
            raise _Malformed("an array is not described as NumPy does")
        _, shape, dtype, is_fortran, data = state
        if type(data) is str:
            data = memoryview(_encode(data))
        if not isinstance(dtype, np.dtype) or type(data) is not memoryview:
            raise _Malformed("an array is not of numbers")
        shape = _checked_shape(shape)
        size = dtype.itemsize * math.prod(shape)
        if size != data.nbytes:
            raise _Malformed(f"an array of {size} bytes has {data.nbytes} bytes of data")
        self.array_bytes += size
        if self.array_bytes > self.size:
            raise _Malformed("its arrays are larger than itself")
        self.spend(_COST_OF_ARRAY)
        flat = np.frombuffer(data, dtype) if size else np.empty(0, dtype)
        try:
            return flat.reshape(shape, order="F" if is_fortran is True else "C")
        except ValueError as error:
            raise _Malformed(f"an array has the shape {shape}") from error

    # Functions that a file may call

    def make_tuple(self, *arguments: Any) -> tuple[Any, ...]:
        if len(arguments) != 1 or type(arguments[0]) is not tuple:
            raise _Malformed("a tuple is made of something else")
        return arguments[0]

    def make_dict(self, *arguments: Any) -> dict[str, Any]:
        if arguments:
            raise _Malformed("an ordered dict is not empty at first")
        return {}

    def make_bytes(self, *arguments: Any) -> memoryview:
        if arguments:
            raise _Malformed("bytes are made of something")
        return memoryview(b"")

    def encode(self, *arguments: Any) -> memoryview:
        if len(arguments) != 2 or not _is_exactly(arguments[1], "latin1"):
            raise _Malformed("bytes are not written as Latin-1")
        data = _encode(arguments[0])
        self.spend(len(data) + _COST_OF_ARRAY)
        return memoryview(data)

    def make_type(self, *arguments: Any) -> np.dtype:
        if not arguments or type(arguments[0]) is not str or arguments[0] not in _TYPES:
            raise _Malformed(f"expected a type of {', '.join(_TYPES)}, found another")
        return np.dtype(arguments[0])

    def make_array(self, *arguments: Any) -> _Array:
        if (
            len(arguments) != 3
            or arguments[0] is not _NDARRAY
            or not _is_exactly(arguments[1], (0,))
        ):
            raise _Malformed("an array is not made as NumPy does")
        return _Array()

    def make_scalar(self, *arguments: Any) -> np.generic:
        if len(arguments) != 2 or not isinstance(arguments[0], np.dtype):
            raise _Malformed("a number is not made as NumPy does")
        dtype, data = arguments
        data = memoryview(_encode(data)) if type(data) is str else data
        if type(data) is not memoryview or data.nbytes != dtype.itemsize:
            raise _Malformed(f"a number of type {dtype} has other than {dtype.itemsize} bytes")
        return np.frombuffer(data, dtype)[0]

    def refuse(self, *arguments: Any) -> None:
        raise _Malformed("an array is not made as NumPy does")


def _decode(data: bytes | memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise _Malformed("a name is no text") from error


def _encode(text: Any) -> bytes:
    """Return bytes that the file contains as text."""
    if type(text) is _LongText:
        # Only text with these bytes is Latin-1, which Python stores with one byte per character.
        if np.frombuffer(text.data, np.uint8).max() > 0xC3:
            raise _Malformed("text is not Latin-1")
        text = _decode(text.data)
    if type(text) is not str:
        raise _Malformed("bytes are not written as text")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise _Malformed("text is not Latin-1") from error


def _is_exactly(value: Any, expected: Any) -> bool:
    """Whether a value and its type are equal to the expected ones; arrays cannot be compared so."""
    if type(value) is not type(expected):
        return False
    if type(value) is tuple:
        return len(value) == len(expected) and all(map(_is_exactly, value, expected))
    return value == expected


def _check_type(dtype: np.dtype, state: Any) -> None:
    """Check that a type is a plain one: other flags would turn data into pointers."""
    if not _is_exactly(state, (3, "|" if dtype.itemsize == 1 else "<", *_PLAIN_TYPE)):
        raise _Malformed(f"the type {dtype.str} is not a plain one")


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > _MOST_AXES:
        raise _Malformed(f"an array has no shape of at most {_MOST_AXES} axes")
    for length in shape:
        if type(length) is not int or not 0 <= length <= _LONGEST_AXIS:
            raise _Malformed("an array has an axis of no sensible length")
    return shape


def _check_plain(value: Any) -> None:
    """Check that a value contains only arrays, numbers and names, and does not contain itself."""
    levels, seen = [iter((value,))], 0
    while levels:
        value = next(levels[-1], _END)
        kind = type(value)
        seen += 1
        if value is _END:
            levels.pop()
        elif kind is dict or kind is list or kind is tuple:
            levels.append(iter(value.values() if kind is dict else value))
        elif kind not in _PLAIN and not isinstance(value, np.generic):
            raise _Malformed("it holds something other than tensors, numbers and names")
        # This also stops a value that contains itself.
        if seen > _MOST_VALUES or len(levels) > _DEEPEST:
            raise _Malformed("its dicts and lists are too large or nested too deep")


def _join_slices(content: Any) -> Any:
    """Join the arrays that were saved in slices."""
    if type(content) is not dict or _SLICED not in content:
        return content
    table = content.pop(_SLICED)
    for name, entry in table.items() if type(table) is dict else ():
        if type(entry) is not dict or type(entry.get("slices")) is not list:
            raise _Malformed(f"the slices of {name!r} are not listed")
        parts = []
        for part in entry["slices"]:
            array = content.pop(part, None) if type(part) is str else None
            if type(array) is not np.ndarray or array.ndim != 1:
                raise _Malformed(f"a slice of {name!r} is missing")
            parts.append(array)
        shape = _checked_shape(entry.get("OriginShape"))
        if len({part.dtype for part in parts}) != 1:
            raise _Malformed(f"the slices of {name!r} are of several types")
        try:
            content[name] = np.concatenate(parts).reshape(shape)
        except ValueError as error:
            raise _Malformed(f"the slices of {name!r} do not have the shape {shape}") from error
    return content


_NDARRAY = _Callable(_Parser.refuse)
_CALLABLES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Callable(_Parser.make_type),
    ("_codecs", "encode"): _Callable(_Parser.encode),
    ("collections", "OrderedDict"): _Callable(_Parser.make_dict),
}
for _module in ("builtins", "__builtin__"):
    _CALLABLES[_module, "tuple"] = _Callable(_Parser.make_tuple)
    _CALLABLES[_module, "bytes"] = _Callable(_Parser.make_bytes)
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _CALLABLES[_module, "_reconstruct"] = _Callable(_Parser.make_array)
    _CALLABLES[_module, "scalar"] = _Callable(_Parser.make_scalar)

#: The opcodes of ``paddle.save``, and the strings of Python 2; see the module pickletools.
_OPERATIONS: dict[bytes, Callable[[_Parser], None]] = {
    b"(": _Parser.mark,
    b"\x95": _Parser.frame,
    b"N": partial(_Parser.constant, value=None),
    b"\x88": partial(_Parser.constant, value=True),
    b"\x89": partial(_Parser.constant, value=False),
    b"K": partial(_Parser.integer, width=1, signed=False),
    b"M": partial(_Parser.integer, width=2, signed=False),
    b"J": partial(_Parser.integer, width=4, signed=True),
    b"\x8a": _Parser.long_integer,
    b"G": _Parser.floating,
    b"\x8c": partial(_Parser.text, width=1),
    b"X": partial(_Parser.text, width=4),
    b"\x8d": partial(_Parser.text, width=8),
    b"U": partial(_Parser.string, width=1),
    b"T": partial(_Parser.string, width=4),
    b"C": partial(_Parser.bytes, width=1),
    b"B": partial(_Parser.bytes, width=4),
    b"\x8e": partial(_Parser.bytes, width=8),
    b"}": _Parser.dictionary,
    b"]": _Parser.sequence,
    b"a": _Parser.append,
    b"e": _Parser.appends,
    b"s": _Parser.set_item,
    b"u": _Parser.set_items,
    b")": partial(_Parser.pack, count=0),
    b"\x85": partial(_Parser.pack, count=1),
    b"\x86": partial(_Parser.pack, count=2),
    b"\x87": partial(_Parser.pack, count=3),
    b"t": _Parser.pack,
    b"q": partial(_Parser.put, width=1),
    b"r": partial(_Parser.put, width=4),
    b"\x94": _Parser.memoize,
    b"h": partial(_Parser.get, width=1),
    b"j": partial(_Parser.get, width=4),
    b"c": _Parser.name,
    b"\x93": _Parser.stack_name,
    b"R": _Parser.reduce,
    b"b": _Parser.build,
}
