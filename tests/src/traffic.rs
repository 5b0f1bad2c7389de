//! Clients under way: a stream of new connections, sessions that sit idle, and pgbench.

use std::{
    fmt, io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{clock, command, namespace::Namespace, postgres, session::Session};

/// One client that came, asked who answers, and left.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began to connect.
    pub started: Instant,
    /// How long the TCP handshake took, if it came to its end.
    pub connected_after: Option<Duration>,
    /// From the first SYN to the answer, or to the error.
    pub took: Duration,
    /// The address of the backend that answered, or what went wrong.
    pub outcome: Result<String, String>,
}

/// A stream of new connections: each worker connects, asks and leaves, again and again.
#[derive(Debug)]
pub struct Stream {
    is_over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Stream {
    /// Starts `workers` clients in a namespace, each of which pauses between two connections.
    pub fn start(
        clients: &Namespace,
        target: SocketAddr,
        workers: usize,
        pause: Duration,
    ) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        // Threads inherit the namespace of the thread that starts them.
        let workers = clients.enter(|| {
            let work = || {
                let is_over = Arc::clone(&is_over);
                thread::spawn(move || visit_until(&is_over, target, pause))
            };
            (0..workers).map(|_| work()).collect()
        })?;
        Ok(Self { is_over, workers })
    }

    /// Ends the stream, and returns every attempt in the order of their starts.
    pub fn finish(mut self) -> Vec<Attempt> {
        self.is_over.store(true, Ordering::Relaxed);
        let workers = std::mem::take(&mut self.workers);
        let mut attempts: Vec<Attempt> = workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .flatten()
            .collect();
        attempts.sort_by_key(|attempt| attempt.started);
        attempts
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn visit_until(is_over: &AtomicBool, target: SocketAddr, pause: Duration) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        attempts.push(attempt(target));
        thread::sleep(pause);
    }
    attempts
}

/// One attempt to connect and ask who answers.
pub fn attempt(target: SocketAddr) -> Attempt {
    let started = clock::now();
    let mut connected_after = None;
    let mut visit = || -> io::Result<String> {
        let mut session = Session::connect(target, PATIENCE)?;
        connected_after = Some(session.connected_after());
        session.log_in()?;
        let backend = session.ask_backend()?;
        session.close()?;
        Ok(backend)
    };
    let outcome = visit().map_err(|error| error.to_string());
    Attempt {
        started,
        connected_after,
        took: started.elapsed(),
        outcome,
    }
}

/// What a stream of connections came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How many were tried.
    pub tried: usize,
    /// The errors of those that never got a connection.
    pub refused: Vec<String>,
    /// The errors of those whose connection ended before the answer.
    pub cut: Vec<String>,
    /// Connections whose SYN had to be sent again.
    pub retried: usize,
    /// The longest TCP handshake.
    pub slowest_connect: Duration,
    /// The longest attempt, answer included.
    pub slowest: Duration,
}

impl Summary {
    /// Adds up attempts.
    pub fn of(attempts: &[Attempt]) -> Self {
        let connects = || {
            attempts
                .iter()
                .filter_map(|attempt| attempt.connected_after)
        };
        let errors = |was_connected: bool| {
            let kind = attempts
                .iter()
                .filter(move |it| it.connected_after.is_some() == was_connected);
            kind.filter_map(|attempt| attempt.outcome.clone().err())
                .collect()
        };
        Self {
            tried: attempts.len(),
            refused: errors(false),
            cut: errors(true),
            retried: connects().filter(|took| *took >= RETRY).count(),
            slowest_connect: connects().max().unwrap_or_default(),
            slowest: attempts
                .iter()
                .map(|attempt| attempt.took)
                .max()
                .unwrap_or_default(),
        }
    }

    /// Did every client get its answer?
    pub fn is_flawless(&self) -> bool {
        self.tried > 0 && self.refused.is_empty() && self.cut.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tried,
            refused,
            cut,
            retried,
            slowest,
            ..
        } = self;
        write!(out, "{tried} new connections, {} failed, ", refused.len())?;
        if !cut.is_empty() {
            write!(out, "{} cut off, ", cut.len())?;
        }
        write!(
            out,
            "{retried} retried their SYN, the slowest took {} ms",
            slowest.as_millis()
        )?;
        let mut errors = refused.iter().chain(cut);
        errors
            .next()
            .map_or(Ok(()), |error| write!(out, ", first error: {error}"))
    }
}

