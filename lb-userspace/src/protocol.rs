//! What passes over the control socket: one JSON line in, one JSON line out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::report::{ConnectionReport, ExplainReport, StatusReport};

/// The longest line that either side accepts as a request (bytes, with its line feed).
pub const LONGEST_REQUEST: usize = 64 * 1024;

/// What a command asks of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Services and backends; answered by [`Response::Status`].
    Status,
    /// Open connections; answered by [`Response::Connections`].
    Connections {
        /// Only those of this service.
        service: Option<String>,
        /// Only those on this backend.
        backend: Option<BackendRef>,
    },
    /// No new connections to this backend; the old ones may finish.
    Drain {
        /// The backend.
        backend: BackendRef,
    },
    /// Take this backend out of service.
    Maint {
        /// The backend.
        backend: BackendRef,
    },
    /// Undo drain and maint.
    Ready {
        /// The backend.
        backend: BackendRef,
    },
    /// Give this backend another weight; it outlives restarts and reloads.
    Weight {
        /// The backend.
        backend: BackendRef,
        /// 0 to 1000; 0 is no new connections.
        weight: u16,
    },
    /// Reset connections now.
    Kill {
        /// Whose.
        target: KillTarget,
    },
    /// Which backend a new connection would get; answered by [`Response::Explained`].
    Explain {
        /// The service's name.
        service: String,
        /// The client.
        client: SocketAddr,
    },
}

/// Whose connections are reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillTarget {
    /// All on this backend.
    Backend(BackendRef),
    /// All of this service.
    Service(String),
    /// All of this client.
    Client(ClientRef),
}

/// What the controller answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::Connections`].
    Connections(Vec<ConnectionReport>),
    /// It is done.
    Done {
        /// What was done, one sentence.
        message: String,
    },
    /// To [`Request::Explain`].
    Explained(ExplainReport),
    /// It was not done.
    Refused {
        /// Why, one sentence.
        message: String,
    },
}

/// How a user names a backend: `name`, or `cluster/name` where the name alone is ambiguous.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BackendRef {
    /// The cluster's name, if it was given.
    pub cluster: Option<String>,
    /// The backend's name.
    pub name: String,
}

impl BackendRef {
    /// Whether the backend of this cluster and name is one that is meant.
    pub fn names(&self, cluster: &str, name: &str) -> bool {
        self.name == name && self.cluster.as_deref().is_none_or(|given| given == cluster)
    }
}

impl FromStr for BackendRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cluster, name) = match text.split_once('/') {
            Some((cluster, name)) => (Some(cluster), name),
            None => (None, text),
        };
        if name.is_empty() || name.contains('/') || cluster == Some("") {
            return Err("a backend is NAME or CLUSTER/NAME".into());
        }
        Ok(Self {
            cluster: cluster.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for BackendRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BackendRef> for String {
    fn from(backend: BackendRef) -> Self {
        backend.to_string()
    }
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "{cluster}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// How a user names a client: `ADDRESS`, or `ADDRESS:PORT` for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClientRef {
    /// The client's address.
    pub address: IpAddr,
    /// The client's port; `None` is all of them.
    pub port: Option<u16>,
}

impl ClientRef {
    /// Whether a connection from here is one that is meant.
    pub fn names(&self, client: SocketAddr) -> bool {
        self.address == client.ip() && self.port.is_none_or(|port| port == client.port())
    }
}

impl FromStr for ClientRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(client) = text.parse::<SocketAddr>() {
            return Ok(Self {
                address: client.ip(),
                port: Some(client.port()),
            });
        }
        text.parse()
            .map(|address| Self {
                address,
                port: None,
            })
            .map_err(|_| "a client is ADDRESS or ADDRESS:PORT".into())
    }
}

impl TryFrom<String> for ClientRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ClientRef> for String {
    fn from(client: ClientRef) -> Self {
        client.to_string()
    }
}

impl fmt::Display for ClientRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(request: &Request, line: &str) {
        assert_eq!(serde_json::to_string(request).unwrap(), line);
        assert_eq!(&serde_json::from_str::<Request>(line).unwrap(), request);
    }

    #[test]
    fn requests_are_these_lines() {
        let pg1: BackendRef = "orders/pg1".parse().unwrap();
        check_line(&Request::Status, r#""status""#);
        check_line(
            &Request::Connections {
                service: Some("orders-rw".into()),
                backend: None,
            },
            r#"{"connections":{"service":"orders-rw","backend":null}}"#,
        );
        check_line(
            &Request::Weight {
                backend: pg1.clone(),
                weight: 50,
            },
            r#"{"weight":{"backend":"orders/pg1","weight":50}}"#,
        );
        check_line(
            &Request::Kill {
                target: KillTarget::Client("10.71.0.5:41022".parse().unwrap()),
            },
            r#"{"kill":{"target":{"client":"10.71.0.5:41022"}}}"#,
        );
        check_line(
            &Request::Explain {
                service: "orders-rw".into(),
                client: "10.71.0.5:41022".parse().unwrap(),
            },
            r#"{"explain":{"service":"orders-rw","client":"10.71.0.5:41022"}}"#,
        );
    }

    #[test]
    fn what_is_no_backend_is_refused_on_the_wire_too() {
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(text.parse::<BackendRef>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Request>(r#"{"drain":{"backend":"a/b/c"}}"#).is_err());
    }

    #[test]
    fn a_bare_name_means_the_backend_in_any_cluster() {
        let bare: BackendRef = "pg1".parse().unwrap();
        let full: BackendRef = "orders/pg1".parse().unwrap();
        assert!(bare.names("orders", "pg1") && bare.names("billing", "pg1"));
        assert!(full.names("orders", "pg1") && !full.names("billing", "pg1"));
        assert!(!bare.names("orders", "pg2"));
    }

    #[test]
    fn a_client_without_a_port_is_all_its_connections() {
        for (one, all, other) in [
            ("10.71.0.5:41022", "10.71.0.5", "10.71.0.5:41023"),
            (
                "[2001:db8:71::5]:41022",
                "2001:db8:71::5",
                "[2001:db8:71::5]:41023",
            ),
        ] {
            let client = one.parse().unwrap();
            let other = other.parse().unwrap();
            let one: ClientRef = one.parse().unwrap();
            let all: ClientRef = all.parse().unwrap();
            assert!(one.names(client) && !one.names(other));
            assert!(all.names(client) && all.names(other));
            for shown in [one, all] {
                assert_eq!(shown.to_string().parse(), Ok(shown));
            }
        }
        assert!("db1:5432".parse::<ClientRef>().is_err());
    }
}
