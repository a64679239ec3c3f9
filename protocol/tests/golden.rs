//! The golden vectors in `protocol/vectors/`: a file a message, as JSON text and as bincode bytes.
//!
//! Each file is read by itself, so that another implementation can be held against the same files. `TIDEGATE_BLESS=1`
//! writes them anew after a message was appended; a diff in an existing file breaks Protocol v1.

mod cases;

use cases::input::Input;
use cases::{Case, device, input, live, server};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use tidegate_protocol::codec::decode_output;
use tidegate_protocol::message::Label;
use tidegate_protocol::{
    Codec, DecodeError, DeviceMessage, ErrorCode, LiveMessage, LiveRequest, NackCode,
    ServerMessage, Wire,
};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Compares `expected` with the file, or writes it when blessing.
fn check_file(folder: &str, name: &str, expected: &Value) {
    let path = vectors().join(folder).join(format!("{name}.json"));
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{expected:#}\n")).unwrap();
    }
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(&found, expected, "{}", path.display());
}

fn forms<M: Wire>(message: &M) -> Value {
    let text = String::from_utf8(message.to_bytes(Codec::Json)).unwrap();
    json!({"json": text, "hex": hex(&message.to_bytes(Codec::Bincode))})
}

fn vector<M: Wire>(case: &Case<M>, direction: &str) -> Value {
    let head = json!({"name": case.name, "what": case.what, "direction": direction});
    let body = match case.messages.as_slice() {
        [message] => forms(message),
        table => json!({"cases": table.iter().map(forms).collect::<Vec<_>>()}),
    };
    merge(head, body)
}

fn merge(mut head: Value, body: Value) -> Value {
    let Value::Object(fields) = body else {
        unreachable!("built as an object")
    };
    head.as_object_mut().unwrap().extend(fields);
    head
}

fn check_cases<M: Wire>(folder: &str, direction: &str, cases: &[Case<M>]) {
    for case in cases {
        check_file(folder, case.name, &vector(case, direction));
    }
}

fn all_device() -> Vec<Case<DeviceMessage>> {
    [device::readings(), device::others()]
        .into_iter()
        .flatten()
        .collect()
}

fn all_server() -> Vec<Case<ServerMessage>> {
    [server::predictions(), server::others(), server::codes()]
        .into_iter()
        .flatten()
        .collect()
}

fn all_live() -> Vec<Case<LiveMessage>> {
    [live::events(), live::others()]
        .into_iter()
        .flatten()
        .collect()
}

fn all_refused() -> Vec<Input> {
    [input::refused_json(), input::refused_binary()]
        .into_iter()
        .flatten()
        .collect()
}

/// Every {json, hex} of every file of a folder.
fn read_folder(folder: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(vectors().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let forms = file["cases"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![file.clone()]);
        for form in forms {
            let text = form["json"].as_str().unwrap().to_owned();
            found.push((
                path.display().to_string(),
                text,
                unhex(form["hex"].as_str().unwrap()),
            ));
        }
    }
    found
}

