//! One connection to a PostgreSQL server, from the first packet to a polite end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Stage, Target, classify, down, tls};
use crate::config::Tls;
use crate::engine::observation::Outcome;

/// An open connection: `client` asks, and `driver` has to be polled for anything to happen.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) driver: Driver,
}

/// Ends when the server has closed the connection, or when the client is dropped and the farewell
/// is over.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Link {
    /// Sends Terminate and FIN, and waits (not for ever) until the server closes in its turn.
    pub(super) async fn close(self) {
        drop(self.client);
        self.driver.await;
    }
}

/// Connects, authenticates, and waits until the server is ready for a query.
///
/// Waits as long as it takes: the caller has the timeout.
pub(super) async fn open(target: &Target) -> Result<Link, Outcome> {
    let misconfigured = |message| Outcome::Misconfigured { message };
    let attempt = match target.tls {
        Tls::Disable => open_plain(target).await?,
        Tls::Require => {
            open_encrypted(
                target,
                SslMode::Require,
                tls::unverified().map_err(misconfigured)?,
            )
            .await?
        }
        Tls::VerifyFull => {
            let verified = tls::verified(target.ca_file.as_deref()).map_err(misconfigured)?;
            open_encrypted(target, SslMode::Require, verified).await?
        }
        Tls::Prefer => {
            let connector = tls::unverified().map_err(misconfigured)?;
            match open_encrypted(target, SslMode::Prefer, connector).await? {
                Err(error) if is_tls_unwelcome(&error) => open_plain(target).await?,
                attempt => attempt,
            }
        }
    };
    attempt.map_err(|error| classify(&error, Stage::Connecting))
}

/// The server's refusal is the inner result: what failed before it is an outcome already.
type Attempt = Result<Result<Link, tokio_postgres::Error>, Outcome>;

async fn open_plain(target: &Target) -> Attempt {
    start(target, SslMode::Disable, NoTls).await
}

async fn open_encrypted(target: &Target, mode: SslMode, mut tls: MakeRustlsConnect) -> Attempt {
    let name = target.address.ip().to_string();
    let Ok(connector) = MakeTlsConnect::<PoliteStream>::make_tls_connect(&mut tls, &name);
    start(target, mode, connector).await
}

async fn start<T>(target: &Target, mode: SslMode, tls: T) -> Attempt
where
    T: TlsConnect<PoliteStream>,
    T::Stream: Unpin + Send + 'static,
{
    let stream = TcpStream::connect(target.address)
        .await
        .map_err(|error| down(&error))?;
    stream.set_nodelay(true).map_err(|error| down(&error))?;
    let mut config = Config::new();
    config
        .user(&target.user)
        .dbname(&target.database)
        .application_name(APPLICATION_NAME)
        .ssl_mode(mode);
    if let Some(password) = &target.password {
        config.password(password);
    }
    let stream = PoliteStream::new(stream, target.timeout);
    Ok(config
        .connect_raw(stream, tls)
        .await
        .map(|(client, connection)| {
            let driver = Box::pin(async {
                // Why it ended, the next question tells.
                let _ = connection.await;
            });
            Link { client, driver }
        }))
}

/// Whether a server might take the same connection without TLS: it has a line in `pg_hba.conf` for
/// `hostnossl` alone, or its TLS is one that we cannot speak.
fn is_tls_unwelcome(error: &tokio_postgres::Error) -> bool {
    let cause = std::error::Error::source(error);
    let io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_tls = io
        .and_then(io::Error::get_ref)
        .is_some_and(|inner| inner.is::<rustls::Error>());
    is_tls || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// A TCP stream that is shut down only when the other end has closed as well.
///
/// Whoever closes a socket with unread bytes, or closes it before bytes arrive, sends a reset, and
/// PostgreSQL writes that into its log.
struct PoliteStream {
    stream: TcpStream,
    patience: Duration,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl PoliteStream {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            farewell: None,
        }
    }
}

impl AsyncRead for PoliteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PoliteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream,
            patience,
            farewell,
        } = &mut *self;
        if farewell.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let farewell = farewell.get_or_insert_with(|| Box::pin(sleep(*patience)));
        let mut last_words = [0; 256];
        loop {
            let mut buffer = ReadBuf::new(&mut last_words);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return farewell.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

const APPLICATION_NAME: &str = "pglb";
