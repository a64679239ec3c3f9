//! What can be wrong with a definition.

use super::*;
use crate::inference::load_zoo;
use tidegate_experiments::Form;
use tidegate_experiments::metric::outcome::Known;

pub fn definition(name: &str, kind: Kind) -> Definition {
    let text = serde_json::json!({
        "name": name,
        "endpoint": "pump-health",
        "kind": kind,
        "arms": [
            {"name": "control", "version": "mewma/1.0.0"},
            {"name": "challenger", "version": "autoencoder/1.0.0"}
        ],
        "metrics": [
            {"measure": "anomaly_share", "role": "primary", "direction": "lower_is_better", "margin": 0.01}
        ]
    });
    serde_json::from_value(text).expect("a definition")
}

/// Two arms, half and half.
pub fn ab(name: &str) -> Definition {
    let mut definition = definition(name, Kind::Ab);
    for arm in &mut definition.arms {
        arm.weight = Some(0.5);
    }
    definition
}

/// 1%, 10%, all.
pub fn canary(name: &str) -> Definition {
    let mut definition = definition(name, Kind::Canary);
    let step = |share| StepDefinition { share, hold_s: 1.0 };
    definition.ramp = vec![step(0.01), step(0.1), step(1.0)];
    definition
}

/// Two arms, learned.
pub fn bandit(name: &str) -> Definition {
    definition(name, Kind::Bandit)
}

/// The built-in models, known to no store.
fn engine() -> Engine {
    let zoo = load_zoo(None).expect("the zoo loads");
    let mut engine = Engine::default();
    for (name, endpoint) in &zoo.endpoints {
        let ids = endpoint.versions.keys().cloned().zip(1..).collect();
        engine.add(name.parse().expect("a name"), endpoint, &ids);
    }
    engine
}

fn said(engine: &Engine, change: impl FnOnce(&mut Definition)) -> (&'static str, String) {
    let mut definition = ab("one");
    change(&mut definition);
    let error = definition.check(engine).expect_err("it is refused");
    (error.code, error.message)
}

#[test]
fn every_mistake_names_its_field() {
    let engine = engine();
    ab("one").check(&engine).expect("a good one");
    canary("one").check(&engine).expect("a good one");
    let (code, message) = said(&engine, |d| d.endpoint = "nowhere".into());
    assert_eq!(code, "unknown_endpoint", "{message}");
    let (code, message) = said(&engine, |d| d.arms[1].version = "mewma/9.9.9".into());
    assert!(
        code == "unknown_version" && message.starts_with("arms[1].version: "),
        "{message}"
    );
    let (_, message) = said(&engine, |d| d.arms[1].weight = Some(0.4));
    assert_eq!(message, "weights: they sum to 0.9, not to 1");
    let (_, message) = said(&engine, |d| d.arms[1].weight = None);
    assert!(message.starts_with("arms[1].weight: missing"), "{message}");
    let (_, message) = said(&engine, |d| d.arms.truncate(1));
    assert!(message.contains("2 to 8 arms, not 1"), "{message}");
    let (_, message) = said(&engine, |d| {
        for index in 0..7 {
            let name = format!("more-{index}");
            d.arms.push(ArmDefinition {
                name,
                ..d.arms[0].clone()
            });
        }
    });
    assert!(message.contains("2 to 8 arms, not 9"), "{message}");
    let (_, message) = said(&engine, |d| d.arms[1].name = "control".into());
    assert_eq!(message, "arms[1].name: `control` is there twice");
    let (_, message) = said(&engine, |d| d.metrics[0].direction = None);
    assert!(
        message.starts_with("metrics[0].direction: missing"),
        "{message}"
    );
    let (_, message) = said(&engine, |d| d.metrics[0].margin = None);
    assert!(
        message.starts_with("metrics[0].margin: missing"),
        "{message}"
    );
    let (_, message) = said(&engine, |d| d.metrics[0].measure = Known::Mae);
    assert!(
        message.contains("the endpoint's task is anomaly"),
        "{message}"
    );
    let (_, message) = said(&engine, |d| d.metrics.clear());
    assert!(message.contains("metrics"), "{message}");
    let (_, message) = said(&engine, |d| d.slice = [0.5, 0.2]);
    assert!(message.starts_with("slice: "), "{message}");
    let (_, message) = said(&engine, |d| d.horizon_s = f64::NAN);
    assert!(message.starts_with("horizon_s: NaN"), "{message}");
    let (_, message) = said(&engine, |d| d.name = "No Name".into());
    assert!(message.starts_with("name: "), "{message}");
}

