//! Plays every kind of world, A/A and A/B, and prints the table: `cargo run --release -p tidegate-experiments --example worlds`.

use tidegate_experiments::simulate::{Kind, Setup, Table, run};

fn main() {
    let worlds = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let worlds = worlds.unwrap_or(1_000);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let begun = std::time::Instant::now();
        let play = |effect| {
            run(
                &Setup {
                    worlds,
                    ..Setup::new(kind, effect)
                },
                2,
            )
        };
        if let (Ok(a), Ok(b)) = (play(0.0), play(0.04)) {
            without.push(a);
            with.push(b);
        }
        eprintln!("{} {:.1?}", kind.name(), begun.elapsed());
    }
    print!(
        "{}",
        Table {
            without: &without,
            with: &with
        }
    );
}
