"""Files of tensors: those of Paddle are read as Paddle reads them, all others are refused."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import time
import tracemalloc

import numpy as np
import paddle
import pytest
from fuzz_checkpoints import (
    HOSTILE,
    PLAIN,
    array,
    budget,
    data,
    dtype,
    integer,
    name,
    text,
)
from support import run_tool

from paddleseg_autoloss.errors import CheckpointError, TensorFileError
from paddleseg_autoloss.integration.loading import load_tensors
from paddleseg_autoloss.tensor_files import read_tensor_file

TYPES = [
    *("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64"),
    *("bool", "complex64", "complex128"),
]


def trained():
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    schedule = paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=net.parameters())
    net(paddle.ones([1, 3, 8, 8])).sum().backward()
    optimizer.step()
    schedule.step()
    return net.state_dict(), optimizer.state_dict()


def contents():
    network, optimizer = trained()
    section = {
        "optimizer": "AdamW",
        "methods": ["AutoWeightedLoss"],
        "seed": 2**40,
        "losses": {"head0": dict(network), "head1": {}},
        "slots": {},
    }
    arrays = {"rows": np.arange(6, dtype="f4").reshape(2, 3), "number": np.float64(3), "w": network}
    return {
        "network": network,
        "optimizer": optimizer,
        "our section": {**optimizer, "paddleseg_autoloss": section},
        "types": {kind: paddle.ones([2, 1]).astype(kind) for kind in TYPES},
        "shapes": {"0-D": paddle.to_tensor(2.5), "empty": paddle.zeros([0, 3]), "no": {}},
        "plain": {"a": [1, -2, 2.5, None, True, "x", (1, (2, [3]))], "big": 2**63, "ä": "\xff"},
        "ordered": collections.OrderedDict(b=paddle.ones([2]), a=1),
        "fortran": {"t": np.arange(6, dtype="f4").reshape(2, 3).T},
        "arrays beside tensors": arrays,
        "a tensor": paddle.ones([3]),
        "a list": [paddle.ones([3]), {"a": paddle.zeros([1])}],
        "shared": {"a": network["0.weight"], "b": network["0.weight"]},
    }


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
        return
    assert type(found) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_same(one, other)
    elif isinstance(expected, paddle.Tensor):
        assert found.dtype == expected.dtype
        assert found.stop_gradient == expected.stop_gradient
        assert found.name == expected.name or "generated" in expected.name
        assert_same(found.numpy(), expected.numpy())
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", list(contents()))
class TestPaddle:
    def test_array_by_array_what_pickle_reads(self, tmp_path, kind, protocol):
        path = str(tmp_path / "a.pdparams")
        paddle.save(contents()[kind], path, protocol=protocol)
        with open(path, "rb") as file:
            assert_same(read_tensor_file(path), pickle.load(file, encoding="latin1"))

    def test_gate_gives_what_paddle_gives(self, tmp_path, kind, protocol):
        path = str(tmp_path / "a.pdparams")
        paddle.save(contents()[kind], path, protocol=protocol)
        assert_same(load_tensors(path), paddle.load(path))


class TestOtherForms:
    def write(self, folder, content, protocol=2):
        path = str(folder / "a.pdparams")
        with open(path, "wb") as file:
            pickle.dump(content, file, protocol)
        return path

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_slices_of_large_arrays(self, tmp_path, protocol):
        """Paddle's form for arrays beyond 1 GiB in these protocols, with smaller slices."""
        flat = np.arange(24, dtype="f4")
        table = {"w": {"OriginShape": (2, 3, 4), "slices": ["w@@.0", "w@@.1"]}}
        content = {"b": flat[:2], "w@@.0": flat[:14], "w@@.1": flat[14:]}
        content |= {"UnpackBigParamInfor@@": table}
        path = self.write(tmp_path, content, protocol)
        assert_same(load_tensors(path), paddle.load(path))
        assert read_tensor_file(path)["w"].shape == (2, 3, 4)

    def test_names_beside_arrays(self, tmp_path):
        """The form of Paddle 2.0, and of state dicts that a static program saved."""
        content = {"w": np.ones((2, 2), "f4"), "StructuredToParameterName@@": {"w": "conv.w_0"}}
        path = self.write(tmp_path, content)
        loaded = load_tensors(path)
        assert list(loaded) == ["w"]
        assert loaded["w"].name == "conv.w_0"
        assert_same(loaded, paddle.load(path))

    def test_file_of_python_2(self, tmp_path):
        """Its bytes are strings, which Paddle reads as Latin-1."""
        content = b"U\x10" + np.array([[1, 2], [3, 4]], "f4").tobytes()
        blank = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
        state = b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        state += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + content + b"tb"
        path = tmp_path / "a.pdparams"
        path.write_bytes(b"\x80\x02}U\x01w" + blank + b"K\x00\x85U\x01b\x87R" + state + b"s.")
        assert_same(load_tensors(str(path)), paddle.load(str(path)))
        np.testing.assert_array_equal(read_tensor_file(path)["w"], [[1, 2], [3, 4]])

    def test_long_text_of_protocol_2(self, tmp_path):
        """Bytes are text there, most of them two bytes long."""
        values = np.random.default_rng(0).integers(0, 256, 200_000).astype("u1")
        path = self.write(tmp_path, {"w": values})
        np.testing.assert_array_equal(read_tensor_file(path)["w"], values)

    def test_file_is_changed_while_arrays_live(self, tmp_path):
        path = tmp_path / "a.pdparams"
        paddle.save({"w": paddle.ones([100_000])}, str(path))
        found = read_tensor_file(path)
        path.write_bytes(b"")
        assert found["w"].sum() == 100_000


