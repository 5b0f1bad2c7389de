//! The kernel accepts the program, and the program has not grown unnoticed.
#![expect(
    clippy::print_stdout,
    reason = "the difference to the budget is worth reading"
)]

mod program;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};

/// The figures of today; a change of the program changes them in the same commit.
const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/budget.txt");
/// What the names of tables begin with: their sizes follow from the source, and are exact.
const TABLE: &str = "table-bytes/";

/// A figure by its name.
type Figures = BTreeMap<String, u64>;

#[test]
fn the_program_loads_within_its_budget() -> Result<()> {
    let text = fs::read_to_string(BUDGET).with_context(|| format!("cannot read {BUDGET}"))?;
    let budget = read(&text)?;
    let figures = figures()?;
    let mut over = Vec::new();
    for name in budget
        .keys()
        .chain(figures.keys().filter(|it| !budget.contains_key(*it)))
    {
        let (now, then) = (figures.get(name), budget.get(name));
        println!("{}", difference(name, now, then));
        if !is_within(name, now, then) {
            over.push(difference(name, now, then));
        }
    }
    ensure!(
        over.is_empty(),
        "not as {BUDGET} has it:\n{}\nmake the program smaller, or write the new figures there and say why:\n\n{}",
        over.join("\n"),
        written(&figures)
    );
    Ok(())
}

#[test]
fn the_program_loads_with_every_constant_on() -> Result<()> {
    for constants in [
        [("DEBUG_DATAPATH", 1), ("REDIRECT_BACK", 0)],
        [("DEBUG_DATAPATH", 1), ("REDIRECT_BACK", 1)],
    ] {
        program::with_constants(&constants, |program| program.info())?;
    }
    Ok(())
}

fn figures() -> Result<Figures> {
    let info = program::with_program(|program| program.info())?;
    let instructions = info
        .verified_instruction_count()
        .context("the kernel is older than 5.16 and does not count")?;
    let translated = info
        .size_translated()
        .context("the kernel hides the program's size")?;
    let mut figures = Figures::from([
        ("verified-instructions".to_owned(), instructions.into()),
        ("translated-bytes".to_owned(), translated.into()),
        ("machine-code-bytes".to_owned(), info.size_jitted().into()),
        (
            "stack-bytes".to_owned(),
            program::object::stack_depth()?.into(),
        ),
    ]);
    let tables = program::object::table_sizes()?.into_iter();
    figures.extend(tables.map(|(name, size)| (format!("{TABLE}{name}"), size)));
    Ok(figures)
}

/// A table must be as it was; everything else may be a tenth larger, since compilers and kernels differ.
fn is_within(name: &str, now: Option<&u64>, then: Option<&u64>) -> bool {
    match (now, then) {
        (Some(now), Some(then)) if name.starts_with(TABLE) => now == then,
        (Some(now), Some(then)) => *now <= then + then / 10,
        (None, _) | (_, None) => false,
    }
}

fn difference(name: &str, now: Option<&u64>, then: Option<&u64>) -> String {
    match (now, then) {
        (Some(now), Some(then)) => {
            let difference = now.cast_signed() - then.cast_signed();
            format!("{name:<32} {now:>10} {difference:>+9} to the budget of {then}")
        }
        (Some(now), None) => format!("{name:<32} {now:>10} is new"),
        (None, Some(then)) => format!("{name:<32} {:>10} is gone, was {then}", ""),
        (None, None) => String::new(),
    }
}

fn read(text: &str) -> Result<Figures> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let figure = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    lines
        .map(|line| {
            figure(line).with_context(|| format!("{BUDGET}: `{line}` is no name and number"))
        })
        .collect()
}

fn written(figures: &Figures) -> String {
    let mut text = String::new();
    for (name, figure) in figures {
        let _ = writeln!(text, "{name:<32} {figure}");
    }
    text
}

#[test]
fn a_figure_that_grows_comes_or_goes_is_noticed() {
    for (name, now, then, is_fine) in [
        ("stack-bytes", Some(110), Some(100), true),
        ("stack-bytes", Some(111), Some(100), false),
        ("stack-bytes", Some(10), Some(100), true),
        ("table-bytes/A", Some(99), Some(100), false),
        ("table-bytes/A", Some(100), Some(100), true),
        ("table-bytes/A", Some(100), None, false),
        ("table-bytes/A", None, Some(100), false),
    ] {
        assert_eq!(
            is_within(name, now.as_ref(), then.as_ref()),
            is_fine,
            "{name}"
        );
    }
}
