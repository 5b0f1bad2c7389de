//! `cargo xtask test`: every test, with one total.

use std::{
    io::{BufRead as _, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::topology;

use crate::{interrupt, setup, stage};

/// Sets the machine up, builds, and runs the tests on the host and then those that need root.
pub(crate) fn run() -> Result<()> {
    interrupt::prepare("test")?;
    setup::run()?;
    let totals = run_all()?;
    println!("\n{totals}");
    totals.check()
}

/// Builds and runs every test and adds up their results; failed tests are in the totals, and no error.
pub(crate) fn run_all() -> Result<Totals> {
    // One selection of packages for both: with another, cargo would choose other features and build anew.
    stage::run_visibly(
        Command::new("cargo")
            .args(["build", "--all-targets"])
            .args(PACKAGES),
    )?;
    let totals = run_cargo_test()?;
    topology::sweep();
    Ok(totals)
}

/// Every package but the kernel programs, which `lb-userspace` and `bench` build for their own target.
pub(crate) const PACKAGES: [&str; 5] = [
    "--workspace",
    "--exclude",
    "lb-ebpf",
    "--exclude",
    "bench-ebpf",
];

/// How many tests passed, failed and were left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Test programs that ended badly without saying which test failed.
    broken: u32,
}

impl Totals {
    pub(crate) fn check(self) -> Result<()> {
        ensure!(self.failed == 0, "{} tests failed", self.failed);
        ensure!(
            self.broken == 0,
            "a test program did not build or did not end well"
        );
        ensure!(self.passed > 0, "no test ran");
        Ok(())
    }

    /// Reads cargo's closing line, such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let results = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |word: &str| {
            let part = results.split("; ").find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Some(Self {
            passed: count(" passed"),
            failed: count(" failed"),
            ignored: count(" ignored"),
            broken: 0,
        })
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.broken += other.broken;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed = self.failed + self.broken;
        write!(out, "{} passed, {failed} failed", self.passed)?;
        if self.ignored > 0 {
            write!(out, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

fn run_cargo_test() -> Result<Totals> {
    let mut command = Command::new("cargo");
    command
        .arg("test")
        .args(PACKAGES)
        .arg("--no-fail-fast")
        // What is ignored without root runs here, where there is root.
        .args(["--", "--include-ignored"])
        .args(left_out())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo test")?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        println!("{line}");
        totals += Totals::of_line(&line).unwrap_or_default();
    }
    if !child.wait()?.success() && totals.failed == 0 {
        totals.broken = 1;
    }
    Ok(totals)
}

/// Leaves out, and says so, what this machine's kernel cannot be asked for.
fn left_out() -> &'static [&'static str] {
    // In a network namespace of its own, which ends with the command.
    let attempt = "ip link add link lo name attempt type vlan id 1";
    let output = Command::new("unshare")
        .arg("--net")
        .args(attempt.split(' '))
        .output();
    let lacks = |text: &[u8]| String::from_utf8_lossy(text).contains("Unknown device type");
    if output.is_ok_and(|output| lacks(&output.stderr)) {
        println!(
            "this kernel has no VLAN devices: `cargo xtask ci` and `cargo xtask kernels` run the tests with \
             {VLAN_TESTS} in their names in another one"
        );
        &["--skip", VLAN_TESTS]
    } else {
        &[]
    }
}

/// What is in the names of tests that need VLAN devices.
pub(crate) const VLAN_TESTS: &str = "vlan_devices";

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ] {
            totals += Totals::of_line(line).unwrap();
        }
        assert_eq!(totals.to_string(), "5 passed, 1 failed, 1 skipped");
        assert!(Totals::of_line("test a_test ... ok").is_none());
        assert!(totals.check().is_err());
    }
}
