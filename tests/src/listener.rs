//! A TCP server that is not PostgreSQL: it answers faster than one that forks, and decides who closes first.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with,
    sockopt::{Timeout, set_socket_linger, set_socket_reuseaddr, set_socket_timeout},
};

use crate::namespace::Namespace;

/// What a server does with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It sends back all that it gets, until the client has sent everything.
    Echo,
    /// It sends [`FAREWELL`] and closes first.
    CloseFirst,
    /// Its clients are connected, and wait to be accepted.
    Hold,
    /// The client's first byte says who ends the connection, and how: see [`Ending`].
    AsAsked,
}

/// How a connection to a [`Manner::AsAsked`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// The client gets [`FAREWELL`], and closes.
    ClientFirst = b'c',
    /// The server says [`FAREWELL`], and closes.
    ServerFirst = b's',
    /// The client gets [`FAREWELL`], and ends it by an RST.
    ClientAborts = b'a',
    /// The server ends it by an RST, without a word.
    ServerAborts = b'r',
    /// The client closes its side, and gets [`FAREWELL`] after that.
    HalfClosed = b'h',
    /// Both close as soon as they are connected, and the server says [`FAREWELL`] before that.
    Together = b't',
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ClientFirst,
        Self::ServerFirst,
        Self::ClientAborts,
        Self::ServerAborts,
        Self::HalfClosed,
        Self::Together,
    ];

    /// What the client does. An RST that got lost is no error: then nothing comes any more.
    pub fn play(self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(LOST))?;
        stream.write_all(&[self as u8])?;
        if matches!(self, Self::HalfClosed | Self::Together) {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut text = Vec::new();
        match self {
            Self::ClientFirst | Self::ClientAborts => {
                text.resize(FAREWELL.len(), 0);
                stream.read_exact(&mut text)?;
            }
            Self::ServerFirst | Self::HalfClosed | Self::Together => {
                stream.read_to_end(&mut text)?;
            }
            Self::ServerAborts => {
                return match stream.read_to_end(&mut text) {
                    Ok(_) => Err(io::Error::other("it was closed, and not aborted")),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
                    Err(error) => Err(error),
                };
            }
        }
        if text != FAREWELL {
            return Err(io::Error::other("the connection ended early"));
        }
        if self == Self::ClientAborts {
            abort(stream)?;
        }
        Ok(())
    }

    /// What the server does.
    fn obey(mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(LOST))?;
        let mut rest = Vec::new();
        let mut asked = [0];
        stream.read_exact(&mut asked)?;
        match Self::ALL
            .into_iter()
            .find(|ending| *ending as u8 == asked[0])
        {
            Some(Self::ServerAborts) => return abort(stream),
            Some(Self::ServerFirst | Self::Together) => return stream.write_all(FAREWELL),
            Some(Self::ClientFirst | Self::ClientAborts) => stream.write_all(FAREWELL)?,
            Some(Self::HalfClosed) | None => {}
        }
        stream.read_to_end(&mut rest)?;
        if asked[0] == Self::HalfClosed as u8 {
            stream.write_all(FAREWELL)?;
        }
        Ok(())
    }
}

/// What a server says that closes first.
pub const FAREWELL: &[u8] = b"bye";

/// So many clients may wait to be accepted, if `net.core.somaxconn` lets them.
pub const QUEUE: i32 = 16_384;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Listener {
    is_over: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    worker: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a port of every address of a host, of both families.
    pub fn start(host: &Namespace, port: u16, manner: Manner) -> Result<Self> {
        let (is_over, accepted) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (watched, counter) = (Arc::clone(&is_over), Arc::clone(&accepted));
        let worker = host.enter(|| -> io::Result<_> {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            // The default queue of 128 would overflow, and cost a SYN that nobody lost.
            rustix::net::listen(&listener, QUEUE)?;
            // So that the end is noticed.
            set_socket_timeout(&listener, Timeout::Recv, Some(LOOK))?;
            Ok(thread::spawn(move || {
                serve(&listener, manner, &watched, &counter);
            }))
        })?;
        let worker = worker.with_context(|| format!("cannot listen on port {port}"))?;
        Ok(Self {
            is_over,
            accepted,
            worker: Some(worker),
        })
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// What a client of a [`Manner::Echo`] does: sends something, and expects it back.
pub fn echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text {
        return Ok(());
    }
    Err(io::Error::other("something else came back"))
}

/// Connects as a client does that gives up after a while.
pub fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// As [`connect`], from an address, and from a port of the client's choice unless that is 0. The port may have been
/// used just before.
pub fn connect_from(source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    // This one limits the connect as well.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    bind(&socket, &source)?;
    rustix::net::connect(&socket, &target)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Ends a connection by an RST, without a word.
pub fn abort(stream: TcpStream) -> io::Result<()> {
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// After so long, what was awaited has got lost.
const LOST: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

fn serve(listener: &TcpListener, manner: Manner, is_over: &AtomicBool, accepted: &AtomicU64) {
    while !is_over.load(Ordering::Relaxed) {
        if manner == Manner::Hold {
            thread::sleep(LOOK);
            continue;
        }
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        accepted.fetch_add(1, Ordering::Relaxed);
        match manner {
            Manner::Hold => {}
            // A client that is gone already is its own affair.
            Manner::CloseFirst => drop(stream.write_all(FAREWELL)),
            Manner::Echo => {
                // The listener's own limit is inherited, and would end a client that says nothing.
                let _ = stream.set_read_timeout(None);
                let worker = thread::Builder::new().stack_size(64 * 1024);
                let _ = worker.spawn(move || give_back(&mut stream));
            }
            Manner::AsAsked => {
                let worker = thread::Builder::new().stack_size(64 * 1024);
                let _ = worker.spawn(move || Ending::obey(stream));
            }
        }
    }
}

fn give_back(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}
