//! The text of `docs/ONNX.md`, written from the table of operators.

use std::fmt::Write as _;

use super::limits;
use super::ops::{FAMILIES, Op};
use super::read::OPSETS;

const HEAD: &str = "# ONNX

A version with `kind = \"onnx\"` is a graph read from `model.onnx`. The file is parsed once and compiled at load: shapes are worked out,
constants folded, products with constants become layers, and the rest becomes a list of steps over one preallocated arena. A row
allocates nothing. All steps are arithmetic of `models/`, in one fixed order, so the bits of a row are the same alone, in any batch and on
any machine.

This page is written from the table that the compiler uses. To write it anew:
`TIDEGATE_BLESS=1 cargo test -p tidegate-models --test onnx`.

## What a graph must be

- **One row.** The first open dimension is the batch and becomes 1. Of one input, one more dimension may be open; it gets what the row
  has. A batch fixed at more than 1 is refused: export with a dynamic batch dimension or one row.
- **Inputs.** One tensor `[N, features]`; or several of one column each, found by the features' names or else taken in order; or, after
  the `window` stage, `[N, window, features]`, which is the window as it is, or `[N, features, window]`, which is turned around
  (the dimensions tell which it is; where both are equal, `layout` must say it).
- **Constants.** What hangs on constants alone is computed once, in `float64`, with the platform's own `exp`, `ln` and `tanh`, and rounded to
  the tensor's type: there, and only there, a last bit may differ between platforms.
- **Weights** are finite: NaN or an infinity in a layer's weights or bias, a normalisation's, a tree's leaves, a linear model's or a support
  vector machine's numbers is refused by name. A mask may be infinite.
- **Types.** `float32`, whole numbers, booleans, and strings as labels. `float64` is accepted; what each row computes is carried as
  `float32`. `float16` and `bfloat16` are refused. Whole numbers that rows compute are exact up to 2^24.
- **Outputs.** Each output of the graph becomes a port; the sizes that the file declares for it must be those that the
  nodes make (converters to `ai.onnx.ml` declare loosely, and are let off). A label becomes the index of its class, and the classes are known by name.
  `ZipMap` passes the probabilities through.
- **States.** `states = [{ input = \"h0\", output = \"hn\" }]` makes an output the next row's input; before the first row it is zero. Open
  dimensions of a state are 1.
- **No control flow.** `If`, `Loop`, `Scan`, sequences, sparse tensors and functions of the file are refused.
- **External data** is read from the files of the version's folder, by plain name.
- What cannot be run is refused when the version is loaded, with the node and the attribute named.

";

/// The whole page.
pub(super) fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("## Limits\n\n| what | at most |\n| --- | --- |\n");
    for (what, most) in [
        ("bytes of a file", limits::MAX_FILE_BYTES),
        ("nodes", limits::MAX_NODES),
        ("dimensions of a tensor", limits::MAX_RANK),
        ("numbers of a tensor", limits::MAX_ELEMENTS),
        ("operations of a node", limits::MAX_WORK),
        ("numbers of all constants", limits::MAX_CONSTANTS),
        ("operations to fold all constants", limits::MAX_FOLDING),
        ("floats of all values of a row", limits::MAX_ARENA),
        (
            "floats of an input row, an output row, a state",
            limits::MAX_ROW,
        ),
    ] {
        let _ = writeln!(page, "| {what} | {most} |");
    }
    page.push_str("\n## Operator sets\n\n| domain | versions |\n| --- | --- |\n");
    for (domain, low, high) in OPSETS {
        let name = if domain.is_empty() { "ai.onnx" } else { domain };
        let _ = writeln!(page, "| `{name}` | {low} to {high} |");
    }
    page.push_str("\n## Operators\n\n`from` is the lowest operator set whose form of the operator is understood.\n");
    for family in FAMILIES {
        let domain = if family.domain.is_empty() {
            ""
        } else {
            ": `ai.onnx.ml`"
        };
        let _ = write!(
            page,
            "\n### {}{domain}\n\n| operator | from | attributes | remarks |\n| --- | --- | --- | --- |\n",
            family.heading
        );
        family.ops.iter().for_each(|op| row(&mut page, op));
    }
    page
}

fn row(page: &mut String, op: &Op) {
    let attributes: Vec<String> = op
        .attributes
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    let _ = writeln!(
        page,
        "| `{}` | {} | {} | {} |",
        op.name,
        op.since,
        attributes.join(", "),
        op.note
    );
}
