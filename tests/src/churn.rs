//! Clients that connect and leave, as fast as they can.

use std::{
    fmt, io,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    clock,
    listener::{self, Ending, FAREWELL, Manner},
    namespace::Namespace,
};

/// What came of many short connections.
#[derive(Clone, Debug)]
pub struct Churn {
    /// How many were tried.
    pub tried: usize,
    /// Each error.
    pub failed: Vec<String>,
    /// From the first to the last.
    pub took: Duration,
    /// The longest connection, from its SYN to its end.
    pub slowest: Duration,
}

impl Churn {
    /// Makes `count` connections to a [`listener::Listener`] of this manner, by as many clients at once as `workers`.
    pub fn run(
        clients: &Namespace,
        target: SocketAddr,
        manner: Manner,
        workers: usize,
        count: usize,
    ) -> Result<Self> {
        let is_over = |number| number >= count;
        Self::run_until(clients, workers, is_over, |_| visit(target, manner))
    }

    /// Makes connections to a [`listener::Listener`] that does as it is asked, with each [`Ending`] in turn, by as many
    /// clients at once as `workers`, for as long as `time`.
    pub fn of_all_endings(
        clients: &Namespace,
        target: SocketAddr,
        workers: usize,
        time: Duration,
    ) -> Result<Self> {
        let started = clock::now();
        Self::run_until(
            clients,
            workers,
            |_| started.elapsed() > time,
            |number| {
                let ending = Ending::ALL[number % Ending::ALL.len()];
                let played = listener::connect(target).and_then(|stream| ending.play(stream));
                played.map_err(|error| io::Error::other(format!("{ending:?}: {error}")))
            },
        )
    }

    /// Visits with a number each, until the next one's number is beyond the end.
    fn run_until(
        clients: &Namespace,
        workers: usize,
        is_over: impl Fn(usize) -> bool + Sync,
        visit: impl Fn(usize) -> io::Result<()> + Sync,
    ) -> Result<Self> {
        let started = clock::now();
        let (begun, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            let (mut failed, mut slowest) = (Vec::new(), Duration::ZERO);
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if is_over(number) {
                    return (failed, slowest);
                }
                tried.fetch_add(1, Ordering::Relaxed);
                let started = clock::now();
                failed.extend(visit(number).err().map(|error| error.to_string()));
                slowest = slowest.max(started.elapsed());
            }
        };
        let results = clients.enter(|| {
            thread::scope(|scope| {
                let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
                let results = workers.into_iter().filter_map(|worker| worker.join().ok());
                results.collect::<Vec<_>>()
            })
        })?;
        Ok(Self {
            tried: tried.into_inner(),
            took: started.elapsed(),
            slowest: results
                .iter()
                .map(|(_, slowest)| *slowest)
                .max()
                .unwrap_or_default(),
            failed: results.into_iter().flat_map(|(failed, _)| failed).collect(),
        })
    }

    /// Did every client get what it came for?
    pub fn is_flawless(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = self.tried as f64 / self.took.as_secs_f64();
        write!(
            out,
            "{} connections ({per_second:.0} a second), {} failed, the slowest took {} ms",
            self.tried,
            self.failed.len(),
            self.slowest.as_millis()
        )?;
        let first = self.failed.first();
        first.map_or(Ok(()), |error| write!(out, ", first error: {error}"))
    }
}

fn visit(target: SocketAddr, manner: Manner) -> io::Result<()> {
    let mut stream: TcpStream = listener::connect(target)?;
    match manner {
        // It has nothing to say.
        Manner::Hold => Ok(()),
        Manner::Echo => listener::echo(&mut stream, b"hello"),
        Manner::AsAsked => Ending::ClientFirst.play(stream),
        Manner::CloseFirst => {
            let mut text = Vec::new();
            stream.read_to_end(&mut text)?;
            if text == FAREWELL {
                return Ok(());
            }
            Err(io::Error::other("the connection ended early"))
        }
    }
}
