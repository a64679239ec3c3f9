//! What decoding may cost: sizes are checked before reading, and no frame makes a decoder ask for more memory than
//! its bound. A counting allocator measures the peak of each decode on its own thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidegate_protocol::codec::{Codec, MAX_DECODED_BYTES, VERSION_BYTE, Wire};
use tidegate_protocol::message::is_acceptable;
use tidegate_protocol::{
    DecodeError, DeviceMessage, LiveMessage, LiveRequest, MAX_BATCH, MAX_FRAME_BYTES, MAX_VALUES,
    MISSING_BITS, Reading, ServerMessage, Values,
};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn grow(bytes: usize) {
    let live = LIVE.get().saturating_add(bytes);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only thread-local cells that need
// neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that `work` held at once.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

/// A frame of `unit` repeated up to the largest size, between `head` and `tail`.
fn filled(head: &[u8], unit: &[u8], tail: &[u8]) -> Vec<u8> {
    let room = MAX_FRAME_BYTES - head.len() - tail.len();
    let mut frame = head.to_vec();
    frame.extend(unit.iter().cycle().take(room / unit.len() * unit.len()));
    frame.extend(tail);
    frame
}

fn refusal(codec: Codec, frame: &[u8]) -> DecodeError {
    DeviceMessage::decode(codec, frame).expect_err("refused")
}

fn reading(values: Values) -> DeviceMessage {
    DeviceMessage::Reading(Reading {
        seq: Some(5),
        values,
        ..Reading::default()
    })
}

#[test]
fn a_frame_over_the_limit_is_refused_before_it_is_read() {
    let frame = vec![b'['; MAX_FRAME_BYTES + 1];
    for codec in [Codec::Json, Codec::Bincode] {
        let (error, peak) = peak_of(|| refusal(codec, &frame));
        assert_eq!(error, DecodeError::TooLarge(MAX_FRAME_BYTES + 1));
        assert_eq!(peak, 0);
        assert_eq!(
            LiveRequest::decode(codec, &frame),
            Err(DecodeError::TooLarge(MAX_FRAME_BYTES + 1))
        );
        assert_eq!(
            ServerMessage::decode(codec, &frame),
            Err(DecodeError::TooLarge(MAX_FRAME_BYTES + 1))
        );
        assert_eq!(
            LiveMessage::decode(codec, &frame),
            Err(DecodeError::TooLarge(MAX_FRAME_BYTES + 1))
        );
    }
}

#[test]
fn a_frame_at_the_limit_is_read() {
    let frame = filled(b"[1]", b" ", b"");
    assert_eq!(frame.len(), MAX_FRAME_BYTES);
    assert!(DeviceMessage::decode(Codec::Json, &frame).is_ok());
}

#[test]
fn a_length_of_four_billion_is_refused_before_anything_is_allocated() {
    let length = [253, 0, 0, 0, 0, 1, 0, 0, 0];
    let heads: [&[u8]; 4] = [
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 1],
        &[1, 1],
        &[1, 2, 0, 5, 0],
    ];
    for head in heads {
        let frame = [head, &length].concat();
        let (error, peak) = peak_of(|| refusal(Codec::Bincode, &frame));
        assert!(
            error.to_string().contains("asks for more than"),
            "{head:?}: {error}"
        );
        assert!(peak < 512, "{head:?}: {peak} bytes");
    }
}

