//! The control socket: one JSON line in, one JSON line out, for as many clients as there are.
//!
//! Each client has a task of its own, so that one that is slow, silent or hostile delays nobody.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::protocol::{LONGEST_REQUEST, Request, Response};

/// A request and where its answer goes; a sender that is dropped refuses the request.
pub type Question = (Request, oneshot::Sender<Response>);

/// Who may speak to the controller: its user and its group.
const MODE: u32 = 0o660;
/// More clients than this at once wait in the socket's backlog.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to send its line, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take; less than what the commands wait for.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// The socket, bound; its file goes when this does.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// Binds the socket; its directory is created, and a file left by a dead controller is replaced.
pub fn bind(path: &Path) -> anyhow::Result<Control> {
    let shown = path.display();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path)
        }
        outcome => outcome,
    };
    let listener = listener.with_context(|| format!("cannot listen on {shown}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    Ok(Control {
        listener,
        path: path.to_path_buf(),
    })
}

/// Removes a socket on which nobody answers; anything else that is in the way stays.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        bail!("{shown} is in the way and is no socket");
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another controller answers on {shown}"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).with_context(|| format!("cannot replace {shown}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot tell who listens on {shown}")),
    }
}

impl Control {
    /// Passes requests on until the receiver is gone.
    pub async fn serve(self, questions: mpsc::Sender<Question>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = questions.closed() => return,
            };
            match accepted {
                Ok((client, _)) => {
                    let questions = questions.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve_client(client, &questions).await {
                            log::debug!("control socket: a client left: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the next try must not spin.
                    log::warn!("control socket: cannot accept: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A client then reads "no such socket" rather than "refused"; a failure changes nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_client(client: UnixStream, questions: &mpsc::Sender<Question>) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let longest = u64::try_from(LONGEST_REQUEST).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(longest));
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let response = if line.len() >= LONGEST_REQUEST && line.last() != Some(&b'\n') {
        refused(format!("a request is at most {LONGEST_REQUEST} bytes long"))
    } else {
        match serde_json::from_slice(&line) {
            Ok(request) => answer(request, questions).await,
            Err(error) => refused(format!("this is no request: {error}")),
        }
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await??;
    writer.shutdown().await
}

async fn answer(request: Request, questions: &mpsc::Sender<Question>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        questions.send((request, sender)).await.ok()?;
        receiver.await.ok()
    };
    match timeout(ANSWER_WITHIN, exchange).await {
        Ok(Some(response)) => response,
        Ok(None) => refused("the controller is stopping".into()),
        Err(_) => refused("the controller is busy, try again".into()),
    }
}

fn refused(message: String) -> Response {
    Response::Refused { message }
}

#[cfg(test)]
mod tests;
