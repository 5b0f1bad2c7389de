//! `cargo xtask ci`: everything that must hold, in order, each stage with its time.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use pglb_tests::clock;

use crate::{demo, interrupt, kernels, setup, stage, tests, tests::Totals, tidy};

/// Runs every stage; those after a failed one still run, so that one push shows all that is wrong.
pub(crate) fn run() -> Result<()> {
    interrupt::prepare("ci")?;
    let (mut totals, mut elsewhere) = (Totals::default(), Totals::default());
    let stages: [(&str, &mut dyn FnMut() -> Result<()>); 9] = [
        ("set-up", &mut setup::run),
        ("format", &mut || cargo(&["fmt", "--all", "--check"])),
        ("clippy", &mut || lint_userspace()),
        ("clippy of the kernel programs", &mut lint_kernel_programs),
        ("dependencies", &mut check_dependencies),
        ("tidy", &mut tidy::run),
        ("tests", &mut || {
            totals = tests::run_all()?;
            totals.check()
        }),
        ("demo", &mut demo::show),
        ("an older kernel", &mut || {
            elsewhere = kernels::check()?;
            Ok(())
        }),
    ];
    let mut results = Vec::new();
    for (name, stage) in stages {
        println!("\n== {name}");
        stage::flush();
        let started = clock::now();
        let outcome = stage();
        if let Err(error) = &outcome {
            println!("== {name} failed: {error:#}");
        }
        results.push((name, outcome.is_ok(), stage::elapsed(started)));
    }
    println!();
    for (name, is_ok, time) in &results {
        println!(
            "{:<30} {:<6} {time:>9}",
            name,
            if *is_ok { "ok" } else { "FAILED" }
        );
    }
    totals += elsewhere;
    println!("\n{totals}");
    let failed: Vec<&str> = results
        .iter()
        .filter(|(_, is_ok, _)| !is_ok)
        .map(|(name, ..)| *name)
        .collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn lint_userspace() -> Result<()> {
    // Not `--workspace`: a feature that userspace turns on in `lb-common` would be on for the kernel program too.
    let packages = [
        "lb-common",
        "lb-userspace",
        "xtask",
        "pglb-tests",
        "pglb-bench",
    ]
    .map(|name| ["--package", name]);
    let mut arguments = vec!["clippy", "--all-targets", "--quiet"];
    arguments.extend(packages.iter().flatten());
    arguments.extend(["--", "--deny", "warnings"]);
    cargo(&arguments)
}

fn lint_kernel_programs() -> Result<()> {
    let toolchain = setup::ready_linter()?;
    let mut clippy = Command::new("rustup");
    clippy.args([
        "run",
        &toolchain,
        "cargo",
        "clippy",
        "--quiet",
        "--package",
        "lb-ebpf",
        "--package",
        "bench-ebpf",
    ]);
    clippy.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    // A directory of its own: another compiler would throw away what the build has made.
    clippy.args(["--target-dir", "target/lint", "--", "--deny", "warnings"]);
    // Debian's compiler is a stable one, which takes `-Z` flags only when it is told to.
    clippy
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    stage::run_visibly(&mut clippy)
}

fn check_dependencies() -> Result<()> {
    let Some(deny) = setup::ready_deny()? else {
        bail!("cargo-deny is not there after its installation")
    };
    // Duplicate versions are only shown, and nobody reads them here.
    stage::run_visibly(
        Command::new(deny)
            .args(["check", "--hide-inclusion-graph"])
            .args(["--allow", "duplicate", "bans", "licenses", "sources"]),
    )
}

fn cargo(arguments: &[&str]) -> Result<()> {
    stage::run_visibly(Command::new("cargo").args(arguments))
}
