"""What a pickle of torch.save would take in memory, found without building any of it.

torch.load(weights_only=True) runs no foreign code, but a pickle of 100 bytes can ask for memory without end: it can
call bytearray with a number, copy one set a million times, or nest tuples until hashing them overflows the stack.
`check_pickle` follows a pickle as torch.load would, and counts.
"""

import pickletools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import BinaryIO

# The largest model has about 3,000 tensors, which take 30 opcodes each. An empty set takes 216 bytes.
MOST_OPCODES = 1_000_000
# Elements that calls copy, all together, and depth of tuples in tuples.
_MOST_COPIED, _DEEPEST = 1_000_000, 100
# Everything that files of weights call. torch.load allows more, such as bytearray.
_CALLS = frozenset({
    "collections OrderedDict", "collections Counter", "__builtin__ set", "builtins set", "__builtin__ complex",
    "builtins complex", "torch Size", "torch device", "torch.serialization _get_layout", "_codecs encode",
    "numpy dtype", "numpy.core.multiarray scalar", "numpy._core.multiarray scalar",
    *(f"torch._utils _rebuild_{name}" for name in (
        "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor",
    )),
})
_TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3")
_PARAMETER = "torch.nn.parameter Parameter"
_CONSTANTS = frozenset({
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINSTRING",
    "GLOBAL",
})
_CONTAINERS = frozenset({"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(slots=True)
class _Value:
    """What the pickle has built.

    constant  a number or a text; of a GLOBAL, its module and name; of a storage, its number of elements
    size      number of elements or characters
    items     of a tuple
    depth     of tuples in tuples
    """

    constant: object = None
    size: int = 0
    items: Sequence["_Value"] = ()
    depth: int = 0


@dataclass(slots=True)
class _Machine:
    """The state of the unpickler."""

    stack: list[_Value] = field(default_factory=list)
    marked: list[list[_Value]] = field(default_factory=list)
    memo: dict[int, _Value] = field(default_factory=dict)
    copied: int = 0

    def items_from_mark(self) -> list[_Value]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def push_tuple(self, items: Sequence[_Value]) -> None:
        depth = 1 + max((item.depth for item in items), default=0)
        if depth > _DEEPEST:
            raise ValueError("its structure is nested too deep")
        self.stack.append(_Value(None, len(items), items, depth))

    def copy(self, value: _Value) -> int:
        """Count a value that is copied: for arguments, also each of them. Return the number of elements."""
        self.copied += value.size
        if self.copied <= _MOST_COPIED:
            self.copied += sum(item.size for item in value.items)
        if self.copied > _MOST_COPIED:
            raise ValueError("its structure asks for far more memory than its size")
        return value.size + sum(item.size for item in value.items)

    def call(self) -> None:
        """Replace a function and its arguments by what it returns."""
        arguments = self.stack.pop()
        function = self.stack[-1].constant
        size = self.copy(arguments)
        constants = [item.constant for item in arguments.items]
        if function not in _CALLS:
            raise _refused(function)
        if function == "_codecs encode" and constants[1:] != ["latin1"]:
            raise ValueError("it encodes a text")
        if str(function).endswith("scalar") and len(constants) != 2:
            raise ValueError("it calls numpy without a value")
        if function in _TENSORS:
            _check_shape(arguments.items[0].constant, arguments.items[2])
            size = 0
        self.stack[-1] = _Value(None, size)

    def new_object(self) -> None:
        """Replace a class and its arguments by an object of it."""
        arguments = self.stack.pop()
        if arguments.size and self.stack[-1].constant != _PARAMETER:
            raise _refused(self.stack[-1].constant)
        self.stack[-1] = _Value()

    def load_storage(self) -> None:
        """Replace the description of a storage, the fifth entry of which is its number of elements, by the storage."""
        self.stack.append(_Value(self.stack.pop().items[4].constant))

    def grow(self, elements: int) -> None:
        self.stack[-1].size += elements


def _refused(function: object) -> ValueError:
    """Return the error for what must not be called, worded as that of torch.load, in which readers find the name."""
    name = str(function).replace(" ", ".").removeprefix("__builtin__.").removeprefix("builtins.")
    return ValueError(f"GLOBAL {name[:80]} is called")


def _check_shape(stored: object, shape: _Value) -> None:
    """Raise ValueError for a tensor with more elements than its storage, which would read one of them many times."""
    extents = [item.constant for item in shape.items]
    if len(extents) != shape.size or not all(isinstance(number, int) for number in (stored, *extents)):
        raise ValueError("the shape of a tensor is malformed")
    if prod(extents) > stored:
        raise ValueError("a tensor has more elements than are stored")


def check_pickle(file: BinaryIO) -> bool:
    """Return whether there is a complete pickle at the position of `file`, which is then after it.

    Raises ValueError if it would take much more memory than the structure of a file of weights does. What is malformed
    ends the check: torch.load ends there, too.
    """
    machine = _Machine()
    try:
        for number, (name, argument) in enumerate(_opcodes(file)):
            if number == MOST_OPCODES:
                raise ValueError("its structure has too many parts")
            if not _follow(machine, name, argument):
                return name == "STOP"
    except (IndexError, KeyError):  # an empty stack, or a place of the memo
        pass
    return False


def _opcodes(file: BinaryIO) -> Iterator[tuple[str, object]]:
    """Yield the names and arguments of the opcodes, up to the end or to the first one that is malformed."""
    opcodes = pickletools.genops(file)
    while True:
        try:
            opcode, argument, _ = next(opcodes)
        except (StopIteration, ValueError):
            return
        yield opcode.name, argument


def _follow(machine: _Machine, name: str, argument: object) -> bool:
    """Follow one opcode; return whether torch.load would continue after it."""
    stack = machine.stack
    if name in _CONSTANTS:
        stack.append(_Value(argument, len(argument) if isinstance(argument, (str, bytes)) else 0))
    elif name in _CONTAINERS:
        stack.append(_Value())
    elif name in _TUPLES:
        count = _TUPLES[name]
        if len(stack) < count:
            return False
        items = stack[-count:]
        del stack[-count:]
        machine.push_tuple(items)
    elif name in ("BINPUT", "LONG_BINPUT"):
        machine.memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif name == "BUILD":
        machine.copy(stack.pop())
    elif name in _ACTIONS:
        _ACTIONS[name](machine)
    else:
        return name == "PROTO"
    return True


def _mark(machine: _Machine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _set_item(machine: _Machine) -> None:
    del machine.stack[-2:]
    machine.grow(1)


_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _mark,
    "TUPLE": lambda machine: machine.push_tuple(machine.items_from_mark()),
    "APPEND": lambda machine: (machine.stack.pop(), machine.grow(1)),
    "APPENDS": lambda machine: machine.grow(len(machine.items_from_mark())),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine: machine.grow(len(machine.items_from_mark()) // 2),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "BINPERSID": _Machine.load_storage,
}