#[test]
fn a_canary_grows_from_the_version_in_production() {
    let engine = engine();
    let said = |change: fn(&mut Definition)| {
        let mut definition = canary("one");
        change(&mut definition);
        definition
            .check(&engine)
            .expect_err("it is refused")
            .message
    };
    assert!(said(|d| d.ramp.clear()).starts_with("ramp: 0 steps"));
    assert!(said(|d| d.ramp[1].share = 0.005).contains("a ramp only grows"));
    assert!(said(|d| d.arms[0].version = "autoencoder/1.0.0".into()).contains("in production"));
    assert!(said(|d| d.arms[0].weight = Some(0.5)).starts_with("arms: a canary has two"));
}

#[test]
fn a_bandit_has_a_floor_and_learns_from_a_mean() {
    let engine = engine();
    bandit("one").check(&engine).expect("a good one");
    let said = |change: fn(&mut Definition)| {
        let mut definition = bandit("one");
        change(&mut definition);
        definition.check(&engine).expect_err("refused").message
    };
    assert!(said(|d| d.floor = 0.7).starts_with("floor: 0.7"));
    assert!(said(|d| d.arms[0].weight = Some(0.5)).contains("it learns them"));
    assert!(said(|d| d.coverage = 0.5).contains("smaller slice"));
    assert!(said(|d| d.metrics[0].form = Some(Form::Ratio)).contains("a bandit learns from"));
}

#[test]
fn a_shadow_has_no_weights_and_takes_no_layer() {
    let engine = engine();
    let mut shadow = definition("one", Kind::Shadow);
    shadow.metrics[0].measure = Known::Disagreement;
    shadow.check(&engine).expect("a good one");
    shadow
        .check_layer([&ab("two")].into_iter())
        .expect("no layer");
    ab("two")
        .check_layer([&shadow].into_iter())
        .expect("no layer");
    let mut weighted = shadow.clone();
    weighted.arms[0].weight = Some(0.5);
    let said = weighted.check(&engine).expect_err("refused").message;
    assert!(said.starts_with("arms: a shadow has no weights"), "{said}");
    shadow.metrics[0].measure = Known::Nacks;
    let said = shadow.check(&engine).expect_err("refused").message;
    assert!(said.contains("in a shadow"), "{said}");
    let said = said_of_ab(&engine, Known::Disagreement);
    assert!(said.contains("`disagreement` cannot be measured"), "{said}");
}

fn said_of_ab(engine: &Engine, measure: Known) -> String {
    said(engine, |definition| definition.metrics[0].measure = measure).1
}

#[test]
fn a_second_experiment_on_a_layer_is_refused_with_the_name_of_the_first() {
    let (first, mut second) = (ab("one"), ab("two"));
    let error = second.check_layer([&first].into_iter()).expect_err("taken");
    assert_eq!(error.code, "layer_taken");
    assert!(error.message.contains("`one`"), "{}", error.message);
    second.layer = "other".into();
    second
        .check_layer([&first].into_iter())
        .expect("another layer");
    second.layer = first.layer.clone();
    second.independent = true;
    second
        .check_layer([&first].into_iter())
        .expect("independent");
}

#[test]
fn a_definition_comes_back_from_what_is_stored() {
    for definition in [ab("one"), canary("two")] {
        let text = serde_json::to_string(&definition).expect("JSON");
        let back: Definition = serde_json::from_str(&text).expect("a definition");
        assert_eq!(back, definition);
    }
    let unknown =
        r#"{"name":"a","endpoint":"e","kind":"ab","arms":[],"metrics":[],"colour":"red"}"#;
    let error = serde_json::from_str::<Definition>(unknown).expect_err("refused");
    assert!(error.to_string().contains("colour"), "{error}");
}
