//! What an event counts for in a bounded queue: at least the bytes of its JSON frame, known without encoding it.
//!
//! Pure arithmetic over lengths. An event that waits is mostly not encoded yet and costs less than this; on its way into a socket it costs about
//! this much. Names keep to characters that JSON writes as they are; free text may be escaped.

use crate::stream::SampleRow;
use tidegate_protocol::{LiveData, Output, Sample};

/// Field names, punctuation, the longest numbers, `null` and every flag of a sample; the frame's own header.
const ENVELOPE: usize = 448;
/// The longest f32 in JSON (`-1.1754944e-38`), and a comma.
const VALUE: usize = 16;
/// A character of free text at its longest: `\u0000`.
const ESCAPED: usize = 6;

/// A committed row.
pub fn of_row(row: &SampleRow) -> usize {
    let key = &row.stream.key;
    let names = 2 * (key.endpoint.as_str().len() + key.device.as_str().len());
    let version = row.version.model.len() + row.version.version.len();
    let arm = row.arm.as_ref().map_or(0, |arm| arm.label.len());
    ENVELOPE + names + version + arm + row.values.len() * VALUE + of_output(&row.output)
}

/// What any event carries.
pub fn of_data(topic: &str, data: &LiveData) -> usize {
    let content = match data {
        LiveData::Sample(sample) => of_sample(sample),
        LiveData::Device(event) => event.device.len() + event.endpoint.len(),
        LiveData::Alert(event) => {
            let names = event.endpoint.len() + event.device.len();
            names + ESCAPED * (event.alert.len() + event.message.len())
        }
        LiveData::System(_) => 0,
        LiveData::Experiment(event) => {
            let verdicts = event.verdicts.iter();
            let verdicts = verdicts
                .map(|one| ENVELOPE / 4 + text(&one.arm) + text(&one.verdict) + text(&one.words));
            let names = event.experiment.len() + event.endpoint.len() + event.state.len();
            names + verdicts.sum::<usize>()
        }
        LiveData::AlertChange(change) => {
            let names = [&change.rule, &change.kind, &change.severity, &change.change];
            let who = change.who.as_ref().map_or(0, String::len);
            let names = names.iter().map(|name| name.len()).sum::<usize>();
            let subject = change.endpoint.len() + change.device.len();
            names + subject + ESCAPED * (change.message.len() + who)
        }
    };
    ENVELOPE + topic.len() + content
}

fn of_sample(sample: &Sample) -> usize {
    let names = sample.endpoint.len() + sample.device.len();
    let version = sample.model.len() + sample.version.len();
    let arm = sample.arm.as_ref().map_or(0, String::len);
    names + version + arm + sample.values.len() * VALUE + of_output(&sample.output)
}

/// A prediction's output.
pub fn of_output(output: &Output) -> usize {
    const FIELDS: usize = 64;
    let pairs = |pairs: &[(String, f32)]| -> usize {
        let lengths = pairs.iter().map(|(name, _)| text(name) + VALUE + 4);
        lengths.sum()
    };
    FIELDS
        + match output {
            Output::Calibrating { .. } | Output::Anomaly { .. } => 0,
            Output::Classification {
                label,
                probabilities,
            } => text(label) + pairs(probabilities),
            Output::Regression { values } => pairs(values),
            Output::Forecast {
                horizon,
                values,
                quantiles,
            } => {
                let ahead = (horizon.len() + values.len()) * VALUE;
                let each = quantiles
                    .iter()
                    .map(|(name, values)| text(name) + values.len() * VALUE + 8);
                ahead + each.sum::<usize>()
            }
            Output::Failed(reason) | Output::Skipped(reason) => text(reason),
        }
}

