//! The kernel accepts the program, and the program has not grown unnoticed.
#![expect(
    clippy::print_stdout,
    reason = "the difference to the budget is worth reading"
)]

mod program;

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// What the verifier follows today, one number; a change of the program changes it in the same commit.
const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/budget.txt");

#[test]
fn the_program_loads_within_its_budget() -> Result<()> {
    let text = fs::read_to_string(BUDGET).with_context(|| format!("cannot read {BUDGET}"))?;
    let budget: u32 = text
        .trim()
        .parse()
        .with_context(|| format!("{BUDGET} is one number"))?;
    let count = program::with_program(|program| program.verified_instructions())?;
    let difference = i64::from(count) - i64::from(budget);
    println!("{count} verified instructions, {difference:+} to the budget of {budget}");
    ensure!(
        count <= budget + budget / 10,
        "{count} verified instructions are more than 10 % over the budget of {budget}: make the program smaller, or \
         write the new number to {BUDGET} and say why"
    );
    Ok(())
}

#[test]
fn the_program_loads_with_every_constant_on() -> Result<()> {
    for constants in [
        [("DEBUG_DATAPATH", 1), ("REDIRECT_BACK", 0)],
        [("DEBUG_DATAPATH", 1), ("REDIRECT_BACK", 1)],
    ] {
        program::with_constants(&constants, |program| program.verified_instructions())?;
    }
    Ok(())
}
