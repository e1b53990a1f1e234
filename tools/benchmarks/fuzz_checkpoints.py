"""Read damaged and hostile files of weights, and see that nothing happens but a refusal.

Files are made of what ``paddle.save`` writes, by damage of all kinds, and from nothing, of random
opcodes and of templates of known attacks.  Each is read by the gate that all commands use, in a
process that

- reports every event that Python's audit hooks see, but for the opening of that file,
- has memory for four times the file and 64 MiB, by the system's limit and by tracemalloc's count,
- is killed, and counted as a crash, after ten minutes.

A file that breaks a promise is kept in ``--save_dir``.

Example:
    python tools/benchmarks/fuzz_checkpoints.py --files 100000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing.connection
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# The package comes before Paddle: Paddle 2.6.2 depends on the order.
from paddleseg_autoloss.errors import CheckpointError  # isort: skip
from paddleseg_autoloss.integration.loading import load_tensors  # isort: skip

import numpy as np
import paddle
from tqdm import tqdm

MIB = 2**20
MOST_SECONDS = 5.0
#: Seconds until a process counts as hung; tracemalloc makes it several times as slow.
HUNG = 600
#: Files that one process reads.
BATCH = 500
CONTEXT = multiprocessing.get_context("fork")
#: What may come of a file.
GOOD = {"read", "refused"}
#: What came of a file, the seconds, and the share of the memory that is allowed.
Result = tuple[str, float, float]


def budget(size: int) -> int:
    """Return the memory in bytes that reading a file of so many bytes may take."""
    return 4 * size + 64 * MIB


def seeds() -> list[bytes]:
    """Return files that Paddle wrote, of every kind and protocol."""
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    schedule = paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=net.parameters())
    net(paddle.ones([1, 3, 8, 8])).sum().backward()
    optimizer.step()
    types = ("float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool")
    section = {"seed": 2**40, "terms": ["a", "b"], "losses": {"h": dict(net.state_dict())}}
    contents = [
        net.state_dict(),
        optimizer.state_dict(),
        {**optimizer.state_dict(), "paddleseg_autoloss": section},
        {name: paddle.ones([2, 1]).astype(name) for name in types},
        {"a": np.ones((2, 3), "f4").T, "b": np.float32(3), "c": paddle.to_tensor(1.0)},
        {"a": [1, 2.5, None, True, "x", (1, (2, [3]))], "b": collections.OrderedDict(c=1)},
    ]
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for content in contents:
            for protocol in (2, 3, 4):
                path = Path(folder, "seed.pdparams")
                paddle.save(content, str(path), protocol=protocol)
                files.append(path.read_bytes())
    return files


# Damage

OPCODES = (
    b"()]}.0123NIJKMLBCFGUTSVXQPRabcdeghijlopqrstu\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89"
    + (bytes(range(0x8A, 0x99)))
)
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 1)


def flip(data: bytearray, rng: random.Random) -> None:
    """Flip a bit."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random) -> None:
    """Set a byte to an opcode."""
    data[rng.randrange(len(data))] = rng.choice(OPCODES)


def set_number(data: bytearray, rng: random.Random) -> None:
    """Set four or eight bytes, where there may be a length, to a number that is worth trying."""
    form = rng.choice(("<I", "<Q", ">I"))
    start = rng.randrange(len(data))
    data[start : start + struct.calcsize(form)] = struct.pack(form, rng.choice(NUMBERS))


def cut(data: bytearray, rng: random.Random) -> None:
    """Cut the file short."""
    del data[rng.randrange(1, len(data) + 1) :]


def remove(data: bytearray, rng: random.Random) -> None:
    """Leave out a stretch."""
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 64)]


def repeat(data: bytearray, rng: random.Random) -> None:
    """Repeat a stretch, often now and then."""
    start = rng.randrange(len(data))
    piece = bytes(data[start : start + rng.randrange(1, 64)])
    data[start:start] = piece * rng.choice((1, 1, 2, 50, 1000))