fn text(text: &str) -> usize {
    ESCAPED * text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::Event;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tidegate_protocol::live::{AlertChange, AlertEvent, DeviceEvent, DeviceState};
    use tidegate_protocol::{Codec, MAX_NUMBER};

    fn output() -> impl Strategy<Value = Output> {
        let number = any::<f32>;
        let pairs = || vec((".{0,20}", number()), 0..8);
        prop_oneof![
            (any::<u32>(), any::<u32>())
                .prop_map(|(seen, needed)| Output::Calibrating { seen, needed }),
            (number(), number(), any::<bool>()).prop_map(|(score, threshold, anomaly)| {
                Output::Anomaly {
                    score,
                    threshold,
                    anomaly,
                }
            }),
            (".{0,20}", pairs()).prop_map(|(label, probabilities)| Output::Classification {
                label,
                probabilities
            }),
            pairs().prop_map(|values| Output::Regression { values }),
            (
                vec(number(), 0..20),
                vec(number(), 0..20),
                vec((".{0,8}", vec(number(), 0..20)), 0..4)
            )
                .prop_map(|(horizon, values, quantiles)| Output::Forecast {
                    horizon,
                    values,
                    quantiles
                }),
            ".{0,60}".prop_map(Output::Failed),
        ]
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let name = "[a-z0-9-]{1,64}";
        (
            (name, "[A-Za-z0-9._:-]{1,128}", name),
            vec(any::<f32>(), 0..64),
            output(),
            any::<bool>(),
        )
            .prop_map(|((endpoint, device, model), values, output, odd)| Sample {
                id: MAX_NUMBER,
                endpoint,
                device,
                epoch: MAX_NUMBER,
                seq: MAX_NUMBER,
                ts: i64::MIN,
                received_at: i64::MIN,
                values,
                output,
                model,
                version: "1.0.0".into(),
                arm: None,
                latency_us: u32::MAX,
                flags: if odd {
                    crate::stream::Flags(u32::MAX).names()
                } else {
                    Vec::new()
                },
            })
    }

    fn data() -> impl Strategy<Value = LiveData> {
        prop_oneof![
            sample().prop_map(LiveData::Sample),
            ("[a-z]{1,128}", any::<(u64, u64)>()).prop_map(|(device, gap)| {
                LiveData::Device(DeviceEvent {
                    device,
                    endpoint: "e".repeat(64),
                    state: DeviceState::Offline,
                    at: i64::MIN,
                    gap: Some(gap),
                })
            }),
            (".{0,99}", ".{0,20}").prop_map(|(message, alert)| {
                LiveData::Alert(AlertEvent {
                    endpoint: "e".into(),
                    device: "d".into(),
                    alert,
                    message,
                    at: i64::MIN,
                })
            }),
            (".{0,99}", proptest::option::of(".{0,20}")).prop_map(|(message, who)| {
                LiveData::AlertChange(AlertChange {
                    id: MAX_NUMBER,
                    rule: "r".repeat(64),
                    kind: "guardrail".into(),
                    severity: "critical".into(),
                    change: "acknowledged".into(),
                    endpoint: "e".into(),
                    device: "d".into(),
                    message,
                    who,
                    at: i64::MIN,
                })
            }),
        ]
    }

    #[test]
    fn the_longest_numbers_and_every_flag_fit_the_envelope() {
        let longest = f32::from_bits(0x8080_0000);
        let sample = Sample {
            id: MAX_NUMBER,
            endpoint: String::new(),
            device: String::new(),
            epoch: MAX_NUMBER,
            seq: MAX_NUMBER,
            ts: i64::MIN,
            received_at: i64::MIN,
            values: vec![longest],
            output: Output::Anomaly {
                score: longest,
                threshold: longest,
                anomaly: false,
            },
            model: String::new(),
            version: String::new(),
            arm: None,
            latency_us: u32::MAX,
            flags: crate::stream::Flags(u32::MAX).names(),
        };
        let event = Event::new(MAX_NUMBER, "predictions//".into(), LiveData::Sample(sample));
        assert!(event.weight() >= event.frame(Codec::Json).len());
    }

    proptest! {
        #[test]
        fn an_event_weighs_at_least_its_frame_in_either_codec(data in data()) {
            let topic = match &data {
                LiveData::Sample(sample) => format!("predictions/{}/{}", sample.endpoint, sample.device),
                LiveData::Device(event) => format!("devices/{}", event.device),
                _ => "alerts/e/d".into(),
            };
            let event = Event::new(MAX_NUMBER, topic, data);
            for codec in [Codec::Json, Codec::Bincode] {
                let frame = event.frame(codec).len();
                prop_assert!(event.weight() >= frame, "{} below {frame}", event.weight());
            }
        }
    }
}
