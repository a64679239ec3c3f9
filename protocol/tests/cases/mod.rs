//! The messages behind the golden vectors, by direction. `golden.rs` compares each with its file.

pub mod device;
pub mod input;
pub mod live;
pub mod server;

/// One vector: file name, one sentence, the messages (several make a table).
pub struct Case<M> {
    pub name: &'static str,
    pub what: &'static str,
    pub messages: Vec<M>,
}

pub fn one<M>(name: &'static str, what: &'static str, message: M) -> Case<M> {
    Case {
        name,
        what,
        messages: vec![message],
    }
}
