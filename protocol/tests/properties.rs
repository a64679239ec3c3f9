//! Properties of both codecs, on generated messages and on any bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidegate_protocol::codec::{Codec, VERSION_BYTE, Wire, decode_output, encode_output};
use tidegate_protocol::live::{DeviceEvent, DeviceState, Event, Subscribe};
use tidegate_protocol::message::{
    Ack, Feedback, Gap, Label, Nack, Prediction, ServerError, is_acceptable,
};
use tidegate_protocol::{
    DecodeError, DeviceMessage, ErrorCode, LiveData, LiveMessage, LiveRequest, MAX_NUMBER, MISSING,
    NackCode, Output, Policy, Position, Reading, Sample, ServerMessage, Values,
};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 0..=MAX_NUMBER]
}

fn finite() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("finite", |value| value.is_finite())
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![9 => finite(), 1 => Just(MISSING)]
}

fn values() -> impl Strategy<Value = Values> {
    let named = proptest::collection::btree_map("[a-z_\\PC]{1,12}", value(), 0..12);
    prop_oneof![
        vec(value(), 0..40).prop_map(Values::Ordered),
        named.prop_map(|pairs| Values::Named(pairs.into_iter().collect())),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    (
        option::of(number()),
        option::of(number()),
        option::of(any::<i64>()),
        values(),
        any::<bool>(),
    )
        .prop_map(|(epoch, seq, ts, values, historical)| Reading {
            epoch,
            seq,
            ts,
            values,
            historical,
        })
}

fn device_message() -> impl Strategy<Value = DeviceMessage> {
    let label = prop_oneof![
        "\\PC{0,20}".prop_map(Label::Text),
        finite().prop_map(Label::Number)
    ];
    let feedback = (option::of(number()), number(), label, option::of(number())).prop_map(
        |(epoch, seq, label, reference)| Feedback {
            epoch,
            seq,
            label,
            reference,
        },
    );
    prop_oneof![
        4 => reading().prop_map(DeviceMessage::Reading),
        2 => vec(reading(), 0..8).prop_map(DeviceMessage::Batch),
        1 => feedback.prop_map(DeviceMessage::Feedback),
        1 => Just(DeviceMessage::Reset),
    ]
}

fn pairs() -> impl Strategy<Value = Vec<(String, f32)>> {
    vec(("\\PC{0,8}", finite()), 0..6)
}

fn output() -> impl Strategy<Value = Output> {
    let quantiles = vec(("0\\.[0-9]{1,2}", vec(finite(), 0..4)), 0..4);
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(seen, needed)| Output::Calibrating { seen, needed }),
        (finite(), finite(), any::<bool>()).prop_map(|(score, threshold, anomaly)| {
            Output::Anomaly {
                score,
                threshold,
                anomaly,
            }
        }),
        ("\\PC{0,8}", pairs()).prop_map(|(label, probabilities)| Output::Classification {
            label,
            probabilities
        }),
        pairs().prop_map(|values| Output::Regression { values }),
        (vec(finite(), 0..4), vec(finite(), 0..4), quantiles).prop_map(
            |(horizon, values, quantiles)| Output::Forecast {
                horizon,
                values,
                quantiles
            }
        ),
        "\\PC{0,20}".prop_map(Output::Failed),
        "\\PC{0,20}".prop_map(Output::Skipped),
    ]
}

fn error() -> impl Strategy<Value = ServerError> {
    (
        proptest::sample::select(ErrorCode::ALL),
        "\\PC{0,20}",
        option::of(number()),
    )
        .prop_map(|(code, message, retry_after_ms)| ServerError {
            code,
            message,
            retry_after_ms,
        })
}

fn prediction() -> impl Strategy<Value = Prediction> {
    (
        option::of(number()),
        number(),
        any::<i64>(),
        output(),
        any::<u32>(),
    )
        .prop_map(|(epoch, seq, ts, output, latency_us)| {
            let (model, version) = ("mewma".to_owned(), "1.0.0".to_owned());
            Prediction {
                epoch,
                seq,
                ts,
                model,
                version,
                output,
                latency_us,
            }
        })
}