ONE = array(dtype("f4", *PLAIN), integer(2) + b"\x85", data(bytes(8)))
LONG_BYTES = b"B\xff\xff\xff\x7f" + bytes(100)

REFUSED = {
    "empty": (b"", "it was not written by paddle.save"),
    "text": (b"hello", "it was not written by paddle.save"),
    "protocol 5": (b"\x80\x05N.", "protocol 2, 3 or 4"),
    "protocol 0": (b"(dp0\n.", "it was not written by paddle.save"),
    "no end": (b"\x80\x04}", "it ends too early"),
    "long bytes": (b"\x80\x04" + LONG_BYTES, "it ends too early"),
    "behind its end": (b"\x80\x04N.N.", "something follows its end"),
    "left over": (b"\x80\x04NN.", "something is left over"),
    "nothing": (b"\x80\x04.", "something is missing"),
    "no mark": (b"\x80\x04}u.", "a mark is missing"),
    "below a mark": (b"\x80\x04}(s.", "something is missing"),
    "unknown opcode": (b"\x80\x04P0\n.", "writes no opcode b'P'"),
    "integer as key": (b"\x80\x04}K\x01Ns.", "expected names as keys, found int"),
    "array as key": (b"\x80\x04}" + ONE + b"Ns.", "expected names as keys, found ndarray"),
    "far memo": (b"\x80\x04Nr\0\0\0\x40h\0.", "it refers to a value 0"),
    "bytes": (b"\x80\x04C\x01a.", "something other than tensors"),
    "a function": (b"\x80\x04" + name("numpy", "dtype") + b".", "something other than tensors"),
    "a type": (b"\x80\x04" + dtype("f4") + b".", "something other than tensors"),
    "itself": (b"\x80\x04]q\0h\0a.", "nested too deep"),
    "deep": (b"\x80\x04" + b"]" * 99 + b"a" * 98 + b".", "nested too deep"),
    "a surrogate": (b"\x80\x04X\x03\0\0\0\xed\xa0\x80.", "a name is no text"),
    "wide text as bytes": (
        b"\x80\x02" + name("_codecs", "encode") + text("Ж") + text("latin1") + b"\x86R.",
        "text is not Latin-1",
    ),
    "another encoding": (
        b"\x80\x02" + name("_codecs", "encode") + text("a") + text("rot13") + b"\x86R.",
        "not written as Latin-1",
    ),
    "objects": (
        b"\x80\x04" + array(dtype("O8", *PLAIN), integer(1) + b"\x85", data(bytes(8))) + b".",
        "expected a type of b1, u1",
    ),
    "flags of objects": (
        b"\x80\x04" + dtype("f8", integer(3), text("<"), b"NNN", *map(integer, (8, 8, 63))) + b".",
        "the type <f8 is not a plain one",
    ),
    "subtype": (
        b"\x80\x04" + dtype("f4", integer(3), text("<"), dtype("f4"), b"NN", *PLAIN[3:]) + b".",
        "the type <f4 is not a plain one",
    ),
    "big-endian": (
        b"\x80\x04" + dtype("f4", integer(3), text(">"), *PLAIN[2:]) + b".",
        "the type <f4 is not a plain one",
    ),
    "large shape": (
        b"\x80\x04" + array(dtype("f4"), integer(1000) + b"\x85", data(bytes(8))) + b".",
        "an array of 4000 bytes has 8 bytes",
    ),
    "negative shape": (
        b"\x80\x04" + array(dtype("f4"), integer(-2) + b"\x85", data(bytes(8))) + b".",
        "an axis of no sensible length",
    ),
    "two negative axes": (
        b"\x80\x04" + array(dtype("f4"), integer(-1) * 2 + b"\x86", data(bytes(4))) + b".",
        "an axis of no sensible length",
    ),
    "a scalar beyond its bytes": (
        b"\x80\x04cnumpy.core.multiarray\nscalar\n" + dtype("f8") + data(b"a") + b"\x86R.",
        "other than 8 bytes",
    ),
    "the same bytes over and over": (
        b"\x80\x04]" + ONE.replace(bytes(8), bytes(8) + b"q\x07") + b"a"
        + (array(dtype("f4"), integer(2) + b"\x85", b"h\x07") + b"a") * 400 + b".",
        None,
    ),
    "a slice twice": (
        b"\x80\x04}" + text("w") + ONE + b"s" + text("UnpackBigParamInfor@@") + b"}" + text("v")
        + b"}" + text("slices") + b"](" + text("w") * 2 + b"es" + text("OriginShape")
        + integer(4) + b"\x85sss.",
        "a slice of 'v' is missing",
    ),
}  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("kind", [kind for kind, (_, message) in REFUSED.items() if message])
    def test_malformed(self, tmp_path, kind):
        content, message = REFUSED[kind]
        path = tmp_path / "a.pdparams"
        path.write_bytes(content)
        with pytest.raises(TensorFileError, match=message) as caught:
            read_tensor_file(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("function", HOSTILE, ids=".".join)
    @pytest.mark.parametrize("called", [True, False])
    def test_foreign_function(self, tmp_path, function, called):
        path = tmp_path / "a.pdparams"
        call = text(f"touch {tmp_path}/victim") + b"\x85R" if called else b""
        path.write_bytes(b"\x80\x04" + name(*function) + call + b".")
        message = f"expected a file that contains only tensors, found {'.'.join(function)} in"
        with pytest.raises(TensorFileError, match=message):
            read_tensor_file(path)
        assert not (tmp_path / "victim").exists()

    def test_name_that_would_draw_on_the_terminal(self, tmp_path):
        path = tmp_path / "a.pdparams"
        path.write_bytes(b"\x80\x04" + text("\x1b[2J") + text("b" * 900) + b"\x93.")
        with pytest.raises(TensorFileError) as caught:
            read_tensor_file(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300 + len(str(path))

    def test_cut_short_anywhere(self, tmp_path):
        path, short = tmp_path / "a.pdparams", tmp_path / "b.pdparams"
        paddle.save(contents()["our section"], str(path))
        content = path.read_bytes()
        for length in range(len(content)):
            short.write_bytes(content[:length])
            with pytest.raises(TensorFileError, match="cannot read"):
                read_tensor_file(short)

    def test_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(TensorFileError, match=f"{path}: it is not a regular file"):
                read_tensor_file(path)
        with pytest.raises(TensorFileError, match="none: No such file or directory"):
            read_tensor_file(tmp_path / "none")


BOMBS = {
    "memo": b"N" + b"\x94" * 600_000,
    "far memo": b"Nr\0\0\0\x40Nr\xff\xff\xff\xff0.",
    "dicts": b"(" + b"}" * 600_000 + b"t.",
    "lists": b"]" * 600_000,
    "marks": b"(" * 600_000,
    "tuples": b")" + b"\x85" * 600_000,
    "names": b"(" + b"\x8c\5\xf0\x9f\x98\x80a" * 200_000 + b"t.",
    "bytes": b"(" + b"C\1x" * 200_000 + b"t.",
    "doubled lists": b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(31)) + b".",
    "itself many times": b"]q\0(" + b"h\0" * 200_000 + b"e.",
    "long text": b"X\xa0\x86\1\0" + "\U0001f600".encode() + b"a" * 99_996 + b".",
    "arrays of the same bytes": REFUSED["the same bytes over and over"][0][2:],
    "one array many times": b"](" + ONE + b"q\x09" + b"h\x09" * 60_000 + b"e.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb(tmp_path, kind):
    path = tmp_path / "a.pdparams"
    path.write_bytes(b"\x80\x04" + BOMBS[kind])
    begun = time.process_time()
    with contextlib.suppress(CheckpointError):
        load_tensors(str(path))
    assert time.process_time() - begun < 5
    tracemalloc.start()
    with contextlib.suppress(TensorFileError):
        read_tensor_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget(path.stat().st_size)


@pytest.mark.once
def test_slice_of_the_fuzz():
    """The whole is 100,000 files."""
    done = run_tool("tools/benchmarks/fuzz_checkpoints.py", "--files", "2000", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = dict(line.split()[::-1] for line in done.stdout.splitlines()[:-1])
    assert sum(map(int, outcomes.values())) == 2000
    assert int(outcomes["read"]) > 50
