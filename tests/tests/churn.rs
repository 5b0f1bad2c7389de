//! Thousands of connections a second over wires that lose packets, ended in every way: nothing of them stays behind.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_common::{flow::Phase, member::Slot, service::ServiceId};
use lb_userspace::shell::bpf_tables::Tables;
use pglb_tests::{
    churn::Churn,
    family::Family,
    listener::Manner,
    plain::{PLAIN, PlainSite},
    site::PATIENCE,
    topology::{Host, Plan, Returns},
};

pglb_tests::in_both_families!(
    nothing_stays_behind_of_nat,
    nothing_stays_behind_of_full_nat
);

/// How long connections are made.
const TIME: Duration = Duration::from_secs(3);
/// Most of them wait for a packet to be sent again.
const WORKERS: usize = 96;
/// Packets of a thousand that are lost: each of a client.s, both ways, and each that reaches a host.
const LOSS: u32 = 8;

fn nothing_stays_behind_of_nat(family: Family) -> Result<()> {
    nothing_stays_behind(family, Returns::ThroughGateway, "forwarding = \"nat\"")
}

fn nothing_stays_behind_of_full_nat(family: Family) -> Result<()> {
    nothing_stays_behind(family, Returns::Nowhere, "forwarding = \"full-nat\"")
}

fn nothing_stays_behind(family: Family, returns: Returns, lines: &str) -> Result<()> {
    let plan = Plan {
        family,
        hosts: 2,
        returns,
        ..Plan::default()
    };
    // Counting is worth more when a limit depends on it.
    let lines = format!("{lines}\nsource_max_connections = 1000000");
    let site = PlainSite::start(plan, Manner::AsAsked, &lines)?;
    // Ports of the clients that full-nat can keep and others that it cannot, each used again after a second.
    let client = site.network.client();
    client.run("sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range=10000\t60000")?;
    client.lose("eth0", &["egress", "ingress"], LOSS)?;
    // What hosts send gets lost at the client. Nearer to them, it would have a client and a host of this one kernel send
    // SYN and SYN-ACK again at the same microsecond, which no gateway can put in order.
    let hosts = site.network.hosts().iter().map(Host::namespace);
    hosts
        .into_iter()
        .try_for_each(|host| host.lose("eth0", &["ingress"], LOSS))?;

    let churn = Churn::of_all_endings(client, site.target(), WORKERS, TIME)?;
    println!("{family}, {lines:?}: {churn}");
    // One in many thousand meets a SYN and a SYN-ACK that two hosts of this one kernel send again at the very same time.
    assert!(churn.failed.len() * 4_000 < churn.tried, "{churn}");
    let accepted: u64 = site.listeners.iter().map(|it| it.accepted()).sum();
    let tried = u64::try_from(churn.tried)?;
    let failed = u64::try_from(churn.failed.len())?;
    assert!(
        accepted + failed >= tried,
        "{accepted} of {tried} were accepted"
    );
    assert!(tried > 1_000, "only {tried} connections");
    let retried = client.run("nstat -az TcpRetransSegs")?;
    println!("{}", retried.lines().last().unwrap_or_default());

    // Servers close what they have not heard the end of after some seconds, which ends it for everybody.
    site.gateway
        .await_status("no connection", PATIENCE, |status| {
            status
                .service(PLAIN)
                .is_ok_and(|service| service.connections == 0)
        })?;
    expect_nothing_left(&site, accepted)
}

fn expect_nothing_left(site: &PlainSite, accepted: u64) -> Result<()> {
    // What the kernel has counted itself: the controller could correct what is wrong.
    let tables = Tables::open(site.gateway.pins())?;
    assert_eq!(tables.established()?.len(), 0);
    let transient = tables.transient()?;
    let open = transient.values().filter(|flow| match flow.phase() {
        Phase::SynSent | Phase::Refused | Phase::SynReceived | Phase::Established => true,
        Phase::Ended | Phase::Reset => false,
    });
    assert_eq!(open.count(), 0, "half-open ones");
    let mut established = 0;
    for index in 0..2 {
        let slot = Slot::of(ServiceId(0), index);
        let (tally, member) = (tables.slot_tally(slot)?, tables.member(slot)?);
        println!("{tally:?}");
        assert_eq!(tally.half_opened, tally.half_closed, "{tally:?}");
        assert_eq!(tally.established, tally.ended, "{tally:?}");
        assert_eq!((member.half_reaped, member.reaped), (0, 0), "{member:?}");
        established += tally.established;
    }
    assert!(established >= accepted, "{established} of {accepted}");
    let sources = tables.sources()?;
    let (source, (tally, reaped)) = sources.first_key_value().context("nobody is counted")?;
    assert_eq!(
        (sources.len(), tally.connections(*reaped)),
        (1, 0),
        "{source:?}: {tally:?}"
    );
    Ok(())
}
