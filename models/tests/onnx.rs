//! Models of every framework, exported: the plan answers as ONNX Runtime does, alone and in a batch, and no damage makes it panic.
//!
//! The models and their answers lie in `onnx/`, made by `onnx/make.py`.

#[path = "onnx/cases.rs"]
mod cases;

use std::path::Path;

use cases::{Case, cases};
use proptest::prelude::*;
use serde_json::Value;
use tidegate_models::onnx::{self, Plan};
use tidegate_models::{Network, Port, PortKind};

/// Runs the rows as one stream; the outputs, and the state behind the last.
fn run(plan: &Plan, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut state = vec![0.0; plan.state_len()];
    plan.init(&mut state);
    // What scratch holds beforehand must not matter.
    let mut scratch = vec![f32::NAN; plan.scratch_len()];
    let one = |row: &Vec<f32>| {
        let mut output = vec![f32::NAN; plan.outputs()];
        plan.step(&mut state, row, &mut output, &mut scratch);
        output
    };
    rows.iter().map(one).collect()
}

/// Whether a port's numbers are what was answered; the mistake otherwise.
fn compare(port: &Port, got: &[f32], answered: &[Value]) -> Result<(), String> {
    if got.len() != answered.len() {
        return Err(format!(
            "{} numbers, answered {}",
            got.len(),
            answered.len()
        ));
    }
    for (got, answered) in got.iter().zip(answered) {
        if port.kind == PortKind::Class {
            let index = *got as usize;
            let label = port
                .classes
                .as_ref()
                .map_or_else(|| index.to_string(), |classes| classes[index].clone());
            let right = answered
                .as_str()
                .map_or_else(|| answered.to_string(), str::to_owned);
            if label != right {
                return Err(format!("label {label}, answered {right}"));
            }
            continue;
        }
        let right = match answered {
            Value::Bool(truth) => f64::from(u8::from(*truth)),
            other => other.as_f64().unwrap_or(f64::NAN),
        };
        let off = (f64::from(*got) - right).abs();
        if !(off <= 1e-5 * right.abs().max(1.0) || got.is_nan() && right.is_nan()) {
            return Err(format!("{got}, answered {right}"));
        }
    }
    Ok(())
}

#[test]
fn every_model_answers_as_onnx_runtime_does() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() > 80, "only {} cases", cases.len());
    for case in &cases {
        let plan = match onnx::compile(&case.read(), &case.file(), &case.options()) {
            Ok(plan) => plan,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        assert!(!plan.is_build_bound());
        let mut reasons = Vec::new();
        for (index, output) in run(&plan, &case.rows()).iter().enumerate() {
            for port in plan.ports() {
                let answered = &case.outputs[&port.name][index];
                if let Err(reason) = compare(port, &output[port.range.clone()], answered) {
                    reasons.push(format!(
                        "{}, row {index}, {}: {reason}",
                        case.name, port.name
                    ));
                }
            }
        }
        wrong.extend(reasons.into_iter().take(3));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_model_agrees_with_its_reference() {
    let mut wrong = Vec::new();
    for case in cases() {
        let plan = case.plan();
        let rows = case.rows();
        let mut state = vec![0.0; plan.state_len()];
        for (index, (row, got)) in rows.iter().zip(run(&plan, &rows)).enumerate() {
            let exact = plan.reference(&mut state, row).expect("a reference");
            let off = |(got, exact): (&f32, &f32)| {
                (got - exact).abs() > 1e-5 * exact.abs().max(1.0) || got.is_nan() != exact.is_nan()
            };
            if exact.len() != got.len() || got.iter().zip(&exact).any(off) {
                wrong.push(format!(
                    "{}, row {index}: {got:?}, reference {exact:?}",
                    case.name
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_has_the_same_bits_in_a_batch() {
    for case in cases().iter().filter(|case| case.states.is_empty()) {
        let plan = case.plan();
        let rows = case.rows();
        let alone: Vec<u32> = run(&plan, &rows)
            .concat()
            .iter()
            .map(|value| value.to_bits())
            .collect();
        let mut outputs = vec![0.0; rows.len() * plan.outputs()];
        let mut states: Vec<&mut [f32]> = rows.iter().map(|_| &mut [][..]).collect();
        let mut scratch = vec![7.0; plan.scratch_len()];
        plan.step_rows(&mut states, &rows.concat(), &mut outputs, &mut scratch);
        let batched: Vec<u32> = outputs.iter().map(|value| value.to_bits()).collect();
        assert_eq!(alone, batched, "{}", case.name);
    }
}

#[test]
fn the_document_is_what_the_compiler_supports() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ONNX.md");
    let text = onnx::supported_operators();
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::write(&path, &text).expect("docs/ONNX.md");
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == text,
        "docs/ONNX.md is out of date; write it with TIDEGATE_BLESS=1 cargo test -p tidegate-models --test onnx"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_file_makes_it_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let cases = CASES.get_or_init(cases);
        let case = &cases[which.index(cases.len())];
        let mut files = case.read();
        let file = files.get_mut(&case.file()).expect("the model").to_mut();
        for (at, byte) in &changes {
            let at = at.index(file.len());
            file[at] = *byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(plan) = onnx::compile(&files, &case.file(), &case.options()) {
            // What still compiles still runs.
            run(&plan, &case.rows()[..1]);
        }
    }
}

static CASES: std::sync::OnceLock<Vec<Case>> = std::sync::OnceLock::new();
