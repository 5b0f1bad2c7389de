//! A [`StatusReport`] as Prometheus text.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use crate::report::{
    Admin, BackendReport, BackendRole, Health, ServiceReport, ServiceState, StatusReport,
};

/// The page for `GET /metrics`; `not_forwarded` counts packets by the reason for which they were
/// not forwarded, from the kernel's own counters.
pub fn metrics(report: &StatusReport, not_forwarded: &[(&'static str, u64)]) -> String {
    let mut page = Page::default();
    gateway(&mut page, report);
    services(&mut page, report);
    members(&mut page, report);
    backends(&mut page, report);
    page.family(
        "pglb_packets_not_forwarded_total",
        "counter",
        "Packets that were not forwarded, by reason.",
    );
    for (reason, count) in not_forwarded {
        page.sample(&[("reason", reason)], count);
    }
    page.text
}

fn gateway(page: &mut Page, report: &StatusReport) {
    let gateway = &report.gateway;
    page.family("pglb_info", "gauge", "The controller's version.");
    page.sample(&[("version", &gateway.version)], 1);
    page.family(
        "pglb_uptime_seconds",
        "gauge",
        "How long the controller has been running.",
    );
    page.sample(&[], gateway.uptime_seconds);
    page.family(
        "pglb_connections",
        "gauge",
        "Open connections of all services.",
    );
    page.sample(&[], gateway.connections);
    page.family(
        "pglb_max_connections",
        "gauge",
        "Size of the connection table.",
    );
    page.sample(&[], gateway.max_connections);
    page.family(
        "pglb_interface_native",
        "gauge",
        "1 where XDP runs in the driver, 0 where it is generic.",
    );
    for interface in &gateway.interfaces {
        let is_native = interface.xdp_mode == crate::report::AttachedMode::Native;
        page.sample(&[("interface", &interface.name)], u8::from(is_native));
    }
}

fn services(page: &mut Page, report: &StatusReport) {
    page.family(
        "pglb_service_connections",
        "gauge",
        "Open connections of a service.",
    );
    for service in &report.services {
        page.sample(&[("service", &service.name)], service.connections);
    }
    page.family(
        "pglb_service_state",
        "gauge",
        "1 for the state that a service is in.",
    );
    for service in &report.services {
        for state in ServiceState::ALL {
            let labels = [
                ("service", service.name.as_str()),
                ("state", state.as_str()),
            ];
            page.sample(&labels, u8::from(service.state == *state));
        }
    }
}

/// A backend as one service sees it.
type Figure = fn(&BackendReport) -> u64;

fn members(page: &mut Page, report: &StatusReport) {
    let families: [(&'static str, &str, Figure); 3] = [
        (
            "pglb_service_backend_connections",
            "Open connections of a service on a backend.",
            |backend| backend.connections,
        ),
        (
            "pglb_service_backend_eligible",
            "1 while new connections of a service may go to a backend.",
            |backend| backend.eligible.into(),
        ),
        (
            "pglb_service_backend_weight",
            "The weight in force of a backend in a service.",
            |backend| backend.weight.into(),
        ),
    ];
    for (name, help, figure) in families {
        page.family(name, "gauge", help);
        for (service, backend) in rows(report) {
            let labels = [
                ("service", service.name.as_str()),
                ("cluster", &backend.cluster),
                ("backend", &backend.name),
            ];
            page.sample(&labels, figure(backend));
        }
    }
}

fn rows(report: &StatusReport) -> impl Iterator<Item = (&ServiceReport, &BackendReport)> {
    let services = report.services.iter();
    services.flat_map(|service| {
        service
            .backends
            .iter()
            .map(move |backend| (service, backend))
    })
}

fn backends(page: &mut Page, report: &StatusReport) {
    // Health, role and lag are the backend's own, however many services it stands behind.
    let mut seen = BTreeSet::new();
    let all: Vec<&BackendReport> = rows(report)
        .map(|(_, backend)| backend)
        .filter(|backend| seen.insert((&backend.cluster, &backend.name)))
        .collect();
    let states = |page: &mut Page,
                  label,
                  words: &[&str],
                  word: &dyn Fn(&BackendReport) -> Option<&'static str>| {
        for backend in &all {
            for candidate in words {
                let labels = [
                    ("cluster", backend.cluster.as_str()),
                    ("backend", &backend.name),
                    (label, candidate),
                ];
                page.sample(&labels, u8::from(word(backend) == Some(*candidate)));
            }
        }
    };
    page.family(
        "pglb_backend_health",
        "gauge",
        "1 for the health that a backend has.",
    );
    let words: Vec<&str> = Health::ALL.iter().map(|health| health.as_str()).collect();
    states(page, "health", &words, &|backend| {
        Some(backend.health.as_str())
    });
    page.family(
        "pglb_backend_admin",
        "gauge",
        "1 for what the operator wants of a backend.",
    );
    let words: Vec<&str> = Admin::ALL.iter().map(|admin| admin.as_str()).collect();
    states(page, "admin", &words, &|backend| {
        Some(backend.admin.as_str())
    });
    page.family(
        "pglb_backend_role",
        "gauge",
        "1 for the role that a backend has.",
    );
    let words: Vec<&str> = BackendRole::ALL.iter().map(|role| role.as_str()).collect();
    states(page, "role", &words, &|backend| {
        backend.role.map(BackendRole::as_str)
    });

    let numbers = |page: &mut Page, number: fn(&BackendReport) -> Option<u64>| {
        for backend in &all {
            if let Some(number) = number(backend) {
                let labels = [
                    ("cluster", backend.cluster.as_str()),
                    ("backend", &backend.name),
                ];
                page.sample(&labels, number);
            }
        }
    };
    page.family(
        "pglb_backend_lag_bytes",
        "gauge",
        "WAL that a replica is behind the primary.",
    );
    numbers(page, |backend| backend.lag_bytes);
    page.family(
        "pglb_backend_timeline",
        "gauge",
        "The PostgreSQL timeline that a backend is on.",
    );
    numbers(page, |backend| backend.timeline.map(u64::from));
}

/// The text so far, and the family that samples belong to.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        let mut separator = '{';
        for (label, text) in labels {
            let _ = write!(self.text, "{separator}{label}=\"{}\"", escape(text));
            separator = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Algorithm, Forwarding, Role};
    use crate::report::{AttachedMode, GatewayReport, InterfaceReport};

    fn report() -> StatusReport {
        let backend = BackendReport {
            name: "pg1".into(),
            cluster: "orders".into(),
            address: "10.72.0.11:5432".parse().unwrap(),
            admin: Admin::Ready,
            health: Health::Up,
            role: Some(BackendRole::Primary),
            eligible: true,
            weight: 100,
            connections: 3,
            lag_bytes: None,
            timeline: Some(6),
            check: String::new(),
            reason: String::new(),
        };
        let service = ServiceReport {
            name: "orders-rw".into(),
            vip: "10.71.0.100:5432".parse().unwrap(),
            role: Role::Primary,
            algorithm: Algorithm::LeastConnections,
            forwarding: Forwarding::Nat,
            state: ServiceState::Ok,
            connections: 3,
            backends: vec![backend],
        };
        let second = ServiceReport {
            name: "orders-any".into(),
            ..service.clone()
        };
        StatusReport {
            gateway: GatewayReport {
                interfaces: vec![InterfaceReport {
                    name: "eth0".into(),
                    xdp_mode: AttachedMode::Native,
                }],
                uptime_seconds: 12,
                version: "0.1.0".into(),
                connections: 6,
                max_connections: 1024,
                pid: 1,
            },
            services: vec![service, second],
        }
    }

    #[test]
    fn figures_are_where_a_scraper_looks() {
        let page = metrics(&report(), &[("no_backend", 7), ("table_full", 0)]);
        for line in [
            "pglb_info{version=\"0.1.0\"} 1",
            "pglb_connections 6",
            "pglb_interface_native{interface=\"eth0\"} 1",
            "pglb_service_state{service=\"orders-rw\",state=\"ok\"} 1",
            "pglb_service_state{service=\"orders-rw\",state=\"no_backend\"} 0",
            "pglb_service_backend_connections{service=\"orders-any\",cluster=\"orders\",backend=\"pg1\"} 3",
            "pglb_backend_health{cluster=\"orders\",backend=\"pg1\",health=\"up\"} 1",
            "pglb_backend_role{cluster=\"orders\",backend=\"pg1\",role=\"replica\"} 0",
            "pglb_backend_timeline{cluster=\"orders\",backend=\"pg1\"} 6",
            "pglb_packets_not_forwarded_total{reason=\"no_backend\"} 7",
        ] {
            assert_eq!(
                page.lines().filter(|found| *found == line).count(),
                1,
                "{line}\n{page}"
            );
        }
        assert!(
            !page.contains("pglb_backend_lag_bytes{"),
            "unknown is no sample, not zero"
        );
    }

    #[test]
    fn every_sample_follows_its_own_family_and_is_there_once() {
        let page = metrics(&report(), &[("no_backend", 7)]);
        let mut family = "";
        let mut seen = BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(sample.split('{').next(), Some(family));
                assert!(value.parse::<u64>().is_ok(), "{line}");
                assert!(seen.insert(sample), "{line}");
            }
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
