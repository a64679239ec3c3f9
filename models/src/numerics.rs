//! The only arithmetic a step may use.
