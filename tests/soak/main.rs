//! `soak [SCENARIO] [RUNS]`: one scenario, for long or with many at once, checked as in the suites; a table of what it came
//! to; the exit code is 1 when a bound is broken. `soak list` names them all. See `scripts/soak`.

#![expect(clippy::print_stdout, reason = "a command-line program")]

mod endings;
mod followers;
mod groups;
mod held;
mod many;
mod readers;
mod short;

use std::process::ExitCode;

/// A file of this folder.
struct Scenario {
    name: &'static str,
    about: &'static str,
    /// How often, when nobody says.
    runs: u64,
    /// Runs it so often, on runtimes of its own. Whether all bounds held.
    run: fn(u64) -> bool,
}

/// The first is the one that is meant when none is named.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "endings",
        about: "calls that are ended in every way, whatever they do about it",
        runs: 10_000,
        run: endings::run,
    },
    Scenario { name: "short", about: "calls of a millisecond", runs: 100_000, run: short::run },
    Scenario {
        name: "many",
        about: "so many sleeping tools at once, and nothing left when all are cancelled",
        runs: 2_000,
        run: many::run,
    },
    Scenario {
        name: "readers",
        about: "so many rounds of a thousand readers that vanish",
        runs: 20,
        run: readers::run,
    },
    Scenario {
        name: "groups",
        about: "so many groups of five calls, of which one hangs",
        runs: 1_000,
        run: groups::run,
    },
    Scenario {
        name: "followers",
        about: "so many seconds of 500 followers whose sources are opened anew every second",
        runs: 600,
        run: followers::run,
    },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let named = |name: &str| SCENARIOS.iter().find(|scenario| scenario.name == name);
    let number = |word: &str| word.parse::<u64>().ok();
    let (scenario, runs) = match words[..] {
        ["list"] => {
            SCENARIOS.iter().for_each(|scenario| println!("{:<10} {}", scenario.name, scenario.about));
            return ExitCode::SUCCESS;
        }
        [] => (SCENARIOS.first(), None),
        [word] if number(word).is_some() => (SCENARIOS.first(), number(word)),
        [name] => (named(name), None),
        [name, runs] if number(runs).is_some() => (named(name), number(runs)),
        _ => (None, None),
    };
    let Some(scenario) = scenario else {
        println!("usage: soak [SCENARIO] [RUNS]; `soak list` names the scenarios");
        return ExitCode::from(64);
    };
    println!("== {}: {}", scenario.name, scenario.about);
    if (scenario.run)(runs.unwrap_or(scenario.runs)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
