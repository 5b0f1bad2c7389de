//! A subject is one program over one case: its packets, and what it must make of them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;

use crate::cases::{Case, Extent, Traffic};
use crate::feeder::{Feed, Feeder};
use crate::flows::{Random, clients};
use crate::frame::{self, Content, Family, build};
use crate::references;
use crate::world::{self, Connection, World, stranger, vip};

/// The XDP actions that occur, by their numbers in the kernel.
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    /// (a): `return XDP_TX`. With the feeder before it, it is the floor of all others.
    Answer,
    /// (b): headers read and checked.
    Parse,
    /// (c): and the flow found in a HASH of a million; the service of a new one.
    Find,
    /// (d): and rewritten, checksums and MAC addresses included, and counted; a new one is put into
    /// an `LRU_HASH`, both ways.
    Rewrite,
    /// pglb's own.
    Pglb,
}

/// One program over one case.
pub(crate) struct Subject {
    pub(crate) case: Case,
    pub(crate) program: Program,
    pub(crate) feed: Feed,
    pub(crate) code: ProgramFd,
    /// The right XDP action, where it matters.
    expected: Option<u32>,
    /// Between which ends the first packet goes afterwards.
    ends: Option<(SocketAddr, SocketAddr)>,
}

impl Subject {
    /// A program whose outcome is not looked at.
    pub(crate) fn free(case: Case, feed: Feed, code: ProgramFd) -> Self {
        Self {
            case,
            program: Program::Pglb,
            feed,
            code,
            expected: None,
            ends: None,
        }
    }

    /// Runs the program once on each flow, which must have the right outcome, and looks at the
    /// bytes that come out for the first.
    pub(crate) fn check(&self, feeder: &mut Feeder) -> Result<()> {
        for index in 0..self.feed.flows {
            let outcome = feeder.run_once(&self.feed, &self.code, index)?;
            self.check_action(outcome.action)
                .with_context(|| format!("packet {index}"))?;
            if let Some(ends) = self.ends
                && index == 0
            {
                let found = frame::read(&outcome.frame)
                    .with_context(|| format!("{:?} of {:?}", self.program, self.case))?;
                ensure!(
                    found == ends,
                    "{:?} made {found:?} of {:?}",
                    self.program,
                    self.case
                );
            }
        }
        Ok(())
    }

    /// Refuses another XDP action than the right one.
    pub(crate) fn check_action(&self, action: u32) -> Result<()> {
        if let Some(expected) = self.expected {
            ensure!(
                expected == action,
                "{:?} gave a packet XDP action {action} and not {expected}: {:?}",
                self.program,
                self.case
            );
        }
        Ok(())
    }
}

/// Connects the clients of every family and makes every subject.
pub(crate) fn prepare(
    feeder: &mut Feeder,
    world: &World,
    extent: Extent,
    only: Option<&str>,
) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for family in world::FAMILIES {
        let clients = clients(*family, extent.connections() + extent.opening, 1);
        let (known, new) = clients.split_at(extent.connections());
        let connections = world.establish(known)?;
        references::fill(feeder, &connections)?;
        if let Some(connection) = connections.first() {
            references::serve(feeder, *family, connection.backend)?;
        }
        let cases = extent.cases(*family).into_iter();
        // The hot flow is what all others are held against.
        let is_wanted = |case: &Case| {
            case.flows == 1 && case.traffic == Traffic::ToBackend
                || only.is_none_or(|text| case.traffic.name().contains(text))
        };
        for case in cases.filter(is_wanted) {
            add_case(&mut subjects, feeder, world, case, &connections, new)?;
        }
    }
    Ok(subjects)
}

fn add_case(
    subjects: &mut Vec<Subject>,
    feeder: &mut Feeder,
    world: &World,
    case: Case,
    connections: &[Connection],
    new: &[SocketAddr],
) -> Result<()> {
    let (frames, ends) = frames(case, connections, new);
    let feed = feeder.prepare(&frames)?;
    let programs: &[Program] = if case.traffic.is_ours() {
        use Program::{Answer, Find, Parse, Pglb, Rewrite};
        &[Answer, Parse, Find, Rewrite, Pglb]
    } else {
        &[Program::Answer, Program::Pglb]
    };
    for program in programs {
        let is_rewritten = matches!(program, Program::Rewrite | Program::Pglb);
        subjects.push(Subject {
            case,
            program: *program,
            feed: feed.clone(),
            code: match reference(*program, case) {
                Some(name) => feeder.reference(name)?,
                None => world.program()?,
            },
            expected: Some(match (program, case.traffic) {
                (Program::Answer | Program::Parse | Program::Find | Program::Rewrite, _) => TX,
                (Program::Pglb, Traffic::Stranger | Traffic::Datagram) => PASS,
                (Program::Pglb, Traffic::ToBackend | Traffic::ToClient | Traffic::Opening) => {
                    REDIRECT
                }
            }),
            ends: ends.filter(|_| is_rewritten),
        });
    }
    Ok(())
}

fn reference(program: Program, case: Case) -> Option<&'static str> {
    let is_new = case.traffic == Traffic::Opening;
    Some(match (program, case.family, is_new) {
        (Program::Answer, ..) => "answer",
        (Program::Parse, Family::V4, _) => "parse_v4",
        (Program::Parse, Family::V6, _) => "parse_v6",
        (Program::Find, Family::V4, false) => "find_v4",
        (Program::Find, Family::V6, false) => "find_v6",
        (Program::Rewrite, Family::V4, false) => "rewrite_v4",
        (Program::Rewrite, Family::V6, false) => "rewrite_v6",
        (Program::Find, Family::V4, true) => "seek_v4",
        (Program::Find, Family::V6, true) => "seek_v6",
        (Program::Rewrite, Family::V4, true) => "open_v4",
        (Program::Rewrite, Family::V6, true) => "open_v6",
        (Program::Pglb, ..) => return None,
    })
}

type Ends = (SocketAddr, SocketAddr);

/// The packets of a case in the order in which they come, and where the first goes if it is ours.
pub(crate) fn frames(
    case: Case,
    connections: &[Connection],
    new: &[SocketAddr],
) -> (Vec<Vec<u8>>, Option<Ends>) {
    let (vip, stranger) = (vip(case.family), stranger(case.family));
    // The tables hold entries in the order of their making: walking them in that order would hide
    // what a packet that comes when it likes has to wait for.
    let mut some: Vec<_> = connections.iter().take(case.flows).copied().collect();
    Random(2).shuffle(&mut some);
    let to = |content| move |client: &SocketAddr| build(*client, stranger, content);
    let new = new.iter().take(case.flows);
    match case.traffic {
        Traffic::ToBackend => (
            some.iter()
                .map(|it| build(it.client, vip, Content::Data))
                .collect(),
            some.first().map(|it| (it.client, it.backend)),
        ),
        Traffic::ToClient => (
            some.iter()
                .map(|it| build(it.backend, it.client, Content::Data))
                .collect(),
            some.first().map(|it| (vip, it.client)),
        ),
        Traffic::Opening => (
            new.map(|client| build(*client, vip, Content::Syn))
                .collect(),
            None,
        ),
        Traffic::Stranger => (new.map(to(Content::Data)).collect(), None),
        Traffic::Datagram => (new.map(to(Content::Datagram)).collect(), None),
    }
}
