//! One task for each backend: it asks when the engine says so, and reports what it was told.

use lb_common::member::BackendId;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::probe::{Session, Target, handshake};
use crate::config::ProbeKind;
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

/// Starts the task; it ends, and closes its session politely, when the sender is dropped.
pub fn start(backend: BackendId, target: Target, events: Sender<Event>) -> Sender<Question> {
    let (sender, questions) = channel(4);
    tokio::spawn(probe(backend, target, questions, events));
    sender
}

async fn probe(
    backend: BackendId,
    target: Target,
    mut questions: Receiver<Question>,
    events: Sender<Event>,
) {
    let mut session = Session::new();
    loop {
        let event = tokio::select! {
            question = questions.recv() => match question {
                None => return,
                Some(question) => ask(backend, &target, &mut session, question).await,
            },
            () = session.lost() => Event::SessionLost(backend),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

async fn ask(
    backend: BackendId,
    target: &Target,
    session: &mut Session,
    question: Question,
) -> Event {
    match (question, target.kind) {
        (Question::Watch, _) => Event::Watched {
            backend,
            session: session.observe(target).await,
        },
        (Question::Round, ProbeKind::Postgres) => {
            let (handshake, observed) = tokio::join!(handshake(target), session.observe(target));
            Event::Probed {
                backend,
                handshake,
                session: Some(observed),
            }
        }
        (Question::Round, ProbeKind::Tcp) => Event::Probed {
            backend,
            handshake: handshake(target).await,
            session: None,
        },
        (Question::Round, ProbeKind::None) => Event::Probed {
            backend,
            handshake: Outcome::Up(Facts::default()),
            session: None,
        },
    }
}