def hole(data: bytearray, rng: random.Random) -> None:
    """Fill a stretch with zeros."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randrange(1, 512))
    data[start:stop] = bytes(stop - start)


def insert(data: bytearray, rng: random.Random) -> None:
    """Insert a piece of a hostile file."""
    start = rng.randrange(len(data))
    data[start:start] = rng.choice(PIECES)(rng)


def rename(data: bytearray, rng: random.Random) -> None:
    """Name another function or type."""
    old = rng.choice((b"ndarray", b"dtype", b"_reconstruct", b"tuple", b"f4", b"i8", b"latin1"))
    new = rng.choice((b"frombuffer", b"eval", b"load", b"O8", b"V8", b"O", b"U9", b"M8", b"exec"))
    start = data.find(old)
    if start >= 0:
        data[start : start + len(old)] = new


DAMAGE = (flip, set_byte, set_number, cut, remove, repeat, hole, insert, rename)


def damaged(files: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a file of Paddle with up to four kinds of damage, or parts of two of them."""
    data = bytearray(rng.choice(files))
    if rng.random() < 0.1:
        other = rng.choice(files)
        data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if data:
            rng.choice(DAMAGE)(data, rng)
    return bytes(data)


# Files made from nothing

HOSTILE = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("numpy", "load"),
    ("numpy", "frombuffer"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy.core._multiarray_umath", "_reconstruct"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy", "dtype.__reduce__"),
    ("collections", "OrderedDict.update"),
    ("_codecs", "decode"),
    ("paddle", "load"),
    ("copyreg", "_reconstructor"),
)
FRIENDLY = (
    ("builtins", "tuple"),
    ("builtins", "bytes"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
)


def name(module: str, function: str) -> bytes:
    """Return the opcodes that fetch a function."""
    return f"c{module}\n{function}\n".encode()


def text(value: str) -> bytes:
    """Return the opcodes for text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    """Return the opcodes for bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    """Return the opcodes for an integer."""
    return b"J" + struct.pack("<i", value)


def dtype(kind: str, *state: bytes) -> bytes:
    """Return the opcodes for a NumPy type and its state."""
    made = name("numpy", "dtype") + text(kind) + b"\x89\x88\x87R"
    return made + b"(" + b"".join(state) + b"tb" if state else made


PLAIN = (integer(3), text("<"), b"NNN", integer(-1), integer(-1), integer(0))


def array(kind: bytes, shape: bytes, content: bytes) -> bytes:
    """Return the opcodes for an array."""
    blank = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    return (
        blank + b"K\0\x85" + data(b"b") + b"\x87R(K\x01" + shape + kind + b"\x89" + content + b"tb"
    )


#: Opcodes without an argument, those that matter most.
SHORT = tuple(bytes([code]) for code in b"()]}asuetRbN\x85\x86\x87\x88\x94")


TEXTS = ("a", "f4", "b", "latin1", "\xff" * 9, "O", "<", "x" * 300)
OPERATIONS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: name(*rng.choice((*HOSTILE, *FRIENDLY, *FRIENDLY))),
    lambda rng: text(rng.choice(TEXTS)),
    lambda rng: data(rng.randbytes(rng.choice((0, 1, 4, 8, 64)))),
    lambda rng: integer(rng.choice((0, 1, 3, -1, 2**31 - 1, rng.randrange(-9, 9)))),
    lambda rng: rng.choice((b"q", b"h")) + bytes([rng.randrange(5)]),
    lambda rng: rng.choice((b"r", b"j")) + struct.pack("<I", rng.choice(NUMBERS)),
    lambda rng: b"\x8a\x08" + rng.randbytes(8),
    lambda rng: b"G" + rng.randbytes(8),
    lambda rng: bytes([rng.choice(OPCODES)]),
    *(5 * [lambda rng: rng.choice(SHORT)]),
)


def _random_operations(rng: random.Random) -> bytes:
    return b"".join(OPERATIONS[rng.randrange(14)](rng) for _ in range(rng.choice((2, 8, 30, 200))))


def _call(rng: random.Random) -> bytes:
    return name(*rng.choice(HOSTILE)) + text("echo") + b"\x85R"