/// A NaN differs from itself, so messages are compared by what they print and by their bytes.
fn check_both_codecs<M: Wire + Debug>(folder: &str) {
    for (path, text, bytes) in read_folder(folder) {
        let from_text = M::decode(Codec::Json, text.as_bytes())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let from_bytes =
            M::decode(Codec::Bincode, &bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(
            format!("{from_text:?}"),
            format!("{from_bytes:?}"),
            "{path}"
        );
        assert_eq!(
            hex(&from_text.to_bytes(Codec::Bincode)),
            hex(&bytes),
            "{path}"
        );
        assert_eq!(from_bytes.to_bytes(Codec::Json), text.as_bytes(), "{path}");
    }
}

/// Tags that a decoder knows behind `prefix`: it names the first it does not know.
fn known_tags<M: Debug>(
    decode: impl Fn(&[u8]) -> Result<M, DecodeError>,
    prefix: &[u8],
) -> BTreeSet<u8> {
    let unknown = |tag: u8| {
        let frame = [prefix, &[tag]].concat();
        decode(&frame).is_err_and(|error| error.to_string().contains("unknown tag"))
    };
    (0..).take_while(|tag| !unknown(*tag)).collect()
}

/// Tags that stand right behind `prefix` in the vectors of a folder.
fn vector_tags(folder: &str, prefix: &[u8]) -> BTreeSet<u8> {
    let tag =
        |(_, _, bytes): (String, String, Vec<u8>)| bytes.strip_prefix(prefix).map(|rest| rest[0]);
    read_folder(folder).into_iter().filter_map(tag).collect()
}

#[test]
fn the_files_hold_what_the_messages_say() {
    check_cases("device", "device to server", &all_device());
    check_cases("server", "server to device", &all_server());
    check_cases("live-request", "subscriber to server", &live::requests());
    check_cases("live", "server to subscriber", &all_live());
}

#[test]
fn both_codecs_of_a_file_are_one_message_and_come_out_as_the_same_bytes() {
    check_both_codecs::<DeviceMessage>("device");
    check_both_codecs::<ServerMessage>("server");
    check_both_codecs::<LiveRequest>("live-request");
    check_both_codecs::<LiveMessage>("live");
}

#[test]
fn every_message_has_a_vector() {
    let message = &[1u8];
    let device = known_tags(
        |frame| DeviceMessage::decode(Codec::Bincode, frame),
        message,
    );
    let server = known_tags(
        |frame| ServerMessage::decode(Codec::Bincode, frame),
        message,
    );
    let request = known_tags(|frame| LiveRequest::decode(Codec::Bincode, frame), message);
    let live = known_tags(|frame| LiveMessage::decode(Codec::Bincode, frame), message);
    assert_eq!(
        (device.len(), server.len(), request.len(), live.len()),
        (4, 8, 2, 5)
    );
    assert_eq!(vector_tags("device", message), device);
    assert_eq!(vector_tags("server", message), server);
    assert_eq!(vector_tags("live-request", message), request);
    assert_eq!(vector_tags("live", message), live);
}

#[test]
fn every_output_and_every_kind_of_event_has_a_vector() {
    let outputs = known_tags(decode_output, &[]);
    let prediction = server::predictions()
        .remove(0)
        .messages
        .remove(0)
        .to_bytes(Codec::Bincode);
    let before_output = &prediction[..prediction.len() - 1 - 1 - 3 - 1];
    assert_eq!(vector_tags("server", before_output), outputs);

    let data = known_tags(
        |frame| LiveMessage::decode(Codec::Bincode, frame),
        &[1, 2, 0, 0],
    );
    let kinds: BTreeSet<u8> = read_folder("live")
        .iter()
        .filter_map(|(_, _, bytes)| event_tag(bytes))
        .collect();
    assert_eq!(kinds, data);
}

/// The data's tag of an event: version byte, message tag, offset 70,001 (5 bytes), topic, tag.
fn event_tag(bytes: &[u8]) -> Option<u8> {
    (bytes[1] == 2).then(|| bytes[8 + usize::from(bytes[7])])
}

#[test]
fn every_code_has_a_vector_and_its_text_is_its_json() {
    let tables = server::codes();
    assert_eq!(tables[0].messages.len(), NackCode::ALL.len());
    assert_eq!(tables[1].messages.len(), ErrorCode::ALL.len());
    for code in NackCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    for code in ErrorCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    let nacks = known_tags(
        |frame| ServerMessage::decode(Codec::Bincode, frame),
        &[1, 3, 0, 0],
    );
    let errors = known_tags(
        |frame| ServerMessage::decode(Codec::Bincode, frame),
        &[1, 5],
    );
    assert_eq!(
        (nacks.len(), errors.len()),
        (NackCode::ALL.len(), ErrorCode::ALL.len())
    );
}

#[test]
fn no_file_is_left_over() {
    let names = |folder: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(vectors().join(folder)).unwrap();
        files
            .map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let of = |cases: Vec<&str>| {
        cases
            .into_iter()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        names("device"),
        of(all_device().iter().map(|case| case.name).collect())
    );
    assert_eq!(
        names("server"),
        of(all_server().iter().map(|case| case.name).collect())
    );
    assert_eq!(
        names("live-request"),
        of(live::requests().iter().map(|case| case.name).collect())
    );
    assert_eq!(
        names("live"),
        of(all_live().iter().map(|case| case.name).collect())
    );
    assert_eq!(
        names("lenient"),
        of(input::lenient().iter().map(|input| input.name).collect())
    );
    assert_eq!(
        names("refused"),
        of(all_refused().iter().map(|input| input.name).collect())
    );
}

fn input_vector(input: &Input) -> Value {
    let head = json!({"name": input.name, "what": input.what, "direction": "device to server"});
    let body = match input.codec {
        Codec::Json => json!({"input_json": String::from_utf8(input.bytes.clone()).unwrap()}),
        Codec::Bincode => json!({"input_hex": hex(&input.bytes)}),
    };
    merge(head, body)
}

#[test]
fn lenient_forms_are_read_as_the_message_they_mean() {
    for input in input::lenient() {
        let message = DeviceMessage::decode(input.codec, &input.bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", input.name));
        let expected = json!({"hex": hex(&message.to_bytes(Codec::Bincode))});
        check_file(
            "lenient",
            input.name,
            &merge(input_vector(&input), expected),
        );
    }
}

#[test]
fn refusals_say_why_and_name_the_reading_where_they_can() {
    for input in all_refused() {
        let error = DeviceMessage::decode(input.codec, &input.bytes).expect_err(input.name);
        let (epoch, seq) = match &error {
            DecodeError::Malformed { epoch, seq, .. } => (*epoch, *seq),
            _ => (None, None),
        };
        let expected = json!({"error": error.to_string(), "epoch": epoch, "seq": seq});
        check_file(
            "refused",
            input.name,
            &merge(input_vector(&input), expected),
        );
    }
}

#[test]
fn a_label_is_text_or_a_number() {
    for (text, label) in [
        ("\"ok\"", Label::Text("ok".to_owned())),
        ("1.5", Label::Number(1.5)),
    ] {
        assert_eq!(serde_json::from_str::<Label>(text).unwrap(), label);
    }
    assert!(serde_json::from_str::<Label>("[1]").is_err());
}