/// Opens sessions that stay.
pub fn open_sessions(
    clients: &Namespace,
    target: SocketAddr,
    count: usize,
) -> Result<Vec<Session>> {
    let opened = clients.enter(|| {
        (0..count)
            .map(|_| Session::open(target, PATIENCE))
            .collect::<io::Result<_>>()
    })?;
    opened.with_context(|| format!("cannot open {count} sessions at {target}"))
}

/// Silent sessions whose end is waited for.
#[derive(Debug)]
pub struct Vigil {
    expected: usize,
    ends: mpsc::Receiver<io::Result<(Instant, String)>>,
}

impl Vigil {
    /// Starts to wait for the end of every session; none of them sends anything.
    pub fn keep(sessions: Vec<Session>, limit: Duration) -> Result<Self> {
        let (send, ends) = mpsc::channel();
        let expected = sessions.len();
        for mut session in sessions {
            let send = send.clone();
            let watcher = thread::Builder::new().stack_size(128 * 1024);
            watcher.spawn(move || send.send(session.await_end(limit)))?;
        }
        Ok(Self { expected, ends })
    }

    /// Waits for all of them: when each ended and how, in the order of their ends. One that outlived the limit is
    /// an error.
    pub fn finish(self) -> Result<Vec<(Instant, String)>> {
        let mut ends = self.ends.iter().collect::<io::Result<Vec<_>>>()?;
        anyhow::ensure!(
            ends.len() == self.expected,
            "only {} of {} sessions ended",
            ends.len(),
            self.expected
        );
        ends.sort_by_key(|(when, _)| *when);
        Ok(ends)
    }
}

/// A running pgbench.
#[derive(Debug)]
pub struct Pgbench {
    child: Option<Child>,
}

impl Pgbench {
    /// Starts a read-only run (`-S`) with `clients` connections for `seconds`.
    pub fn start(
        namespace: &Namespace,
        target: SocketAddr,
        clients: u32,
        seconds: u32,
    ) -> Result<Self> {
        let mut pgbench = namespace.command(postgres::find_binaries()?.join("pgbench"));
        pgbench.args([
            "-n",
            "-S",
            "-j",
            "2",
            "-U",
            "postgres",
            "-h",
            &target.ip().to_string(),
        ]);
        pgbench.args([
            "-p",
            &target.port().to_string(),
            "-c",
            &clients.to_string(),
            "-T",
            &seconds.to_string(),
        ]);
        pgbench
            .arg("postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawn_in_own_group(&mut pgbench)?;
        Ok(Self { child: Some(child) })
    }

    /// Waits for its end and reads its report.
    pub fn finish(mut self) -> Result<Report> {
        let output = self
            .child
            .take()
            .context("pgbench has ended")?
            .wait_with_output()?;
        let (report, errors) = (
            command::text_of(&output.stdout),
            command::text_of(&output.stderr),
        );
        let figure = |label: &str| {
            let rest = report.lines().find_map(|line| line.strip_prefix(label));
            rest.and_then(|rest| rest.split_whitespace().next())
                .unwrap_or("0")
                .to_owned()
        };
        Ok(Report {
            transactions: figure("number of transactions actually processed:").parse()?,
            failed: figure("number of failed transactions:").parse()?,
            per_second: figure("tps =").parse()?,
            errors: errors
                .lines()
                .filter(|line| line.contains("error"))
                .map(str::to_owned)
                .collect(),
            is_success: output.status.success(),
        })
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What pgbench reports.
#[derive(Clone, Debug)]
pub struct Report {
    /// Transactions that were processed.
    pub transactions: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Transactions a second, without the time for connecting.
    pub per_second: f64,
    /// Its error lines.
    pub errors: Vec<String>,
    /// Did it end well?
    pub is_success: bool,
}

impl Report {
    /// Did every transaction succeed, and was there at least one?
    pub fn is_flawless(&self) -> bool {
        self.is_success && self.errors.is_empty() && self.failed == 0 && self.transactions > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transactions,
            per_second,
            errors,
            failed,
            ..
        } = self;
        write!(
            out,
            "{transactions} transactions ({per_second:.0} a second), {} errors",
            errors.len() as u64 + failed
        )?;
        errors
            .first()
            .map_or(Ok(()), |error| write!(out, ", the first: {error}"))
    }
}

/// How long a client waits for anything before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Linux sends a SYN again after one second.
const RETRY: Duration = Duration::from_millis(900);

fn spawn_in_own_group(command: &mut Command) -> Result<Child> {
    std::os::unix::process::CommandExt::process_group(command, 0);
    command
        .spawn()
        .with_context(|| format!("cannot run `{}`", command::line_of(command)))
}