def _altered_type(rng: random.Random) -> bytes:
    state = list(PLAIN)
    place = rng.randrange(len(state))
    state[place] = rng.choice(
        (integer(63), integer(2**31 - 1), text("|O"), b"N", b")", b"}", data(b"x"))
    )
    kind = dtype(rng.choice(("f4", "i8", "O8", "V8", "S8", "U4", "M8")), *state)
    return array(kind, integer(1) + b"\x85", data(b"\x41" * 8))


def _altered_shape(rng: random.Random) -> bytes:
    lengths = [
        rng.choice((0, 1, 2, -1, 2**31 - 1)) for _ in range(rng.choice((0, 1, 2, 9, 12, 40)))
    ]
    shape = b"(" + b"".join(map(integer, lengths)) + b"t"
    return array(dtype("f4", *PLAIN), shape, data(bytes(rng.choice((0, 4, 8, 4096)))))


def _scalar(rng: random.Random) -> bytes:
    kind = dtype(rng.choice(("f4", "O8", "i8", "V16", "b1")))
    return (
        name("numpy.core.multiarray", "scalar")
        + kind
        + data(rng.randbytes(rng.choice((1, 4, 8))))
        + b"\x86R"
    )


def _far_memo(rng: random.Random) -> bytes:
    return b"Nr" + struct.pack("<I", rng.choice((2**30, 2**31, 2**32 - 1)))


UNITS = (
    *(b"}", b"]", b"N", b"(", b")", b"\x94", b"\x85", b")\x94", b"}\x94", b"(t", b"h\0", b"K\1"),
    *(b"\x8a\x08zzzzzzzz", b"G12345678", b"C\0", b"C\1x", b"]Na", b"}X\1\0\0\0aNs"),
    *(b"\x8c\0", b"\x8c\5\xf0\x9f\x98\x80a", b"X\4\0\0\0\xf0\x9f\x98\x80"),
)


def _repeated(rng: random.Random) -> bytes:
    """An opcode or a few, very often."""
    first = b"}q\0" if rng.random() < 0.5 else b""
    return first + rng.choice(UNITS) * rng.choice((1000, 50_000, 400_000, 3_000_000))


def _repeated_array(rng: random.Random) -> bytes:
    """Many arrays of the same bytes, and the same array many times."""
    once = array(dtype("f4", *PLAIN), integer(256) + b"\x85", data(bytes(1024)) + b"q\x09")
    kind, shape = dtype("f4", *PLAIN), integer(256) + b"\x85"
    count = rng.choice((10, 1000, 20_000))
    if rng.random() < 0.5:
        return b"]" + once + b"q\x08a" + b"h\x08a" * count
    again = array(kind, shape, b"h\x09")
    return b"]" + once + b"a" + (again + b"a") * min(count, 2000)


def _doubled(rng: random.Random) -> bytes:
    """A list of the same two lists, and so on, or of itself."""
    if rng.random() < 0.3:
        return b"]q\0" + b"h\0a" * rng.choice((1, 2, 1000))
    levels = rng.choice((5, 20, 31, 60))
    return b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(levels))


def _deep(rng: random.Random) -> bytes:
    return (
        rng.choice((b"]", b"}X\1\0\0\0a", b"(")) * 100_000
        + rng.choice((b"a", b"s", b"t")) * 100_000
    )


