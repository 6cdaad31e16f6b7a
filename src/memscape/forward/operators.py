"""PyTorch's operators as far as memory goes: the result that each makes and what autograd keeps of it.

Each method follows the derivative of the operator of the same name (PyTorch, derivatives.yaml): an input is kept only
where the gradient of another input needs it. Under autocast the operators cast as PyTorch's lists say.
"""

from __future__ import annotations

from collections.abc import Sequence

from memscape.breakdown import Quantity, ceil_div
from memscape.forward.tape import Kept, Node, Parameter, Sizes, Storage, Tape, Tensor, Way

FP32, BF16 = "fp32", "bf16"
# how a gradient goes back
SAME, NEW, REDUCED, CAST = "same", "new", "reduced", "cast"
Reasons = Sequence[tuple[Storage, str]]
Inputs = Sequence[tuple["Tensor | Parameter", str]]

FOR_WEIGHT = "the gradient of the weight it is multiplied by"
FOR_OTHER = "the gradient of the other factor"
FOR_OWN = "the derivative of the function at this value"
RESULT = "the derivative is computed from the result"


class Operators(Tape):
    """A tape with the operators that language models are made of."""

    def __init__(self, weights: str, autocast: bool = False, single: bool = False) -> None:
        """Weights in a type; `single`: one sequence per micro-batch, so that heads can be viewed without a copy."""
        super().__init__()
        self.weights, self.autocast, self.single = weights, autocast, single
        self.copies: dict[tuple[str, str, str], Tensor] = {}
        self.embedded: Parameter | None = None
        self.keeping = True
        self.learning = True
        self.last_kept = 0  # the event after which nothing more was kept

    # how an operator is noted

    def made(
        self,
        name: str,
        inputs: Inputs,
        kept: Reasons = (),
        *,
        rows: Sizes | None = None,
        columns: Sizes | None = None,
        dtype: str | None = None,
        scratch: int = 0,
        layout: str = "",
        keep_result: str = "",
    ) -> Tensor:
        """Make the result of an operator like its first input, but for what is said."""
        first = inputs[0][0]
        assert isinstance(first, Tensor)
        rows = first.rows if rows is None else rows
        columns = first.columns if columns is None else columns
        dtype = dtype or first.dtype
        layout = layout or ("rows" if first.layout == "part" else first.layout)
        before = len(self.events)
        result = Tensor(self.storage(name, {**rows, **columns}, dtype), rows, columns, dtype, None, layout)
        kept = [*kept, (result.storage, keep_result)] if keep_result else kept
        result.node = self.noted(result.sizes, dtype, inputs, kept, scratch)
        if kept and self.keeping and result.node is not None:
            given = [x.storage for x, _ in inputs if isinstance(x, Tensor)]
            self.last_kept = before if all(storage in given for storage, _ in kept) else len(self.events)
        return result

    def noted(self, sizes: Sizes, dtype: str, inputs: Inputs, kept: Reasons = (), scratch: int = 0) -> Node | None:
        """Put a node on the tape, if a gradient flows back through one of the inputs."""
        if not self.learning:
            return None
        ways = tuple(way for x, how in inputs if (way := _way(x, how)))
        if not ways:
            return None
        saved = [Kept(*each) for each in kept] if self.keeping else []
        node = Node(ways, saved, ((sizes, dtype),) * scratch, (sizes, dtype))
        self.nodes.append(node)
        return node

    def parameter(self, name: str, sizes: Sizes) -> Parameter:
        """Name a weight of the part that is running."""
        return Parameter(name, self.part, sizes, self.weights, self.is_trained(name), self.owner or self.scope)

    def is_trained(self, name: str) -> bool:
        """Whether a weight of the running part takes a gradient."""
        return True

    # autocast

    def lower(self, x: Tensor) -> Tensor:
        """Cast what a matrix product reads, where autocast says so."""
        return self.cast(x, BF16) if self.autocast else x

    def wider(self, x: Tensor) -> Tensor:
        """Cast what a sensitive function reads, where autocast says so."""
        return self.cast(x, FP32) if self.autocast else x

    def used(self, weight: Parameter) -> Tensor | Parameter:
        """Return the weight as a matrix product reads it: under autocast a copy, held if the weight is trained."""
        if not self.autocast or weight.dtype == BF16:
            return weight
        key = (weight.scope, weight.part, weight.name)
        if key in self.copies:
            return self.copies[key]
        storage = self.storage(f"{weight.name} copy in bf16", weight.sizes, BF16, "copy")
        copy = Tensor(storage, {}, weight.sizes, BF16, self.noted(weight.sizes, BF16, [(weight, NEW)]))
        if weight.trained:
            self.copies[key] = copy
        return copy

    # views: another look at the same storage

    def view(self, x: Tensor, columns: Sizes | None = None, layout: str = "", rows: Sizes | None = None) -> Tensor:
        """Look at the same numbers in another shape; the gradient passes as it is."""
        columns, rows = x.columns if columns is None else columns, x.rows if rows is None else rows
        return Tensor(x.storage, rows, columns, x.dtype, x.node, layout or x.layout, x.place)

    def split(self, x: Tensor, *parts: Sizes) -> list[Tensor]:
        """Look at stretches of the columns; backward joins their gradients in a new tensor."""
        node = self.noted(x.sizes, x.dtype, [(x, NEW)])
        return [Tensor(x.storage, x.rows, part, x.dtype, node, "part", place) for place, part in enumerate(parts)]

    def stretch(self, x: Tensor, columns: Sizes) -> Tensor:
        """Look at one stretch of the columns; backward makes a whole gradient, zero elsewhere."""
        node = self.noted({**x.rows, **columns}, x.dtype, [(x, NEW)])
        return Tensor(x.storage, x.rows, columns, x.dtype, node, "part")

    def spread(self, x: Tensor, rows: Sizes, columns: Sizes) -> Tensor:
        """Look at the same numbers once per sequence; the gradients of the sequences are added up."""
        node = self.noted({**rows, **columns}, x.dtype, [(x, SAME if self.single else NEW)])
        return Tensor(x.storage, rows, columns, x.dtype, node, x.layout)

    def shown(self, x: Tensor, columns: Sizes) -> Tensor:
        """Look at a single head once per query head; their gradients are added up."""
        node = self.noted({**x.rows, **columns}, x.dtype, [(x, NEW)])
        return Tensor(x.storage, x.rows, columns, x.dtype, node, "part")

    def copy(self, x: Tensor, name: str, layout: str = "rows") -> Tensor:
        """Copy into another order; the gradient passes as it is."""
        return self.made(name, [(x, SAME)], layout=layout)

    def repeat(self, x: Tensor, name: str, columns: Sizes) -> Tensor:
        """Copy a key or value head for each of its query heads."""
        return self.made(name, [(x, NEW)], columns=columns, layout="heads")

    def join(self, name: str, *parts: Tensor, columns: Sizes, layout: str = "heads") -> Tensor:
        """Copy stretches into one tensor; backward looks at stretches of its gradient."""
        dtype = FP32 if any(part.dtype == FP32 for part in parts) else parts[0].dtype
        hows = [(part, SAME if part.dtype == dtype else NEW) for part in parts]
        return self.made(name, hows, columns=columns, layout=layout, dtype=dtype)

    # element by element

    def cast(self, x: Tensor, dtype: str, name: str = "") -> Tensor:
        """Copy in another type; the same tensor if it has that type."""
        if x.dtype == dtype:
            return x
        return self.made(name or f"copy in {dtype}", [(x, NEW)], dtype=dtype)

    def add(self, x: Tensor, y: Tensor | Parameter, name: str) -> Tensor:
        """Add; nothing is kept, the gradient passes to both, summed up for what all sequences share."""
        dtype = FP32 if FP32 in (x.dtype, y.dtype) else x.dtype
        hows = [(each, SAME if each.dtype == dtype and not self._shared(each, x) else NEW) for each in (x, y)]
        return self.made(name, hows, dtype=dtype)

    def _shared(self, y: Tensor | Parameter, x: Tensor) -> bool:
        """Whether the sequences of a micro-batch share an operand."""
        return isinstance(y, Parameter) or (not self.single and "micro_batch" in x.rows and "micro_batch" not in y.rows)

    def scaled(self, x: Tensor, name: str) -> Tensor:
        """Multiply by a number, or add one: nothing is kept."""
        return self.made(name, [(x, NEW)])

    def multiply(self, x: Tensor, y: Tensor | Parameter, name: str) -> Tensor:
        """Multiply; each factor is kept for the other's gradient."""
        dtype = FP32 if FP32 in (x.dtype, y.dtype) else x.dtype
        kept = [(x.storage, FOR_OTHER)] if y.trained else []
        if isinstance(y, Tensor) and x.trained:
            kept.append((y.storage, FOR_OTHER))
        small = isinstance(y, Parameter) or len(y.sizes) < len(x.sizes)
        hows = [(x, NEW if x.dtype == dtype else CAST), (y, REDUCED if small else NEW if y.dtype == dtype else CAST)]
        return self.made(name, hows, kept, dtype=dtype)

    def turned(self, x: Tensor, table: Tensor, name: str) -> Tensor:
        """Multiply by a table that takes no gradient: the table is kept."""
        dtype = FP32 if FP32 in (x.dtype, table.dtype) else x.dtype
        how = NEW if x.dtype == dtype else CAST
        return self.made(name, [(x, how)], [(table.storage, FOR_OTHER)] if x.trained else [], dtype=dtype)

    def function(self, x: Tensor, name: str, keep: str = "input", scratch: int = 0, wide: bool = False) -> Tensor:
        """Apply a function element by element; its derivative needs the input or the result."""
        x = self.wider(x) if wide else x
        kept = [(x.storage, FOR_OWN)] if keep == "input" else []
        return self.made(name, [(x, NEW)], kept, scratch=scratch, keep_result=RESULT if keep == "result" else "")

    def mean(self, x: Tensor, name: str, over: int = 1) -> Tensor:
        """Average over the last sizes of the columns: nothing is kept, the gradient is spread."""
        columns = dict(list(x.columns.items())[:-over])
        return self.made(name, [(x, NEW)], columns=columns)

    def dropout(self, x: Tensor, rate: float, name: str) -> Tensor:
        """Drop at random: a mask of one byte per number is kept. Nothing happens at rate 0."""
        if not rate:
            return x
        mask = self.storage(f"{name} mask", x.sizes, "bool")
        return self.made(name, [(x, NEW)], [(mask, "which numbers were dropped")])

    # rows

    def softmax(self, x: Tensor, name: str, dtype: str = "") -> Tensor:
        """Normalise the last size: the result is kept."""
        x = self.cast(x, dtype, f"{name} input in {dtype}") if dtype else self.wider(x)
        return self.made(name, [(x, NEW)], keep_result=RESULT)

    def layer_norm(
        self,
        x: Tensor,
        width: Sizes,
        bias: bool = True,
        weight: bool = True,
        shape: Sizes | None = None,
        given: Sequence[Tensor] = (),
    ) -> Tensor:
        """Apply the fused LayerNorm: its input, and the mean and deviation of each row in fp32.

        `shape`: the weights' sizes, where several norms run side by side; `given`: weight and bias that were computed
        in the type that the norm runs in, and are kept.
        """
        x = x if given else self.wider(x)
        rows = {**x.rows, **{key: size for key, size in x.columns.items() if key not in width}}
        statistics = [self.storage(name, rows, FP32) for name in ("mean", "deviation")]
        kept = [(x.storage, "the statistics' gradient"), *((each, "the backward of the norm") for each in statistics)]
        named = (["weight"] * weight + ["bias"] * bias)[len(given) :]
        parameters: list[tuple[Tensor | Parameter, str]] = [(each, NEW) for each in given]
        parameters += [(self.parameter(name, shape or width), NEW) for name in named]
        kept += [(each.storage, "the gradient of the input") for each in given]
        return self.made("normalised", [(x, NEW), *parameters], kept)

    # matrices

    def linear(self, x: Tensor, out: Sizes, name: str, bias: bool = False, matrix: Parameter | None = None) -> Tensor:
        """Multiply by a weight: the input is kept for the weight's gradient."""
        x = self.lower(x)
        weight = self.used(matrix or self.parameter(f"{name} weight", {**x.columns, **out}))
        inputs: list[tuple[Tensor | Parameter, str]] = [(x, NEW), (weight, NEW)]
        if bias:
            inputs.append((self.used(self.parameter(f"{name} bias", out)), NEW))
        kept = [(x.storage, FOR_WEIGHT)] if weight.trained else []
        if isinstance(weight, Tensor) and x.trained:
            kept.append((weight.storage, "the gradient of the input"))
        return self.made(name, inputs, kept, columns=out, layout="rows")

    def product(self, x: Tensor, y: Tensor, columns: Sizes, name: str, layout: str = "heads") -> Tensor:
        """Multiply head by head; heads that lie side by side are first copied, unless there is one sequence."""
        x, y = self._apart(self.lower(x)), self._apart(self.lower(y))
        kept = ([(x.storage, FOR_OTHER)] if y.trained else []) + ([(y.storage, FOR_OTHER)] if x.trained else [])
        return self.made(name, [(x, NEW), (y, NEW)], kept, columns=columns, layout=layout)

    def _apart(self, x: Tensor) -> Tensor:
        if x.layout == "heads" or self.single:
            return x
        return self.made(self.blocks[x.storage.index].name, [(x, SAME)], layout="heads")

    def embedding(
        self,
        ids: Storage | None,
        rows: Sizes,
        table: Sizes,
        width: Sizes,
        name: str,
        matrix: Parameter | None = None,
    ) -> Tensor:
        """Look up rows of a table: the indices are kept, the gradient is as large as the table.

        No ids: they are a buffer of the model. `matrix`: a table that is there already.
        """
        weight = matrix or self.parameter(f"{name} table", {**table, **width})
        self.embedded = self.embedded or weight
        kept = [] if ids is None else [(ids, "which rows take a gradient")]
        node = self.noted({**rows, **width}, weight.dtype, [(weight, NEW)], kept)
        return Tensor(self.storage(name, {**rows, **width}, weight.dtype), rows, width, weight.dtype, node)

    # attention in one kernel, the loss

    def flash(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend without a score matrix: queries, keys, values, the result and one number per row are kept."""
        kept = self._attended(q, k, v)
        rows = {**q.rows, **{key: size for key, size in q.columns.items() if key in ("heads", "kv_heads")}}
        kept.append((self.storage("log-sum-exp", rows, FP32), "the softmax is computed again from it"))
        kept.append((self.storage("random state", {"numbers": 2}, "uint64"), "dropout is drawn again"))
        kept.append((self.storage("unused state", {"numbers": 1}, "uint64"), "dropout is drawn again"))
        return self._attention(q, k, v, kept)

    def efficient(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `flash`, with an additive mask; rows are padded to whole blocks of 32, the result is token by token."""
        kept = self._attended(q, k, v)
        if bias is not None:
            kept.insert(0, (bias.storage, "the scores are computed again"))
        rows = dict(q.rows) | {key: size for key, size in q.columns.items() if key in ("heads", "kv_heads")}
        tokens = next(key for key in rows if key.endswith("tokens"))
        rows[f"padded_{tokens}"] = 32 * ceil_div(rows.pop(tokens), 32)
        kept.append((self.storage("log-sum-exp", rows, FP32), "the softmax is computed again from it"))
        kept += [(self.storage(each, {"numbers": 1}, "int64"), "dropout is drawn again") for each in ("seed", "offset")]
        return self._attention(q, k, v, kept, bias, "rows")

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Storage, str]]:
        return [(x.storage, "the scores are computed again") for x in (k, q, v)]

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kept: list[tuple[Storage, str]],
        bias: Tensor | None = None,
        layout: str = "",
    ) -> Tensor:
        columns = {**{key: size for key, size in q.columns.items() if key in ("heads", "kv_heads")}, **_last(v)}
        inputs: list[tuple[Tensor | Parameter, str]] = [(q, NEW), (k, NEW), (v, NEW)]
        inputs += [(bias, NEW)] if bias is not None else []
        layout = layout or ("heads" if q.layout == "heads" else "rows")
        return self.made("attended", inputs, kept, columns=columns, layout=layout, keep_result=RESULT)

    def cross_entropy(self, logits: Tensor, labels: Storage) -> Tensor:
        """Compare logits with labels: the log-probabilities are kept."""
        logits = self.wider(logits)
        kept = self.made("log-probabilities", [(logits, NEW)], keep_result=RESULT)
        total = self.storage("weight of all labels", {"numbers": 1}, kept.dtype)
        reasons = [(kept.storage, RESULT), (labels, "which numbers take a gradient"), (total, "the mean's divisor")]
        return self.made("loss", [(kept, NEW)], reasons, rows={"numbers": 1}, columns={})


def _way(x: Tensor | Parameter, how: str) -> Way | None:
    if isinstance(x, Parameter):
        return Way(x, how, x.sizes, x.dtype) if x.trained else None
    return None if x.node is None else Way(x.node, how, x.sizes, x.dtype, x.place)


def _last(x: Tensor) -> dict[str, Quantity]:
    key = list(x.columns)[-1]
    return {key: x.columns[key]}
