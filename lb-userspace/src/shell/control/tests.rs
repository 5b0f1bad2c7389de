use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};

use super::*;

/// A directory of its own for each test, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pglb-control-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("pglb.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a controller that answers every request with "done".
async fn start(path: &Path) -> tokio::task::JoinHandle<()> {
    let control = bind(path).unwrap();
    let (sender, mut questions) = mpsc::channel::<Question>(4);
    tokio::spawn(control.serve(sender));
    tokio::spawn(async move {
        while let Some((request, reply)) = questions.recv().await {
            let message = format!("{request:?}");
            let _ = reply.send(Response::Done { message });
        }
    })
}

async fn send(path: &Path, bytes: &[u8]) -> Response {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // A server that has heard enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice(&answer).unwrap()
}

fn message(response: &Response) -> &str {
    match response {
        Response::Done { message } | Response::Refused { message } => message,
        Response::Status(_) | Response::Connections(_) | Response::Explained(_) => {
            panic!("{response:?}")
        }
    }
}

#[tokio::test]
async fn a_line_gets_a_line() {
    let directory = Directory::new("line");
    let socket = directory.0.join("made/on/the/way/pglb.sock");
    let controller = start(&socket).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let response = send(&socket, b"\"status\"\n").await;
    assert_eq!(message(&response), "Status");
    let response = send(&socket, br#"{"drain":{"backend":"orders/pg1"}}"#).await;
    assert!(matches!(response, Response::Done { .. }));
    controller.abort();
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let directory = Directory::new("garbage");
    let socket = directory.socket();
    let controller = start(&socket).await;
    let long = vec![b'['; 2 * LONGEST_REQUEST];
    let deep = [b"[".repeat(10_000), b"\n".to_vec()].concat();
    let garbage: [&[u8]; 8] = [
        b"",
        b"\n",
        b"status\n",
        b"\xff\xfe\n",
        b"{\"drain\":{}}\n",
        b"{\"weight\":{\"backend\":\"pg1\",\"weight\":70000}}\n",
        &long,
        &deep,
    ];
    for bytes in garbage {
        let response = send(&socket, bytes).await;
        assert!(matches!(response, Response::Refused { .. }), "{bytes:?}");
    }
    assert_eq!(message(&send(&socket, b"\"status\"\n").await), "Status");
    controller.abort();
}

#[tokio::test]
async fn a_silent_client_blocks_nobody() {
    let directory = Directory::new("silent");
    let socket = directory.socket();
    let controller = start(&socket).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CLIENTS / 2 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    let response = timeout(PATIENCE / 2, send(&socket, b"\"status\"\n")).await;
    assert_eq!(message(&response.unwrap()), "Status");
    controller.abort();
}

#[tokio::test]
async fn a_stopping_controller_says_so() {
    let directory = Directory::new("stopping");
    let control = bind(&directory.socket()).unwrap();
    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let server = tokio::spawn(control.serve(sender));
    let socket = directory.socket();
    let asked = tokio::spawn(async move { send(&socket, b"\"status\"\n").await });
    drop(questions.recv().await.unwrap());
    assert_eq!(message(&asked.await.unwrap()), "the controller is stopping");
    drop(questions);
    server.await.unwrap();
    assert!(!directory.socket().exists());
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let directory = Directory::new("stale");
    let socket = directory.socket();
    drop(StdListener::bind(&socket).unwrap());
    let control = bind(&socket).unwrap();
    assert!(StdStream::connect(&socket).is_ok());

    let error = bind(&socket).unwrap_err().to_string();
    assert!(
        error.starts_with("another controller answers on"),
        "{error}"
    );
    drop(control);

    std::fs::write(&socket, "precious").unwrap();
    let error = bind(&socket).unwrap_err().to_string();
    assert!(error.ends_with("is in the way and is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}
