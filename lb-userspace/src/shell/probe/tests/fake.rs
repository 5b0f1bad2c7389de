//! Servers that say what a test tells them to say.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Target, target};

/// A message of the server: its kind, its length, its body.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

pub(super) fn refusal(severity: &str, state: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{state}\0Mno\0\0");
    message(b'E', fields.as_bytes())
}

pub(super) fn welcome() -> Vec<u8> {
    [message(b'R', &[0; 4]), ready()].concat()
}

pub(super) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// What a server answers to the question: columns by name, `None` for null.
pub(super) fn answer(columns: &[(&str, Option<&str>)]) -> Vec<u8> {
    let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
    let mut description = count.to_vec();
    let mut row = count.to_vec();
    for (name, value) in columns {
        description.extend([name.as_bytes(), &[0; 19]].concat());
        match value {
            Some(text) => {
                row.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                row.extend(text.as_bytes());
            }
            None => row.extend([0xff; 4]),
        }
    }
    [
        message(b'C', b"SET\0"),
        message(b'T', &description),
        message(b'D', &row),
        message(b'C', b"SELECT 1\0"),
        ready(),
    ]
    .concat()
}

/// One end of a connection, on the server's side.
pub(super) struct Peer(TcpStream);

impl Peer {
    /// Reads the message with which a connection begins: without a kind.
    pub(super) async fn read_start(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        self.0.read_exact(&mut body).await.unwrap();
        body
    }

    /// Reads a message; `None` when the other end has said farewell and closed.
    pub(super) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let kind = match self.0.read_u8().await {
            Ok(kind) => kind,
            Err(error) => {
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof,
                    "a reset instead of FIN"
                );
                return None;
            }
        };
        Some((kind, self.read_start().await))
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Accepts the client, whoever it is, and waits for its first question.
    pub(super) async fn welcome_and_hear(&mut self) -> Vec<u8> {
        self.read_start().await;
        self.write(&welcome()).await;
        let (kind, question) = self.read().await.unwrap();
        assert_eq!(kind, b'Q');
        question
    }
}

/// A server that serves one connection after the other as the test says, and the target for it.
pub(super) struct Server(TcpListener);

impl Server {
    pub(super) async fn start() -> (Self, Target) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = target(listener.local_addr().unwrap());
        (Self(listener), target)
    }

    pub(super) async fn accept(&self) -> Peer {
        Peer(self.0.accept().await.unwrap().0)
    }
}
