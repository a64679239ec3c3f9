//! A reading against its endpoint's schema: how many values, which names, which ranges. Pure.

use crate::session::Checked;
use crate::stream::Flags;
use tidegate_models::Feature;
use tidegate_protocol::message::is_acceptable;
use tidegate_protocol::{MISSING, NackCode, Reading, Values};

/// A device's clock further away than this is flagged, ms.
const CLOCK_SKEW_MS: u64 = 24 * 3_600 * 1_000;

/// The reading in schema order, or why it will never be taken.
///
/// # Errors
/// Code and reason of the refusal.
pub fn reading(
    features: &[Feature],
    reading: Reading,
    received_at: i64,
) -> Result<Checked, (NackCode, String)> {
    let bad = |message: String| (NackCode::BadReading, message);
    let values = match reading.values {
        Values::Ordered(values) => in_order(features, values).map_err(bad)?,
        Values::Named(values) => by_name(features, values).map_err(bad)?,
    };
    let mut flags = Flags::default();
    for (feature, value) in features.iter().zip(&values) {
        check_value(feature, *value, &mut flags)?;
    }
    if values.iter().all(|value| value.is_nan()) {
        return Err(bad("every value is missing".into()));
    }
    if reading.historical {
        flags.set(Flags::HISTORICAL);
    }
    let mut checked = Checked {
        values: values.into(),
        ts: received_at,
        received_at,
        flags,
    };
    if let Some(ts) = reading.ts {
        set_ts(&mut checked, ts);
    }
    Ok(checked)
}

/// Puts the measured time of a reading in place; an absurd one is kept and flagged.
pub fn set_ts(checked: &mut Checked, ts: i64) {
    checked.ts = ts;
    checked.flags.set(Flags::TS_SENT);
    if ts.abs_diff(checked.received_at) > CLOCK_SKEW_MS && !checked.flags.has(Flags::HISTORICAL) {
        checked.flags.set(Flags::CLOCK_SKEW);
    }
}

fn in_order(features: &[Feature], values: Vec<f32>) -> Result<Vec<f32>, String> {
    if values.len() != features.len() {
        return Err(format!(
            "expected {} values, got {}",
            features.len(),
            values.len()
        ));
    }
    Ok(values)
}

fn by_name(features: &[Feature], named: Vec<(String, f32)>) -> Result<Vec<f32>, String> {
    let mut values = vec![MISSING; features.len()];
    let mut seen = vec![false; features.len()];
    for (name, value) in named {
        let Some(place) = features.iter().position(|feature| feature.name == name) else {
            return Err(format!("unknown feature {name:?}"));
        };
        if std::mem::replace(&mut seen[place], true) {
            return Err(format!("feature {name:?} is named twice"));
        }
        values[place] = value;
    }
    Ok(values)
}

fn check_value(feature: &Feature, value: f32, flags: &mut Flags) -> Result<(), (NackCode, String)> {
    let name = &feature.name;
    if !is_acceptable(value) {
        return Err((NackCode::BadReading, format!("{name}: not a finite f32")));
    }
    let outside = |(low, high): (f32, f32)| value < low || value > high;
    if let Some((low, high)) = feature.hard_range.filter(|range| outside(*range)) {
        return Err((
            NackCode::OutOfRange,
            format!("{name} {value}: expected {low} to {high}"),
        ));
    }
    if feature.range.is_some_and(outside) {
        flags.set(Flags::OUT_OF_RANGE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Vec<Feature> {
        let feature = |name: &str| Feature {
            name: name.into(),
            unit: "u".into(),
            range: Some((0.0, 10.0)),
            hard_range: Some((-100.0, 100.0)),
        };
        vec![feature("a"), feature("b")]
    }

    fn ordered(values: &[f32]) -> Reading {
        Reading {
            values: Values::Ordered(values.to_vec()),
            ..Reading::default()
        }
    }

    fn named(values: &[(&str, f32)]) -> Reading {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        Reading {
            values: Values::Named(values),
            ..Reading::default()
        }
    }

    fn refusal(reading_: Reading) -> (NackCode, String) {
        reading(&features(), reading_, 0).unwrap_err()
    }

    #[test]
    fn values_must_be_as_many_as_features() {
        assert_eq!(refusal(ordered(&[1.0])).1, "expected 2 values, got 1");
        assert_eq!(
            refusal(ordered(&[1.0, 2.0, 3.0])).1,
            "expected 2 values, got 3"
        );
        assert!(reading(&features(), ordered(&[1.0, 2.0]), 0).is_ok());
    }

    #[test]
    fn names_are_placed_and_those_left_out_are_missing() {
        let checked = reading(&features(), named(&[("b", 2.0)]), 0).unwrap();
        assert!(checked.values[0].is_nan() && checked.values[1] == 2.0);
        assert_eq!(refusal(named(&[("c", 2.0)])).1, "unknown feature \"c\"");
        assert_eq!(
            refusal(named(&[("a", 2.0), ("a", 3.0)])).1,
            "feature \"a\" is named twice"
        );
        assert_eq!(refusal(named(&[])).1, "every value is missing");
    }

    #[test]
    fn what_is_not_finite_is_refused_and_what_is_far_off_too() {
        assert_eq!(
            refusal(ordered(&[f32::INFINITY, 0.0])).0,
            NackCode::BadReading
        );
        assert_eq!(
            refusal(ordered(&[f32::from_bits(0x7fc0_0001), 0.0])).0,
            NackCode::BadReading
        );
        assert_eq!(refusal(ordered(&[101.0, 0.0])).0, NackCode::OutOfRange);
        let flagged = reading(&features(), ordered(&[11.0, 0.0]), 0).unwrap();
        assert!(flagged.flags.has(Flags::OUT_OF_RANGE));
    }

    #[test]
    fn an_absurd_time_is_kept_and_flagged() {
        let far = Reading {
            ts: Some(i64::MAX),
            ..ordered(&[1.0, 2.0])
        };
        let checked = reading(&features(), far.clone(), 0).unwrap();
        assert_eq!(checked.ts, i64::MAX);
        assert!(checked.flags.has(Flags::CLOCK_SKEW));
        let historical = reading(
            &features(),
            Reading {
                historical: true,
                ..far
            },
            0,
        )
        .unwrap();
        assert!(!historical.flags.has(Flags::CLOCK_SKEW));
    }
}