fn server_message() -> impl Strategy<Value = ServerMessage> {
    let nack = (
        option::of(number()),
        option::of(number()),
        proptest::sample::select(NackCode::ALL),
        "\\PC{0,20}",
    )
        .prop_map(|(epoch, seq, code, message)| Nack {
            epoch,
            seq,
            code,
            message,
        });
    prop_oneof![
        prediction().prop_map(ServerMessage::Prediction),
        (option::of(number()), number(), vec(number(), 0..5))
            .prop_map(|(epoch, seq, late)| ServerMessage::Ack(Ack { epoch, seq, late })),
        nack.prop_map(ServerMessage::Nack),
        (option::of(number()), number(), number())
            .prop_map(|(epoch, from, to)| ServerMessage::Gap(Gap { epoch, from, to })),
        error().prop_map(ServerMessage::Error),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    (
        prediction(),
        vec(value(), 0..12),
        option::of("[a-z]{1,4}"),
        vec("[a-z_]{1,10}", 0..3),
    )
        .prop_map(|(prediction, values, arm, flags)| Sample {
            id: prediction.seq,
            endpoint: "pump-health".to_owned(),
            device: "rig-1".to_owned(),
            epoch: prediction.epoch.unwrap_or_default(),
            seq: prediction.seq,
            ts: prediction.ts,
            received_at: prediction.ts,
            values,
            output: prediction.output,
            model: prediction.model,
            version: prediction.version,
            arm,
            latency_us: prediction.latency_us,
            flags,
        })
}

fn live_message() -> impl Strategy<Value = LiveMessage> {
    const STATES: [DeviceState; 3] = [DeviceState::Online, DeviceState::Offline, DeviceState::Gap];
    let device = (
        proptest::sample::select(&STATES),
        any::<i64>(),
        option::of((number(), number())),
    )
        .prop_map(|(state, at, gap)| {
            let (device, endpoint) = ("rig-1".to_owned(), "pump-health".to_owned());
            LiveData::Device(DeviceEvent {
                device,
                endpoint,
                state,
                at,
                gap,
            })
        });
    let data = prop_oneof![sample().prop_map(LiveData::Sample), device];
    prop_oneof![
        (number(), "[a-z/]{1,20}", data).prop_map(|(offset, topic, data)| LiveMessage::Event(
            Event {
                offset,
                topic,
                data
            }
        )),
        (number(), number()).prop_map(|(id, count)| LiveMessage::Dropped { id, count }),
        error().prop_map(LiveMessage::Error),
    ]
}

fn live_request() -> impl Strategy<Value = LiveRequest> {
    let from = ("[a-z0-9]{1,10}", number()).prop_map(|(log, offset)| Position { log, offset });
    const POLICIES: [Policy; 3] = [Policy::Latest, Policy::DropOldest, Policy::Disconnect];
    let wish = (
        number(),
        "\\PC{0,20}",
        option::of(from),
        proptest::sample::select(&POLICIES),
        option::of(0.1f32..100.0),
    )
        .prop_map(|(id, topic, from, policy, max_hz)| Subscribe {
            id,
            topic,
            from,
            policy,
            max_hz,
        });
    prop_oneof![
        wish.prop_map(LiveRequest::Subscribe),
        number().prop_map(|id| LiveRequest::Unsubscribe { id }),
    ]
}

/// Back and forth in both codecs; compared by bytes, since a NaN differs from itself.
fn round_trip<M: Wire + std::fmt::Debug>(message: &M) {
    let layout = message.to_bytes(Codec::Bincode);
    for codec in [Codec::Json, Codec::Bincode] {
        let bytes = message.to_bytes(codec);
        let back = M::decode(codec, &bytes)
            .unwrap_or_else(|error| panic!("{codec:?} {message:?}: {error}"));
        assert_eq!(
            back.to_bytes(Codec::Bincode),
            layout,
            "{codec:?} {message:?}"
        );
    }
}

/// No byte string makes a decoder panic.
fn decode_all(bytes: &[u8]) {
    for codec in [Codec::Json, Codec::Bincode] {
        let _ = DeviceMessage::decode(codec, bytes);
        let _ = ServerMessage::decode(codec, bytes);
        let _ = LiveRequest::decode(codec, bytes);
        let _ = LiveMessage::decode(codec, bytes);
    }
    let _ = decode_output(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn what_a_device_says_survives_both_codecs(message in device_message()) {
        round_trip(&message);
    }

    #[test]
    fn what_the_server_says_survives_both_codecs(message in server_message()) {
        round_trip(&message);
    }

    #[test]
    fn what_subscribers_hear_survives_both_codecs(message in live_message()) {
        round_trip(&message);
    }

    #[test]
    fn what_subscribers_say_survives_both_codecs(request in live_request()) {
        round_trip(&request);
    }

    #[test]
    fn a_stored_output_comes_back(output in output()) {
        let mut bytes = Vec::new();
        encode_output(&output, &mut bytes);
        prop_assert_eq!(decode_output(&bytes).unwrap(), output);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
        decode_all(&[&[VERSION_BYTE], bytes.as_slice()].concat());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}:,\"0-9a-z.eE+\\- ]{0,80}") {
        decode_all(text.as_bytes());
    }

    #[test]
    fn one_changed_byte_is_read_or_refused(message in device_message(), at in any::<usize>(), byte in any::<u8>()) {
        for codec in [Codec::Json, Codec::Bincode] {
            let mut bytes = message.to_bytes(codec);
            let at = at % bytes.len();
            bytes[at] = byte;
            decode_all(&bytes);
        }
    }

    #[test]
    fn a_cut_frame_is_refused(message in device_message(), at in any::<usize>()) {
        for codec in [Codec::Json, Codec::Bincode] {
            let bytes = message.to_bytes(codec);
            prop_assert!(DeviceMessage::decode(codec, &bytes[..at % bytes.len()]).is_err());
        }
    }

    #[test]
    fn a_byte_after_the_message_is_refused(message in device_message(), byte in any::<u8>()) {
        let mut bytes = message.to_bytes(Codec::Bincode);
        bytes.push(byte);
        prop_assert!(DeviceMessage::decode(Codec::Bincode, &bytes).is_err());
        let mut text = message.to_bytes(Codec::Json);
        text.push(b'x');
        prop_assert!(DeviceMessage::decode(Codec::Json, &text).is_err());
    }

    #[test]
    fn a_number_beyond_the_limit_is_refused_and_names_no_reading(seq in MAX_NUMBER + 1..) {
        let reading = Reading { epoch: Some(1), seq: Some(seq), ..Reading::default() };
        for codec in [Codec::Json, Codec::Bincode] {
            let bytes = DeviceMessage::Reading(reading.clone()).to_bytes(codec);
            let error = DeviceMessage::decode(codec, &bytes).unwrap_err();
            prop_assert!(error.to_string().contains("at most 2^53-1"), "{error}");
            let nameless = matches!(error, DecodeError::Malformed { epoch: None, seq: None, .. });
            prop_assert!(nameless);
        }
    }

    #[test]
    fn every_f32_keeps_its_bits_in_bincode(bits in any::<u32>()) {
        let values = Values::Ordered(vec![f32::from_bits(bits)]);
        let bytes = DeviceMessage::Reading(Reading { values, ..Reading::default() }).to_bytes(Codec::Bincode);
        prop_assert_eq!(&bytes[7..11], bits.to_le_bytes());
        prop_assert_eq!(DeviceMessage::decode(Codec::Bincode, &bytes).unwrap().to_bytes(Codec::Bincode), bytes);
    }

    #[test]
    fn a_number_beyond_f32_keeps_its_seq_and_is_not_acceptable(exponent in 39..308i32, seq in number()) {
        let text = format!("{{\"seq\":{seq},\"values\":[1,-1e{exponent}]}}");
        let DeviceMessage::Reading(reading) = DeviceMessage::decode(Codec::Json, text.as_bytes()).unwrap() else {
            panic!("not a reading: {text}");
        };
        prop_assert_eq!(reading.seq, Some(seq));
        let Values::Ordered(values) = reading.values else { panic!("named: {text}") };
        prop_assert!(is_acceptable(values[0]) && !is_acceptable(values[1]));
    }
}
