//! A small PostgreSQL client. It speaks just enough of the protocol to log in without a password and ask one thing,
//! and shows what a driver would hide: how long the connect took, and how exactly a connection ended.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::clock;

/// An open session with PostgreSQL.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    connected_after: Duration,
}

impl Session {
    /// Connects and logs in; every wait on the way is limited.
    pub fn open(server: SocketAddr, limit: Duration) -> io::Result<Self> {
        let mut session = Self::connect(server, limit)?;
        session.log_in()?;
        Ok(session)
    }

    /// The TCP connection alone.
    pub fn connect(server: SocketAddr, limit: Duration) -> io::Result<Self> {
        let started = clock::now();
        let stream = TcpStream::connect_timeout(&server, limit)?;
        let connected_after = started.elapsed();
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        Ok(Self {
            stream,
            connected_after,
        })
    }

    /// Logs in as `postgres`.
    pub fn log_in(&mut self) -> io::Result<()> {
        let parameters = b"user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(8 + parameters.len()).map_err(io::Error::other)?;
        let mut startup = length.to_be_bytes().to_vec();
        startup.extend(PROTOCOL.to_be_bytes());
        startup.extend(parameters);
        self.stream.write_all(&startup)?;
        self.read_until_ready().map(drop)
    }

    /// How long the TCP handshake took: a second more for every SYN that had to be sent again.
    pub fn connected_after(&self) -> Duration {
        self.connected_after
    }

    /// The client's own address and port.
    pub fn client(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Runs one statement, and returns the first column of its first row.
    pub fn ask(&mut self, statement: &str) -> io::Result<String> {
        self.send(b'Q', format!("{statement}\0").as_bytes())?;
        self.read_until_ready()
    }

    /// Copies the rows of a query out, and returns how many bytes they were.
    pub fn copy_out(&mut self, query: &str) -> io::Result<u64> {
        self.send(b'Q', format!("copy ({query}) to stdout\0").as_bytes())?;
        let mut total = 0;
        loop {
            match self.receive()? {
                (b'Z', _) => return Ok(total),
                (b'd', row) => total += row.len() as u64,
                (b'E', body) => return Err(io::Error::other(error_message(&body))),
                _ => {}
            }
        }
    }

    /// Copies `rows` times the same row into a table.
    pub fn copy_in(&mut self, table: &str, row: &str, rows: usize) -> io::Result<()> {
        self.send(b'Q', format!("copy {table} from stdin\0").as_bytes())?;
        loop {
            match self.receive()? {
                (b'G', _) => break,
                (b'E', body) => return Err(io::Error::other(error_message(&body))),
                _ => {}
            }
        }
        let line = format!("{row}\n");
        for _ in 0..rows {
            self.send(b'd', line.as_bytes())?;
        }
        self.send(b'c', &[])?;
        self.read_until_ready().map(drop)
    }

    /// The address of the server that answers.
    pub fn ask_backend(&mut self) -> io::Result<String> {
        self.ask("select host(inet_server_addr())")
    }

    /// Stays silent until the connection ends, at most for `limit`; returns when that was and how it ended.
    pub fn await_end(&mut self, limit: Duration) -> io::Result<(Instant, String)> {
        self.stream.set_read_timeout(Some(limit))?;
        let mut rest = [0; 1024];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok((clock::now(), "closed".to_owned())),
                // What the server says before it closes, if it does.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the connection did not end",
                    ));
                }
                Err(error) => return Ok((clock::now(), error.to_string())),
            }
        }
    }

    /// Says goodbye, so that the server does not log an error.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.write_all(&[b'X', 0, 0, 0, 4])
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(4 + body.len()).map_err(io::Error::other)?;
        let message = [&[kind], &length.to_be_bytes()[..], body].concat();
        self.stream.write_all(&message)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok((kind, body))
    }

    fn read_until_ready(&mut self) -> io::Result<String> {
        let mut value = String::new();
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                b'Z' => return Ok(value),
                b'D' if value.is_empty() => value = first_column(&body).unwrap_or_default(),
                b'E' => return Err(io::Error::other(error_message(&body))),
                b'R' if body != [0; 4] => {
                    return Err(io::Error::other("the server asks for a password"));
                }
                _ => {}
            }
        }
    }
}

/// Version 3.0.
const PROTOCOL: u32 = 196_608;

fn first_column(row: &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(row.get(2..6)?.try_into().ok()?) as usize;
    Some(String::from_utf8_lossy(row.get(6..6 + length)?).into_owned())
}

/// Code and text of an error response.
fn error_message(body: &[u8]) -> String {
    let fields = body
        .split(|byte| *byte == 0)
        .filter_map(|field| field.split_first());
    let wanted = fields.filter(|(kind, _)| matches!(kind, b'C' | b'M'));
    wanted
        .map(|(_, text)| String::from_utf8_lossy(text))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_and_error_are_read() {
        assert_eq!(first_column(&[0, 1, 0, 0, 0, 2, b'4', b'2']).unwrap(), "42");
        assert_eq!(
            first_column(&[0, 1, 0xff, 0xff, 0xff, 0xff]),
            None,
            "a null is no value"
        );
        let body = b"SFATAL\0C53300\0Mtoo many\0\0";
        assert_eq!(error_message(body), "53300 too many");
    }
}
