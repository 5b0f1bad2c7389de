//! Every case of the bench runs and has the right outcome. How fast it is, is not looked at.

use std::process::Command;

use anyhow::{Result, ensure};

#[test]
fn every_case_runs() -> Result<()> {
    let output = run(&["--quick"])?;
    for traffic in [
        "client to backend",
        "backend to client",
        "SYN of a new flow",
        "not ours, TCP",
        "not ours, UDP",
        "bytes for a connection",
    ] {
        ensure!(output.contains(traffic), "no {traffic} in:\n{output}");
    }
    Ok(())
}

#[test]
fn every_part_runs() -> Result<()> {
    let output = run(&["--quick", "--parts"])?;
    ensure!(output.contains("... and redirect"), "{output}");
    Ok(())
}

fn run(arguments: &[&str]) -> Result<String> {
    ensure!(
        pglb_tests::is_root(),
        "this test loads programs into the kernel, which needs root"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_pglb-bench"))
        .args(arguments)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}