def _long(rng: random.Random) -> bytes:
    """Announce more than there is, or write much."""
    opcode = rng.choice((b"B", b"X", b"T", b"\x8a", b"\x8b", b"\x8e", b"\x8d", b"\x96"))
    if rng.random() < 0.5:
        return opcode + struct.pack("<Q", rng.choice((2**20, 2**31, 2**40, 2**63)))
    count = rng.choice((70_000, 2_000_000))
    wide = "\U0001f600".encode() + b"a" * count
    body = rng.choice((bytes(count), b"\xc3\xbf" * (count // 2), wide))
    encoded = (
        name("_codecs", "encode") + b"X" + struct.pack("<I", len(body)) + body + text("latin1")
    )
    return rng.choice((encoded + b"\x86R", b"X" + struct.pack("<I", len(body)) + body))


def _names(rng: random.Random) -> bytes:
    """Tables of names and of slices that do not fit."""
    one = array(dtype("f4", *PLAIN), integer(2) + b"\x85", data(bytes(8)))
    table = rng.choice(
        (b"}", b"}" + text("w") + text("name") + b"s", b"N", text("x"), b"}" + text("z") + b"Ns")
    )
    slices = (
        b"}"
        + text("w")
        + b"}"
        + text("slices")
        + b"]("
        + text("w") * 50
        + b"es"
        + text("OriginShape")
        + integer(2)
        + b"\x85ss"
    )
    key, value = rng.choice(
        (("StructuredToParameterName@@", table), ("UnpackBigParamInfor@@", slices))
    )
    return b"}" + text("w") + one + b"s" + text(key) + value + b"s"


PIECES: tuple[Callable[[random.Random], bytes], ...] = (
    *(_random_operations, _random_operations, _call, _altered_type, _altered_shape),
    *(_scalar, _far_memo, _doubled, _names),
)
#: Those that are large come seldom.
LARGE: tuple[Callable[[random.Random], bytes], ...] = (_repeated, _repeated_array, _deep, _long)


def generated(rng: random.Random) -> bytes:
    """Return a file that is strung together from opcodes or made from the template of an attack."""
    piece = rng.choice(LARGE if rng.random() < 0.02 else PIECES)(rng)
    return (
        b"\x80"
        + bytes([rng.choice((2, 3, 4, 4, 5))])
        + piece
        + rng.choice((b".", b".", b"}.", b""))
    )


def make_file(files: Sequence[bytes], seed: int, index: int) -> bytes:
    """Return the file of a number; the same for the same seed."""
    rng = random.Random(f"{seed} {index}")
    return damaged(files, rng) if rng.random() < 0.6 else generated(rng)


# Reading

#: Events of Python's own that Paddle causes when it makes a tensor.
HARMLESS = {"builtins.id", "sys._getframe", "object.__getattr__"}


class Watch:
    """Notes what Python does while a file is read."""

    def __init__(self) -> None:
        self.path = ""
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.path or event in HARMLESS:
            return
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (reads and arguments[0] == self.path):
            self.seen.append(f"{event} {arguments}"[:200])


def read(path: str, watch: Watch) -> str:
    """Read a file; return ``"read"``, ``"refused"``, or what went wrong."""
    watch.seen.clear()
    watch.path = path
    try:
        load_tensors(path)
        outcome = "read"
    except CheckpointError as error:
        outcome = "not enough memory" if "memory for it" in str(error) else "refused"
        if "\n" in str(error):
            outcome = f"more than one line: {error!r}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"[:200]
    watch.path = ""
    return f"code ran: {watch.seen[0]}" if watch.seen else outcome


def measured(path: str, size: int, watch: Watch) -> Result:
    """Read a file twice: for the time, and for the memory."""
    begun = time.process_time()
    outcome = read(path, watch)
    seconds = time.process_time() - begun
    tracemalloc.start()
    with _limited(budget(size)):
        again = read(path, watch)
    share = tracemalloc.get_traced_memory()[1] / budget(size)
    tracemalloc.stop()
    if again != outcome:
        outcome = f"first {outcome}, then {again}"
    elif seconds > MOST_SECONDS:
        outcome = f"took {seconds:.1f} s"
    elif share > 1:
        outcome = f"took {share:.2f} of the memory"
    return outcome, seconds, share


class _limited:
    """Let the process have so much more memory, of the system's and not only of Python's."""

    def __init__(self, more: int) -> None:
        # tracemalloc's own records, and threads that Paddle may start.
        self.more = more + 512 * MIB

    def __enter__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.previous = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + self.more
        resource.setrlimit(resource.RLIMIT_AS, (limit, self.previous[1]))

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.previous)


def _work(files: Sequence[bytes], seed: int, numbers: range, connection: Connection) -> None:
    """Read the files of these numbers; send what came of each."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.pdparams"))
        for index in numbers:
            content = make_file(files, seed, index)
            Path(path).write_bytes(content)
            signal.alarm(HUNG)
            result = measured(path, len(content), watch)
            signal.alarm(0)
            connection.send(result)


class Batch:
    """Reads files of these numbers in a process of its own.

    Args:
        files: what Paddle wrote.
        seed: of what the files hold.
        numbers: of the files.
    """

    def __init__(self, files: Sequence[bytes], seed: int, numbers: range) -> None:
        self.left = numbers
        self.connection, theirs = CONTEXT.Pipe(duplex=False)
        self.worker = CONTEXT.Process(target=_work, args=(files, seed, numbers, theirs))
        self.worker.start()
        theirs.close()

    def receive(self) -> tuple[int, Result]:
        """Return the number of the next file and what came of it; after a crash none is left."""
        index = self.left[0]
        try:
            result, self.left = self.connection.recv(), self.left[1:]
        except EOFError:
            self.worker.join()
            result = f"crashed with exit code {self.worker.exitcode}", 0.0, 0.0
            self.left = self.left[:0]
        return index, result


def read_all(
    files: Sequence[bytes], seed: int, count: int, jobs: int
) -> Iterator[tuple[int, Result]]:
    """Read files in several processes; go on behind a crash."""
    waiting = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    batches: dict[Any, tuple[Batch, range]] = {}
    while waiting or batches:
        while waiting and len(batches) < jobs:
            numbers = waiting.pop(0)
            batch = Batch(files, seed, numbers)
            batches[batch.connection] = batch, numbers
        for connection in multiprocessing.connection.wait(list(batches)):
            batch, numbers = batches[connection]
            index, result = batch.receive()
            if not batch.left:
                batch.worker.join()
                del batches[connection]
                if index + 1 < numbers.stop:
                    waiting.insert(0, range(index + 1, numbers.stop))
            yield index, result


def fuzz(count: int, seed: int, jobs: int, save_dir: Path | None = None) -> dict[str, Any]:
    """Read so many files.

    Args:
        count: number of files.
        seed: of what they hold.
        jobs: processes at a time.
        save_dir: where to keep the files that break a promise, if anywhere.

    Returns:
        The counts of outcomes, and the greatest cost of a file in seconds and in allowed memory.
    """
    files = in_a_process(seeds)
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = largest = 0.0
    # No thread besides this one, which forks.
    tqdm.monitor_interval = 0
    with tqdm(total=count, unit="file", mininterval=2) as bar:
        for index, (outcome, seconds, share) in read_all(files, seed, count, jobs):
            bar.update()
            outcomes[outcome] += 1
            slowest, largest = max(slowest, seconds), max(largest, share)
            if outcome not in GOOD and save_dir is not None:
                save_dir.mkdir(parents=True, exist_ok=True)
                Path(save_dir, f"{seed}_{index}").write_bytes(make_file(files, seed, index))
    return {"outcomes": dict(outcomes), "slowest": slowest, "largest": largest}


def in_a_process(make: Callable[[], Any]) -> Any:
    """Compute something elsewhere: a process that has computed with Paddle cannot be forked."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    worker = CONTEXT.Process(target=lambda: theirs.send(make()))
    worker.start()
    theirs.close()
    made = ours.recv()
    worker.join()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, 1 if a file broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="number of files")
    parser.add_argument("--seed", type=int, default=0, help="of what they hold")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--save_dir", type=Path, help="where to keep files that break a promise")
    args = parser.parse_args(argv)
    found = fuzz(args.files, args.seed, args.jobs, args.save_dir)
    for outcome, number in sorted(found["outcomes"].items()):
        print(f"{number:>8}  {outcome}")
    print(f"at most {found['slowest']:.2f} s and {100 * found['largest']:.0f} % of the memory")
    return int(not found["outcomes"].keys() <= GOOD)


if __name__ == "__main__":
    sys.exit(main())
