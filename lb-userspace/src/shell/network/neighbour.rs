//! Has the kernel find the MAC address of a neighbour that nobody here speaks to.

use std::net::IpAddr;

use anyhow::Result;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};

use super::detail::Way;
use super::{Network, explain};

impl Network {
    /// Has the kernel ask for the MAC address of `neighbour`, or see whether the one that it knows is still right, as
    /// if it had a packet to send there. Nothing is done for an address that is on no link, or behind a router.
    pub async fn ask_for_neighbour(&self, neighbour: IpAddr) -> Result<()> {
        let Way::Out {
            interface,
            router: None,
        } = self.way_to(neighbour).await?
        else {
            return Ok(());
        };
        self.handle
            .neighbours()
            .add(interface, neighbour)
            // Not a permanent entry: only the question (`neigh_event_send` in the kernel's `neigh_add`).
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(|error| explain(error, &format!("asking for the MAC address of {neighbour}")))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::shell::lone_thread::{Host, ip, with_own_network};

    fn known() -> String {
        let output = Command::new("ip").args(["neighbour", "show"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    #[test]
    #[ignore = "needs root"]
    fn a_silent_neighbour_becomes_known() {
        with_own_network(|| async {
            ip("link add here type veth peer name there address 02:00:00:00:00:99");
            let other = Host::new();
            other.take("there");
            other.ip("address add 10.72.0.11/24 dev there");
            other.ip("address add 2001:db8:72::11/64 dev there nodad");
            other.ip("link set there up");
            ip("address add 10.72.0.1/24 dev here");
            ip("address add 2001:db8:72::1/64 dev here nodad");
            ip("link set here up");
            ip("route add 10.73.0.0/24 via 10.72.0.11");
            let network = Network::open().unwrap();
            let asked = ["10.72.0.11", "2001:db8:72::11"];
            for name in [asked[0], asked[1], "10.73.0.11", "10.74.0.11"] {
                let address = name.parse().unwrap();
                network.ask_for_neighbour(address).await.unwrap();
                // A second time there is an entry already.
                network.ask_for_neighbour(address).await.unwrap();
            }
            let lines = || {
                let has_mac = |line: &&str| line.contains("02:00:00:00:00:99");
                known().lines().filter(has_mac).count()
            };
            for _ in 0..500 {
                if lines() == asked.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let known = known();
            assert!(asked.iter().all(|it| known.contains(it)), "{known}");
            assert_eq!(lines(), asked.len(), "{known}");
            assert!(!known.contains("PERMANENT"), "{known}");
        });
    }
}
