//! The specification names what the crate has: every code, every limit, and its JSON examples are messages.

use tidegate_protocol::close::should_reconnect;
use tidegate_protocol::codec::{
    BINCODE_CONTENT_TYPE, BINCODE_SUBPROTOCOL, JSON_CONTENT_TYPE, JSON_SUBPROTOCOL,
};
use tidegate_protocol::id::RESERVED_NAMES;
use tidegate_protocol::{
    CloseCode, Codec, DeviceMessage, ErrorCode, LiveMessage, LiveRequest, NackCode, ServerMessage,
    Wire,
};

const README: &str = include_str!("../README.md");

fn section(title: &str) -> &'static str {
    let start = README
        .find(&format!("\n## {title}\n"))
        .unwrap_or_else(|| panic!("no section {title:?}"))
        + 1;
    let rest = &README[start..];
    rest[3..].find("\n## ").map_or(rest, |end| &rest[..end + 3])
}

/// Lines of the fenced blocks of one kind.
fn blocks(text: &'static str, kind: &str) -> Vec<&'static str> {
    let fence = format!("```{kind}\n");
    text.split(fence.as_str())
        .skip(1)
        .flat_map(|block| block[..block.find("```").unwrap()].lines())
        .collect()
}

/// The bytes of the worked dump that begins behind `vector`'s name.
fn dump_of(vector: &str) -> String {
    let rest = &README[README.find(&format!("`{vector}`")).unwrap()..];
    let block = &rest[rest.find("```text\n").unwrap() + 8..];
    let lines = block[..block.find("```").unwrap()].lines();
    lines
        .map(|line| line[..33.min(line.len())].replace(' ', ""))
        .collect()
}

fn vector_hex(vector: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(vector);
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["hex"].as_str().unwrap().to_owned()
}

#[test]
fn every_code_stands_in_its_table_with_its_tag() {
    for (tag, code) in NackCode::ALL.iter().enumerate() {
        assert!(README.contains(&format!("| {tag} | `{code}` |")), "{code}");
    }
    for (tag, code) in ErrorCode::ALL.iter().enumerate() {
        assert!(README.contains(&format!("| {tag} | `{code}` |")), "{code}");
    }
    for code in CloseCode::ALL {
        let row = format!("\n| {} | ", code.code());
        assert!(README.contains(&row), "{code:?}");
    }
    for name in RESERVED_NAMES {
        assert!(section("Words").contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn names_of_codecs_and_the_reconnect_rule_are_stated() {
    for name in [
        JSON_SUBPROTOCOL,
        BINCODE_SUBPROTOCOL,
        JSON_CONTENT_TYPE,
        BINCODE_CONTENT_TYPE,
    ] {
        assert!(README.contains(&format!("`{name}`")), "{name}");
    }
    let never: Vec<u16> = (1000..5000)
        .filter(|code| !should_reconnect(*code))
        .collect();
    let stated: Vec<u16> = [1000, 1003, 1007, 1008, 1009]
        .into_iter()
        .chain(4500..5000)
        .collect();
    assert_eq!(never, stated);
}

#[test]
fn every_example_is_a_message_and_is_written_as_the_encoder_writes_it() {
    fn same<M: Wire>(text: &str) {
        let message = M::decode(Codec::Json, text.as_bytes())
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(message.to_bytes(Codec::Json), text.as_bytes(), "{text}");
    }
    let device = blocks(section("What a device says"), "json");
    let server = blocks(section("What the server says"), "json");
    let live = blocks(section("Live subscriptions"), "json");
    assert_eq!((device.len(), server.len(), live.len()), (4, 8, 7));
    device.into_iter().for_each(same::<DeviceMessage>);
    server.into_iter().for_each(same::<ServerMessage>);
    live[..2].iter().copied().for_each(same::<LiveRequest>);
    live[2..].iter().copied().for_each(same::<LiveMessage>);
}

#[test]
fn the_worked_dumps_are_the_vectors() {
    for vector in ["vectors/device/reading.json", "vectors/server/ack.json"] {
        assert_eq!(dump_of(vector), vector_hex(vector), "{vector}");
    }
}
