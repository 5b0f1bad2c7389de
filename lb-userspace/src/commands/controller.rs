//! Talking to a running controller, one line each way.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::output::show;
use crate::protocol::{Request, Response};

/// A controller that takes longer to read or to answer does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// No controller answers on a socket.
#[derive(Debug)]
pub(super) struct Unreachable {
    socket: PathBuf,
    reason: io::Error,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        write!(f, "no controller answers on {socket}: ")?;
        let kind = self.reason.kind();
        if kind == io::ErrorKind::NotFound {
            f.write_str("there is no such socket, start `pglb run`, or name its control_socket with --socket")
        } else if kind == io::ErrorKind::ConnectionRefused {
            f.write_str("the controller that made this socket is gone, start `pglb run` again")
        } else if kind == io::ErrorKind::PermissionDenied {
            f.write_str("permission denied, become root or join the group that owns the socket")
        } else if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            let seconds = PATIENCE.as_secs();
            write!(
                f,
                "it was silent for {seconds} s, see the log of `pglb run`"
            )
        } else {
            write!(f, "{}, see the log of `pglb run`", self.reason)
        }
    }
}

impl std::error::Error for Unreachable {}

/// Sends one request and waits for its answer; a refusal is an error with the controller's words.
pub(super) fn ask(socket: &Path, request: &Request) -> anyhow::Result<Response> {
    let answer = exchange(socket, request).map_err(|reason| Unreachable {
        socket: socket.to_path_buf(),
        reason,
    })?;
    let response = serde_json::from_str(&answer).with_context(|| {
        let socket = socket.display();
        format!("the controller on {socket} is of another version, its answer makes no sense")
    })?;
    match response {
        Response::Refused { message } => Err(anyhow!(message)),
        Response::Status(_)
        | Response::Connections(_)
        | Response::Done { .. }
        | Response::Explained(_) => Ok(response),
    }
}

/// Sends a request that is answered by a sentence, and shows it.
pub(super) fn order(socket: &Path, request: &Request) -> anyhow::Result<ExitCode> {
    let Response::Done { message } = ask(socket, request)? else {
        return Err(unexpected(request));
    };
    show(&format!("{message}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The error for an answer to another question.
pub(super) fn unexpected(request: &Request) -> anyhow::Error {
    anyhow!("the controller did not answer what it was asked: {request:?}")
}

fn exchange(socket: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}
