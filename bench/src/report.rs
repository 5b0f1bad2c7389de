//! The result: one row for each case.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cases::{Bar, Case, Traffic};
use crate::measure::Samples;
use crate::memory::Memory;
use crate::subjects::{Program, Subject};

/// Everything that was measured, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) command: String,
    pub(crate) rounds: u32,
    pub(crate) repetitions: u32,
    pub(crate) rows: Vec<Row>,
    pub(crate) memory: Memory,
}

/// One case; all times in nanoseconds for a packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// IPv4 or IPv6.
    pub(crate) family: String,
    pub(crate) traffic: Traffic,
    pub(crate) flows: usize,
    /// pglb with the feeder: the median, and between which values four of five samples lie.
    pub(crate) gross: f64,
    pub(crate) gross_p10: f64,
    pub(crate) gross_p90: f64,
    /// The feeder with `return XDP_TX`.
    pub(crate) floor: f64,
    /// pglb alone.
    pub(crate) net: f64,
    /// What the reference programs take, net; only for packets of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) references: Option<References>,
    /// pglb to the whole reference program over the same flows; over one flow where there is
    /// none for the same.
    pub(crate) to_rewrite: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bar: Option<f64>,
}

/// Net times of the reference programs, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct References {
    pub(crate) parse: f64,
    pub(crate) find: f64,
    pub(crate) rewrite: f64,
}

impl Row {
    /// Whether it stays under its bar, if it has one.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.bar.map(|bar| self.net <= bar)
    }

    /// Whether both are of the same case.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (&self.family, self.traffic, self.flows) == (&other.family, other.traffic, other.flows)
    }
}

/// One row for each case of the subjects.
pub(crate) fn rows(subjects: &[Subject], samples: &[Samples]) -> Result<Vec<Row>> {
    let find = |case: Case, program: Program| {
        let mut all = subjects.iter().zip(samples);
        all.find(|(subject, _)| subject.case == case && subject.program == program)
            .map(|(_, samples)| samples)
    };
    let net = |case: Case, program: Program| {
        let floor = find(case, Program::Answer)?.median();
        Some(find(case, program)?.median() - floor)
    };
    let of_pglb = subjects.iter().filter(|it| it.program == Program::Pglb);
    of_pglb
        .map(|Subject { case, .. }| {
            let case = *case;
            let samples = find(case, Program::Pglb).context("pglb was not measured")?;
            let floor = find(case, Program::Answer).context("no floor was measured")?;
            let references = net(case, Program::Parse)
                .zip(net(case, Program::Find))
                .zip(net(case, Program::Rewrite))
                .map(|((parse, find), rewrite)| References {
                    parse,
                    find,
                    rewrite,
                });
            let hot = Case {
                traffic: Traffic::ToBackend,
                flows: 1,
                ..case
            };
            let rewrite = references
                .map(|references| references.rewrite)
                .or_else(|| net(hot, Program::Rewrite))
                .context("no reference was measured")?;
            let net = samples.median() - floor.median();
            Ok(Row {
                family: case.family.name().to_owned(),
                traffic: case.traffic,
                flows: case.flows,
                gross: tenths(samples.median()),
                gross_p10: tenths(samples.quantile(1)),
                gross_p90: tenths(samples.quantile(9)),
                floor: tenths(floor.median()),
                net: tenths(net),
                references: references.map(|it| References {
                    parse: tenths(it.parse),
                    find: tenths(it.find),
                    rewrite: tenths(it.rewrite),
                }),
                to_rewrite: (net / rewrite * 100.0).round() / 100.0,
                bar: case.bar().map(|bar| match bar {
                    Bar::Nanoseconds(bar) => bar,
                    Bar::HalfOfRewrite => tenths(rewrite / 2.0),
                }),
            })
        })
        .collect()
}

/// Rounded to a tenth: what is below is noise.
fn tenths(time: f64) -> f64 {
    (time * 10.0).round() / 10.0
}

/// The kernel's version.
pub(crate) fn kernel() -> Result<String> {
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").context("no kernel version")?;
    Ok(version.trim().to_owned())
}

/// The CPU's name, and how many of them there are.
pub(crate) fn cpu() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split(": ").nth(1)?.trim().to_owned())
    };
    let name = value("model name").unwrap_or_else(|| "a CPU without a name".to_owned());
    let numbers = value("cpu family").zip(value("model\t"));
    let numbers = numbers.map(|(family, model)| format!(", family {family} model {model}"));
    let count = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Ok(format!(
        "{name}{}, {count} virtual cores",
        numbers.unwrap_or_default()
    ))
}

/// The command that makes such a report.
pub(crate) fn command() -> String {
    let words = std::env::args().skip(1).filter(|word| word != "--save");
    let words: Vec<_> = ["cargo", "xtask", "bench"]
        .map(str::to_owned)
        .into_iter()
        .chain(words)
        .collect();
    words.join(" ")
}
