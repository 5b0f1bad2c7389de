//! Two tasks for each backend, which ask when the engine says so and report what they were told:
//! one opens fresh connections, the other keeps a session open. Apart, because a session that
//! hangs must not delay the connection that would tell why.

use anyhow::{Context, Result};
use lb_common::member::BackendId;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::probe::{Session, Target, handshake};
use crate::config::{self, ProbeKind};
use crate::engine::event::Event;
use crate::engine::observation::{Facts, Outcome};

/// What the engine wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether new connections work, and what the open session says.
    Round,
    /// What the open session says.
    Watch,
}

/// Who wants to know what the session says; `None` is the engine itself.
type Inquirer = Option<oneshot::Sender<Outcome>>;

/// Starts the tasks; they end, and close the session politely, when the sender is dropped.
pub fn start(backend: BackendId, target: Target, events: Sender<Event>) -> Sender<Question> {
    let (sender, questions) = channel(4);
    let (inquiries, session_inquiries) = channel(4);
    tokio::spawn(hold_session(
        backend,
        target.clone(),
        session_inquiries,
        events.clone(),
    ));
    tokio::spawn(knock(backend, target, questions, inquiries, events));
    sender
}

/// Opens a fresh connection for each round, and has the session asked meanwhile.
async fn knock(
    backend: BackendId,
    target: Target,
    mut questions: Receiver<Question>,
    session: Sender<Inquirer>,
    events: Sender<Event>,
) {
    while let Some(question) = questions.recv().await {
        let event = match (question, target.kind) {
            (Question::Watch, _) => {
                if session.try_send(None).is_ok() {
                    continue;
                }
                let why = "the session has not answered earlier questions".to_owned();
                Event::Watched {
                    backend,
                    session: Outcome::Down { why },
                }
            }
            (Question::Round, ProbeKind::Postgres) => {
                let (reply, answer) = oneshot::channel();
                let is_asked = session.try_send(Some(reply)).is_ok();
                let handshake = handshake(&target).await;
                // Where no connection can be made, the session has nothing to add.
                let is_down = matches!(handshake, Outcome::Down { .. });
                let session = if is_asked && !is_down {
                    answer.await.ok()
                } else {
                    None
                };
                Event::Probed {
                    backend,
                    handshake,
                    session,
                }
            }
            (Question::Round, ProbeKind::Tcp) => Event::Probed {
                backend,
                handshake: handshake(&target).await,
                session: None,
            },
            (Question::Round, ProbeKind::None) => Event::Probed {
                backend,
                handshake: Outcome::Up(Facts::default()),
                session: None,
            },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Keeps a session open, asks it, and tells when the other side closes it.
async fn hold_session(
    backend: BackendId,
    target: Target,
    mut inquiries: Receiver<Inquirer>,
    events: Sender<Event>,
) {
    let mut session = Session::new();
    loop {
        let event = tokio::select! {
            inquiry = inquiries.recv() => match inquiry {
                None => return,
                Some(inquirer) => {
                    let outcome = session.observe(&target).await;
                    match inquirer {
                        // Whoever asked may not wait any more.
                        Some(reply) => {
                            let _ = reply.send(outcome);
                            continue;
                        }
                        None => Event::Watched { backend, session: outcome },
                    }
                }
            },
            () = session.lost() => Event::SessionLost(backend),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// The answer to a question that could not even be asked.
pub fn unable(backend: BackendId, question: Question, error: &anyhow::Error) -> Event {
    let outcome = Outcome::Misconfigured {
        message: format!("{error:#}"),
    };
    match question {
        Question::Round => Event::Probed {
            backend,
            handshake: outcome,
            session: None,
        },
        Question::Watch => Event::Watched {
            backend,
            session: outcome,
        },
    }
}

/// Whom to probe. The password is read each time, so that it can be changed without a reload.
pub fn target(backend: &config::Backend, rules: &config::Health) -> Result<Target> {
    let password = rules
        .password_file
        .as_deref()
        .map(|path| {
            std::fs::read_to_string(path)
                .map(|text| text.lines().next().unwrap_or_default().to_owned())
                .with_context(|| format!("cannot read the password file {}", path.display()))
        })
        .transpose()?;
    Ok(Target {
        address: backend.address,
        kind: rules.kind,
        user: rules.user.clone(),
        database: rules.database.clone(),
        password,
        tls: rules.tls,
        ca_file: rules.ca_file.clone(),
        timeout: rules.timeout,
    })
}
