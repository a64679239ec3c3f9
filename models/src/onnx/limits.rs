//! The bounds of a file, in one place.
//!
//! Generous for a model that answers one row in well under a millisecond, small enough that no file takes the machine.

/// Largest `.onnx` file, and largest file of external data, in bytes.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;

/// Most nodes of a graph.
pub const MAX_NODES: usize = 20_000;

/// Most nodes, attributes, initializers and declared values together.
pub const MAX_PARTS: usize = 400_000;

/// Most strings (a tree ensemble has one per tree node).
pub const MAX_STRINGS: usize = 4_000_000;

/// Most nodes of a tree ensemble once its shared branches are copied: as many as there may be strings.
pub const MAX_TREE_NODES: usize = MAX_STRINGS;

/// Deepest nesting of the structures that are counted.
pub const MAX_DEPTH: usize = 8;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// Most numbers of one tensor, constant or computed.
pub const MAX_ELEMENTS: usize = 16 * 1024 * 1024;

/// Most numbers of all constants together, those computed while compiling included.
pub const MAX_CONSTANTS: usize = 32 * 1024 * 1024;

/// Most multiplications, or comparisons, of one node: some tens of milliseconds.
pub const MAX_WORK: usize = 1 << 26;

/// Most operations that folding the constants of a graph takes, all its nodes together: about a second.
pub const MAX_FOLDING: usize = 1_000_000_000;

/// Most floats that the values of one row may take: 16 MiB.
pub const MAX_ARENA: usize = 4 * 1024 * 1024;

/// Most floats of an input row, of an output row, and of a state.
pub const MAX_ROW: usize = 1024 * 1024;

/// Largest whole number that every float type here carries exactly in a constant.
pub const MAX_WHOLE: i64 = 1 << 53;
