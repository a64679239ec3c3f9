//! Figures beside their targets, as one table a benchmark, in Markdown: it can be read, pasted and picked out of other output.
//!
//! A figure without a target is told for its own sake. A missed target is said, never an error: machines differ.

/// What a benchmark found.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

struct Figure {
    name: String,
    measured: String,
    target: String,
    met: &'static str,
}

impl Figures {
    /// A figure with its target.
    pub fn aim(
        &mut self,
        name: impl Into<String>,
        measured: impl Into<String>,
        target: impl Into<String>,
        met: bool,
    ) {
        self.0.push(Figure {
            name: name.into(),
            measured: measured.into(),
            target: target.into(),
            met: if met { "yes" } else { "no" },
        });
    }

    /// A figure without a target.
    pub fn note(&mut self, name: impl Into<String>, measured: impl Into<String>) {
        self.0.push(Figure {
            name: name.into(),
            measured: measured.into(),
            target: String::new(),
            met: "",
        });
    }

    /// At least so many a second.
    pub fn at_least(&mut self, name: impl Into<String>, per_s: f64, least: f64) {
        let target = format!(">= {}", thousands(least));
        self.aim(name, thousands(per_s), target, per_s >= least);
    }

    pub fn print(&self) {
        println!("\n| figure | measured | target | met |");
        println!("|---|---|---|---|");
        for Figure {
            name,
            measured,
            target,
            met,
        } in &self.0
        {
            println!("| {name} | {measured} | {target} | {met} |");
        }
    }
}

/// A whole number with a comma every three digits.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
