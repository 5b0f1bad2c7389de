//! Measures pglb's XDP program against programs that do a known part of its work.
//!
//! Everything runs in one thread on one CPU through `BPF_PROG_TEST_RUN`: all programs in turn, in
//! every round, the first one another each time. Time is CPU time of that thread.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

mod cases;
mod compare;
mod feeder;
mod flows;
mod frame;
mod measure;
mod memory;
mod parts;
mod references;
mod report;
mod show;
mod subjects;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::cases::Extent;
use crate::feeder::Feeder;
use crate::measure::Effort;
use crate::report::Report;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about)]
struct Arguments {
    /// See that every case runs and does what it should; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// How often each program is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Packets of one measurement
    #[arg(long, default_value_t = 200_000)]
    repetitions: u32,
    /// The CPU to measure on [default: the last]
    #[arg(long)]
    cpu: Option<usize>,
    /// Measure what the parts of handling a packet cost, instead of the whole
    #[arg(long)]
    parts: bool,
    /// Measure only the packets whose name has this in it, as "SYN" or "not ours"
    #[arg(long, value_name = "TEXT", conflicts_with = "save")]
    only: Option<String>,
    /// Write the result to a file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace the committed result, docs/benchmarks.json and the table in docs/benchmarks.md
    #[arg(long, conflicts_with = "quick")]
    save: bool,
}

impl Arguments {
    fn effort(&self) -> Effort {
        if self.quick {
            Effort {
                rounds: 3,
                repetitions: 1_000,
            }
        } else {
            Effort {
                rounds: self.rounds,
                repetitions: self.repetitions,
            }
        }
    }

    fn extent(&self) -> Extent {
        if self.quick {
            Extent::QUICK
        } else {
            Extent::FULL
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        pglb_tests::is_root(),
        "the bench loads programs into the kernel, which needs root"
    );
    pglb_tests::topology::sweep();
    if arguments.parts {
        return world::enter(world::DEFAULT_CONNECTIONS, |world| {
            pin_to(arguments.cpu)?;
            let mut feeder = Feeder::load()?;
            let prices =
                parts::measure(&mut feeder, world, arguments.extent(), arguments.effort())?;
            show::prices(&prices);
            Ok(())
        });
    }
    let report = measure_all(arguments)?;
    let committed = compare::committed()?;
    // Written before it is shown: whoever reads the beginning only still has the whole.
    if let Some(file) = &arguments.json {
        compare::write(file, &report)?;
    }
    if arguments.save {
        compare::save(&report)?;
    }
    show::report(&report, committed.as_ref());
    Ok(())
}

fn measure_all(arguments: &Arguments) -> Result<Report> {
    let (extent, effort) = (arguments.extent(), arguments.effort());
    let rows = world::enter(world::DEFAULT_CONNECTIONS, |world| {
        pin_to(arguments.cpu)?;
        let mut feeder = Feeder::load()?;
        let subjects = subjects::prepare(&mut feeder, world, extent, arguments.only.as_deref())?;
        for subject in &subjects {
            subject.check(&mut feeder)?;
        }
        let samples = measure::in_turn(&mut feeder, &subjects, effort)?;
        report::rows(&subjects, &samples)
    })?;
    Ok(Report {
        kernel: report::kernel()?,
        cpu: report::cpu()?,
        command: report::command(),
        rounds: effort.rounds,
        repetitions: effort.repetitions,
        rows,
        memory: memory::measure()?,
    })
}

/// Keeps this thread on one CPU, so that nothing it measures moves. The first is avoided, because
/// most interrupts go there.
fn pin_to(cpu: Option<usize>) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| matches!(allowed.is_set(*cpu), Ok(true)));
    let cpu = cpu.or(last).context("there is no CPU to run on")?;
    let mut set = CpuSet::new();
    set.set(cpu)
        .with_context(|| format!("there is no CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot keep to CPU {cpu}"))
}
