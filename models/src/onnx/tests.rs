//! Hand-made files: what is refused, and how it is named.
