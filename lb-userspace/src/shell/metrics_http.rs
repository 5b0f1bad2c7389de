//! A responder for `GET /metrics`, and for nothing else: no keep-alive, no routes, no surprises.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

const LONGEST_HEAD: usize = 8 * 1024;
const MAX_CLIENTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Binds the address that metrics are served on.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot serve metrics on {address}"))
}

/// Serves the latest page until its sender is gone.
pub async fn serve(listener: TcpListener, page: watch::Receiver<String>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut sender_gone = page.clone();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed(&mut sender_gone) => return,
        };
        match accepted {
            Ok((client, _)) => {
                let page = page.clone();
                tokio::spawn(async move {
                    // A scraper that went away needs no answer.
                    let _ = timeout(PATIENCE, serve_client(client, &page)).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!("metrics: cannot accept: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn closed(page: &mut watch::Receiver<String>) {
    while page.changed().await.is_ok() {}
}

async fn serve_client(mut client: TcpStream, page: &watch::Receiver<String>) -> io::Result<()> {
    let mut head = Vec::new();
    while !is_complete(&head) && head.len() < LONGEST_HEAD {
        let mut chunk = [0; 1024];
        match client.read(&mut chunk).await? {
            0 => return Ok(()),
            count => head.extend(chunk.iter().take(count)),
        }
    }
    let answer = respond(&head, &page.borrow());
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|window| window == b"\r\n\r\n")
}

fn respond(head: &[u8], page: &str) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let is_http = words
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1."));
    let (status, body) = match (method, path) {
        _ if !is_http || !is_complete(head) => ("400 Bad Request", "bad request\n"),
        ("GET" | "HEAD", "/metrics") => ("200 OK", page),
        ("GET" | "HEAD", _) => ("404 Not Found", "metrics are at /metrics\n"),
        (_, _) => ("405 Method Not Allowed", "only GET is answered\n"),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TEXT}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_answer(head: &str, status: &str, body: &str) {
        let answer = respond(head.as_bytes(), "pglb_connections 3\n");
        let (head, sent) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
        assert_eq!(sent, body);
    }

    #[test]
    fn only_the_page_is_served() {
        check_answer(
            "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            "200 OK",
            "pglb_connections 3\n",
        );
        check_answer(
            "GET /metrics?x=1 HTTP/1.0\r\n\r\n",
            "200 OK",
            "pglb_connections 3\n",
        );
        check_answer("HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", "");
        check_answer(
            "GET / HTTP/1.1\r\n\r\n",
            "404 Not Found",
            "metrics are at /metrics\n",
        );
        check_answer(
            "POST /metrics HTTP/1.1\r\n\r\n",
            "405 Method Not Allowed",
            "only GET is answered\n",
        );
        check_answer(
            "GET /metrics HTTP/1.1\r\n",
            "400 Bad Request",
            "bad request\n",
        );
        check_answer("\r\n\r\n", "400 Bad Request", "bad request\n");
        check_answer("", "400 Bad Request", "bad request\n");
    }

    #[tokio::test]
    async fn the_latest_page_is_served() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, page) = watch::channel("old\n".to_owned());
        let server = tokio::spawn(serve(listener, page));
        sender.send("new\n".to_owned()).unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nnew\n"));
        drop(sender);
        timeout(PATIENCE, server).await.unwrap().unwrap();
    }
}
