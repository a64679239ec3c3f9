//! The layout of a state: named f32 buffers laid end to end in one flat slice.
//!
//! A snapshot stores [`Layout::describe`] beside the floats; a state is only folded on where the description is the same, so
//! whoever changes a buffer changes the text. A layout owns no floats.

use std::fmt::Write;
use std::ops::Range;

/// Named buffers of a state, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    kind: String,
    buffers: Vec<(String, Range<usize>)>,
}

impl Layout {
    /// An empty layout; `kind` names the architecture and its revision, such as `mewma-1`.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            buffers: Vec::new(),
        }
    }

    /// Adds a buffer of `len` floats behind the others. A name used twice is a mistake of the architecture and panics.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, len: usize) -> Self {
        let (name, start) = (name.into(), self.len());
        assert!(
            self.range(&name).is_none(),
            "layout {}: buffer {name} is named twice",
            self.kind
        );
        self.buffers.push((name, start..start + len));
        self
    }

    /// Floats in the whole state.
    pub fn len(&self) -> usize {
        self.buffers.last().map_or(0, |(_, range)| range.end)
    }

    /// Whether the state has no floats at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a buffer lies in the flat state.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        self.buffers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, range)| range.clone())
    }

    /// A buffer of `state` by name.
    pub fn slice<'s>(&self, state: &'s [f32], name: &str) -> Option<&'s [f32]> {
        state.get(self.range(name)?)
    }

    /// One line for people and for snapshots: `mewma-1: count[1] mean[8]`.
    pub fn describe(&self) -> String {
        let mut text = format!("{}:", self.kind);
        for (name, range) in &self.buffers {
            write!(text, " {name}[{}]", range.len()).expect("a string takes it");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn buffers_lie_end_to_end_and_are_described_in_order() {
        let layout = Layout::new("toy-1").with("count", 1).with("mean", 3);
        assert_eq!(layout.len(), 4);
        assert_eq!(layout.range("mean"), Some(1..4));
        assert_eq!(layout.describe(), "toy-1: count[1] mean[3]");
        assert_eq!(
            layout.slice(&[9.0, 1.0, 2.0, 3.0], "mean"),
            Some(&[1.0, 2.0, 3.0][..])
        );
        assert_eq!(layout.range("scale"), None);
    }

    #[test]
    #[should_panic(expected = "buffer mean is named twice")]
    fn a_name_is_used_once() {
        let _ = Layout::new("toy-1").with("mean", 1).with("mean", 1);
    }
}
