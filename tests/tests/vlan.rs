//! Clients and hosts behind VLAN devices: pglb runs on the cards below, and reads and writes the tags.
//!
//! It needs a kernel with VLAN devices (`CONFIG_VLAN_8021Q`). `cargo xtask kernels --test vlan` runs it where this
//! machine has none.

use anyhow::{Context as _, Result};
use pglb_tests::{
    churn::Churn,
    family::Family,
    listener::Manner,
    namespace::Namespace,
    plain::PlainSite,
    topology::{CLIENT, GATEWAY, INSIDE, Network, Plan},
};

pglb_tests::in_both_families!(clients_and_hosts_behind_vlan_devices_are_served);

fn clients_and_hosts_behind_vlan_devices_are_served(family: Family) -> Result<()> {
    const CONNECTIONS: usize = 200;
    let plan = Plan {
        hosts: 3,
        ..Plan::of_family(family)
    };
    let mut site = PlainSite::prepared(plan, Manner::Echo, "", tag)?;
    let (gateway, client) = (site.network.gateway(), site.network.client());
    let find_vip = format!("ip -o address show to {}", site.target().ip());
    let is_forwarding = format!("sysctl -n {}", forwarding_of(CLIENTS));
    let place = gateway.run(&find_vip)?;
    assert!(
        place.contains(CLIENTS),
        "the VIP is not in the clients' VLAN: {place}"
    );
    assert_eq!(gateway.run(&is_forwarding)?.trim(), "1");
    let passed = gateway.forwarded(family)?;
    let churn = Churn::run(client, site.target(), Manner::Echo, 2, CONNECTIONS)?;
    assert!(churn.is_flawless(), "{churn}");
    // The first packets to everybody are the kernel's, which asks for their addresses.
    let passed = gateway.forwarded(family)? - passed;
    assert!(passed < 30, "the kernel has forwarded {passed} packets");
    site.await_connections(0)?;
    // What pglb makes itself has its tags as well: here the answer to a SYN that nobody may have.
    for host in site.network.hosts() {
        site.gateway.pglb(&["drain", host.name()])?;
    }
    let refused = client.enter(|| std::net::TcpStream::connect(site.target()))?;
    let kind = refused.err().map(|error| error.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused));
    // The devices are left as they were.
    site.gateway.terminate()?;
    site.gateway.pglb(&["detach"])?;
    assert_eq!(gateway.run(&find_vip)?, "");
    assert_eq!(gateway.run(&is_forwarding)?.trim(), "0");
    Ok(())
}

/// The setting that has the kernel forward what comes by this device, which may have a dot in its name.
fn forwarding_of(device: &str) -> String {
    format!("net/ipv4/conf/{device}/forwarding")
}

/// The VLAN device on the gateway that the clients' subnet is at.
const CLIENTS: &str = "client.100";

/// One tag towards the clients and the second host, two towards the first, none towards the third.
fn tag(network: &Network) -> Result<()> {
    let family = network.family();
    let (gateway, client) = (network.gateway(), network.client());
    let (one, bits) = (family.address_bits(), family.subnet_bits());
    let at_once = family.at_once();
    let [via, own, inside] = [GATEWAY, CLIENT, INSIDE].map(|it| family.address(it));

    let outer = [("100", "802.1q")];
    move_up(client, "eth0", &outer)?;
    move_up(gateway, "client", &outer)?;
    client.run(&format!(
        "ip address add {own}/{bits} dev eth0.100{at_once}"
    ))?;
    client.run(&format!("ip route replace default via {via}"))?;
    gateway.run(&format!(
        "ip address add {via}/{bits} dev {CLIENTS}{at_once}"
    ))?;

    gateway.run(&format!("sysctl -qw {}=0", forwarding_of(CLIENTS)))?;

    let [first, second, _] = network.hosts() else {
        anyhow::bail!("the network has three hosts");
    };
    for (host, tags) in [
        (first, &[("200", "802.1ad"), ("7", "802.1q")][..]),
        (second, &[("300", "802.1q")]),
    ] {
        let (name, address) = (host.name(), host.address());
        let device = move_up(gateway, name, tags)?;
        gateway.run(&format!(
            "ip address add {inside}/{one} dev {device}{at_once}"
        ))?;
        gateway.run(&format!(
            "ip route replace {address}/{one} dev {device} src {inside}"
        ))?;
        let device = move_up(host.namespace(), "eth0", tags)?;
        let end = host.namespace();
        end.run(&format!(
            "ip address add {address}/{one} dev {device}{at_once}"
        ))?;
        end.run(&format!("ip route replace {inside}/{one} dev {device}"))?;
        end.run(&format!("ip route replace default via {inside}"))?;
    }
    Ok(())
}

/// Puts VLAN devices over an interface and takes its addresses away, though IPv6 leaves its routes there; tells the
/// name of the topmost.
fn move_up(end: &Namespace, interface: &str, tags: &[(&str, &str)]) -> Result<String> {
    end.run(&format!("ip address flush dev {interface} scope global"))?;
    // The tags are in the packets, as on a wire, and not beside them.
    end.run(&format!(
        "ethtool -K {interface} txvlan off rxvlan off tx-vlan-stag-hw-insert off rx-vlan-stag-hw-parse off"
    ))?;
    let mut device = interface.to_owned();
    for (number, protocol) in tags {
        let above = format!("{device}.{number}");
        end.run(&format!(
            "ip link add link {device} name {above} type vlan protocol {protocol} id {number}"
        ))
        .context("this kernel has no VLAN devices: `cargo xtask kernels --test vlan` runs one that has them")?;
        // Room for a second tag in what the card carries.
        end.run(&format!("ip link set {above} mtu 1496 up"))?;
        device = above;
    }
    Ok(device)
}
