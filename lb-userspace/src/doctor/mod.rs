//! Is this host, its cards and the network around it fit for pglb, and what should change.
//!
//! [`look`] collects [`facts`] and changes nothing; everything else is a pure function from facts
//! to findings, one file for each subject.

mod backend;
mod driver;
pub mod facts;
mod host;
mod interface;
pub mod look;
mod settings;
mod vip;

use serde::{Deserialize, Serialize};

use facts::Facts;

words! {
    /// How much a finding matters.
    pub enum Level {
        /// As it should be.
        Ok = "ok",
        /// Worth knowing, or could be better; nothing is wrong.
        Advice = "advice",
        /// It works now, or partly, or more slowly than it could.
        Warning = "warning",
        /// Connections fail, or will.
        Problem = "problem",
    }
}

/// One thing that was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about, such as `kernel`, `interface eth0` or `backend orders/pg1`.
    pub subject: String,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; `None` when there is nothing to do.
    pub remedy: Option<String>,
}

/// Everything that was found, as `pglb doctor --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The worst level among the findings.
    pub level: Level,
    /// The findings, from the host outwards.
    pub findings: Vec<Finding>,
}

/// Judges the facts.
pub fn judge(facts: &Facts) -> Diagnosis {
    let mut findings = host::judge(&facts.host);
    findings.extend(settings::judge(facts));
    for interface in &facts.interfaces {
        findings.extend(interface::judge(interface, facts));
    }
    findings.extend(interface::compare(&facts.interfaces));
    for vip in &facts.vips {
        findings.extend(vip::judge(vip, facts));
    }
    for backend in &facts.backends {
        findings.extend(backend::judge(backend, facts));
    }
    let worst = findings.iter().map(|finding| finding.level).max();
    Diagnosis {
        level: worst.unwrap_or(Level::Ok),
        findings,
    }
}

impl Finding {
    fn new(level: Level, subject: &str, what: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            level,
            what: what.into(),
            remedy,
        }
    }

    /// As it should be.
    fn ok(subject: &str, what: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, what, None)
    }

    /// What could not be seen, and why.
    fn unseen(subject: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Advice, subject, what, Some(remedy.into()))
    }

    fn advice(subject: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Advice, subject, what, Some(remedy.into()))
    }

    fn warning(subject: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, subject, what, Some(remedy.into()))
    }

    fn problem(subject: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Problem, subject, what, Some(remedy.into()))
    }
}

#[cfg(test)]
mod tests;