#[test]
fn no_frame_makes_a_decoder_hold_more_than_its_bound() {
    let claim = |head: &[u8], most: u64| {
        let mut frame = head.to_vec();
        frame.push(253);
        frame.extend(most.to_le_bytes());
        filled(&frame, &[0], &[])
    };
    let mut frames = vec![
        filled(b"[", b"1,", b"1]"),
        filled(b"{\"seq\":1,\"x\":[", b"[],", b"[]]}"),
        filled(b"{\"type\":\"feedback\",\"label\":[", b"0,", b"0]}"),
        filled(b"{\"type\":\"batch\",\"readings\":[", b"[],", b"[]]}"),
        filled(b"{\"type\":\"subscribe\",\"id\":1,\"x\":[", b"0,", b"0]}"),
        filled(b"{\"values\":{", b"\"\":0,", b"\"\":0}}"),
        filled(b"{\"seq\":[", b"[],", b"[]]}"),
        filled(b"{\"x\":", b"[", b""),
        filled(b"", b"[", b""),
        filled(b"", b"{\"values\":", b""),
    ];
    frames.extend((6..22).map(|power| claim(&[1, 1], 1 << power)));
    frames.extend((6..22).map(|power| claim(&[1, 0, 0, 0, 0, 1], 1 << power)));
    for frame in frames {
        for codec in [Codec::Json, Codec::Bincode] {
            let (_, device) = peak_of(|| DeviceMessage::decode(codec, &frame).is_ok());
            let (_, live) = peak_of(|| LiveRequest::decode(codec, &frame).is_ok());
            let start = String::from_utf8_lossy(&frame[..24.min(frame.len())]).into_owned();
            assert!(
                device <= MAX_DECODED_BYTES,
                "{codec:?} {start:?}: {device} bytes"
            );
            assert!(
                live <= MAX_DECODED_BYTES,
                "{codec:?} {start:?}: {live} bytes"
            );
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    for unit in [
        "[",
        "{\"values\":",
        "{\"readings\":[",
        "{\"x\":[",
        "{\"seq\":[",
    ] {
        let frame = filled(b"", unit.as_bytes(), b"");
        assert!(DeviceMessage::decode(Codec::Json, &frame).is_err());
        assert!(LiveRequest::decode(Codec::Json, &frame).is_err());
    }
}

#[test]
fn a_batch_over_the_limit_is_refused_whole() {
    let batch = |count| DeviceMessage::Batch(vec![Reading::default(); count]);
    for codec in [Codec::Json, Codec::Bincode] {
        assert!(DeviceMessage::decode(codec, &batch(MAX_BATCH).to_bytes(codec)).is_ok());
        let error = refusal(codec, &batch(MAX_BATCH + 1).to_bytes(codec));
        assert!(
            error
                .to_string()
                .contains("more than 1024 readings in a batch"),
            "{error}"
        );
        assert!(matches!(error, DecodeError::Malformed { seq: None, .. }));
    }
}

#[test]
fn too_many_values_are_refused_and_the_reading_is_named() {
    let ordered = Values::Ordered(vec![1.0; MAX_VALUES + 1]);
    let named = Values::Named((0..=MAX_VALUES).map(|at| (at.to_string(), 1.0)).collect());
    for message in [reading(ordered), reading(named)] {
        for codec in [Codec::Json, Codec::Bincode] {
            let error = refusal(codec, &message.to_bytes(codec));
            assert!(
                error.to_string().contains("more than 1024 values"),
                "{error}"
            );
            assert!(matches!(error, DecodeError::Malformed { seq: Some(5), .. }));
        }
    }
}

#[test]
fn a_long_or_repeated_feature_name_is_refused_and_the_reading_is_named() {
    let long = vec![("x".repeat(129), 1.0)];
    let twice = vec![
        ("flow".to_owned(), 1.0),
        ("x".to_owned(), 1.0),
        ("flow".to_owned(), 1.0),
    ];
    for (pairs, why) in [
        (long, "feature name of 129 bytes"),
        (twice, "feature \"flow\" is there twice"),
    ] {
        for codec in [Codec::Json, Codec::Bincode] {
            let error = refusal(
                codec,
                &reading(Values::Named(pairs.clone())).to_bytes(codec),
            );
            assert!(error.to_string().contains(why), "{error}");
            assert!(matches!(error, DecodeError::Malformed { seq: Some(5), .. }));
        }
    }
}

#[test]
fn null_is_the_one_nan_and_back() {
    let text = br#"{"seq":5,"values":[null]}"#;
    let message = DeviceMessage::decode(Codec::Json, text).unwrap();
    let DeviceMessage::Reading(Reading {
        values: Values::Ordered(values),
        ..
    }) = &message
    else {
        panic!("not a reading");
    };
    assert_eq!(values[0].to_bits(), MISSING_BITS);
    assert!(is_acceptable(values[0]));
    assert!(!is_acceptable(f32::from_bits(MISSING_BITS | 1)));
    assert!(!is_acceptable(f32::INFINITY));
    assert_eq!(message.to_bytes(Codec::Json), text);
}

#[test]
fn requests_over_their_limits_are_refused() {
    let refused = [
        r#"{"type":"subscribe","id":9007199254740992,"topic":"system"}"#.to_owned(),
        format!(
            r#"{{"type":"subscribe","id":1,"topic":"{}"}}"#,
            "x".repeat(257)
        ),
        r#"{"type":"subscribe","id":1,"topic":"system","max_hz":0}"#.to_owned(),
        r#"{"type":"subscribe","id":1,"topic":"system","max_hz":1e39}"#.to_owned(),
        r#"{"type":"subscribe","id":1,"topic":"system","policy":"never"}"#.to_owned(),
        r#"{"type":"subscribe","id":1}"#.to_owned(),
        r#"["subscribe",1,"system"]"#.to_owned(),
    ];
    for text in refused {
        assert!(
            LiveRequest::decode(Codec::Json, text.as_bytes()).is_err(),
            "{text}"
        );
    }
}

#[test]
fn a_refused_version_byte_is_named() {
    assert_eq!(
        refusal(Codec::Bincode, &[VERSION_BYTE + 1, 3]),
        DecodeError::Version(2)
    );
}
