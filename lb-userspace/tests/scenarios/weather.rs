//! What can happen to a gateway, at random.

use std::net::Ipv4Addr;
use std::time::Duration;

use lb_common::member::{BackendId, Slot};
use lb_common::trunk::Trunk;
use lb_common::wire::EgressTags;
use lb_userspace::engine::event::{Asker, Event};
use lb_userspace::engine::kernel::Surroundings;
use lb_userspace::engine::observation::Outcome;
use lb_userspace::protocol::{KillTarget, Request};

use super::server::{Server, of_three};
use super::site::Site;
use super::world::World;

/// A site and a world, and what is to come.
pub(crate) struct Weather {
    pub(crate) world: World,
    /// Whoever has asked, and must be answered: all but those that a restart has cut off.
    pub(crate) asked: Vec<Asker>,
    site: Site,
    backends: Vec<String>,
    services: Vec<String>,
    next_name: u32,
    timeline: u32,
    random: Random,
}

impl Weather {
    /// A new site, with the weather of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        let site = Site::of_three();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            world: World::new(site.config(), of_three(&site)),
            asked: Vec::new(),
            site,
            backends: names(&["pg1", "pg2", "pg3"]),
            services: names(&["rw", "ro"]),
            next_name: 4,
            timeline: 1,
            random: Random(seed),
        }
    }

    /// Lets one thing happen; tells what.
    pub(crate) fn happen(&mut self) -> String {
        match self.random.below(100) {
            0..30 => self.wait(),
            30..50 => self.change_server(),
            50..54 => self.promote(),
            54..66 => self.ask(),
            66..80 => self.connect(),
            80..90 => self.disturb(),
            90..97 => {
                let change = self.configure();
                self.world.reload(self.site.config());
                format!("reload: {change}")
            }
            _ => {
                let is_changed = self.random.is_one_in(3);
                let change = if is_changed {
                    self.configure()
                } else {
                    String::new()
                };
                // Whoever waited for an answer sees the controller go.
                let answered = &self.world.answers;
                self.asked
                    .retain(|asker| answered.iter().any(|(it, _)| it == asker));
                self.world.restart(self.site.config());
                format!("restart {change}")
            }
        }
    }

    /// Lets the sun shine: one primary, its replicas, and everything ready. Returns the primary.
    pub(crate) fn calm_down(&mut self) -> String {
        let primary = self.backend();
        self.timeline += 1;
        // Calm weather is looked at less often.
        self.site.set_health(&["interval=5s", "fast_interval=1s"]);
        for name in self.backends.clone() {
            let server = if name == primary {
                Server::primary(self.timeline)
            } else {
                Server::replica(self.timeline, 0, true)
            };
            self.world.servers.insert(self.site.address(&name), server);
            self.site.set_backend(&name, &["weight=100"]);
            let backend = || name.parse().unwrap();
            for request in [
                Request::Ready { backend: backend() },
                Request::Weight {
                    backend: backend(),
                    weight: 100,
                },
            ] {
                self.asked.push(self.world.ask(request));
            }
        }
        self.world.reload(self.site.config());
        primary
    }

    fn wait(&mut self) -> String {
        let most: u16 = [3, 50, 400, 5000][self.random.below(4)];
        let time = Duration::from_millis(self.random.small(most).into());
        self.world.run_for(time);
        format!("{time:?} pass")
    }

    fn change_server(&mut self) -> String {
        let name = self.backend();
        let is_behind = self.random.is_one_in(2) && self.timeline > 1;
        let timeline = self.timeline - u32::from(is_behind);
        let lag = [0, 1 << 20, 1 << 29][self.random.below(3)];
        let server = match self.random.below(12) {
            0..2 => Server::Refusing,
            2..4 => Server::Silent,
            4 => Server::Starting,
            5 => Server::primary(timeline).filled(),
            6 => Server::Misconfigured,
            7 => Server::primary(timeline),
            8 => Server::primary(timeline).of_system(8),
            9 => Server::replica(timeline, lag, false),
            _ => Server::replica(timeline, lag, true),
        };
        let text = format!("{name} is {server:?}");
        self.world.servers.insert(self.site.address(&name), server);
        text
    }

    fn promote(&mut self) -> String {
        let name = self.backend();
        self.timeline += 1;
        let address = self.site.address(&name);
        self.world
            .servers
            .insert(address, Server::primary(self.timeline));
        for other in self.backends.clone() {
            if other != name && self.random.is_one_in(2) {
                let server = Server::replica(self.timeline, 0, true);
                self.world.servers.insert(self.site.address(&other), server);
            }
        }
        format!("{name} is promoted to timeline {}", self.timeline)
    }

    fn ask(&mut self) -> String {
        let backend = if self.random.is_one_in(20) {
            "nobody".to_owned()
        } else {
            self.backend()
        };
        let service = if self.random.is_one_in(9) {
            "nothing".to_owned()
        } else {
            self.service()
        };
        let name = backend.parse().unwrap();
        let weight = [0, 1, 100, 999, 2000][self.random.below(5)];
        let request = match self.random.below(8) {
            0 => Request::Drain { backend: name },
            1 => Request::Maint { backend: name },
            2 | 3 => Request::Ready { backend: name },
            4 => Request::Weight {
                backend: name,
                weight,
            },
            5 => Request::Kill {
                target: KillTarget::Backend(name),
            },
            6 => Request::Kill {
                target: KillTarget::Service(service),
            },
            _ => Request::Status,
        };
        let text = format!("{request:?}");
        self.asked.push(self.world.ask(request));
        text
    }

    fn connect(&mut self) -> String {
        let service = self.service();
        let count = self.random.below(8);
        match self.random.below(4) {
            0 => {
                let slots: Vec<Slot> = self.world.engine.counted().0;
                let slot = slots[self.random.below(slots.len())];
                let closed = self.world.traffic.close(&self.world.kernel, slot, count);
                format!("{closed} connections of {slot:?} close")
            }
            1 => {
                let found = (0..count)
                    .filter_map(|_| self.world.half_open(&service))
                    .count();
                format!("{found} SYNs to {service}")
            }
            _ => {
                let found = (0..count).filter_map(|_| self.world.open(&service)).count();
                format!("{found} connections to {service}")
            }
        }
    }

    fn disturb(&mut self) -> String {
        let id = BackendId(self.random.small(9));
        let slot = Slot(self.random.small(70));
        let failure = Outcome::Down {
            why: "late".to_owned(),
        };
        let event = match self.random.below(6) {
            0 => Event::SessionLost(id),
            1 => {
                self.world.traffic.suspect(slot);
                Event::Suspected(slot)
            }
            2 => Event::NextHopsChanged(self.surroundings()),
            3 => Event::Probed {
                backend: id,
                handshake: failure,
                session: None,
            },
            4 => Event::Watched {
                backend: id,
                session: failure,
            },
            _ => Event::WriteFailed,
        };
        let text = format!("{event:?}");
        self.world.step(event);
        text
    }

    /// The host's network, as it is from now on: with VLAN devices or without, and reaching the
    /// backends from one address or another.
    fn surroundings(&mut self) -> Surroundings {
        let mut surroundings = Surroundings::default();
        for device in 20..23 {
            if self.random.is_one_in(2) {
                let tags = EgressTags([self.random.small(3) + 1, 0]);
                let trunk = Trunk { interface: 2, tags };
                surroundings.trunks.insert(device, trunk);
            }
        }
        for name in &self.backends {
            let last = u8::try_from(self.random.small(3)).unwrap();
            let source = Ipv4Addr::new(10, 72, 255, last);
            let address = self.site.address(name).ip();
            surroundings.sources.insert(address, source.into());
        }
        surroundings
    }

    /// Changes the configuration file; tells how.
    fn configure(&mut self) -> String {
        let name = self.backend();
        let service = self.service();
        let site = &mut self.site;
        match self.random.below(12) {
            0 if self.backends.len() < 6 => {
                let new = format!("pg{}", self.next_name);
                self.next_name += 1;
                site.set_backend(&new, &[]);
                self.backends.push(new.clone());
                format!("{new} is added")
            }
            1 if self.backends.len() > 1 => {
                site.remove_backend(&name);
                self.backends.retain(|known| *known != name);
                format!("{name} is removed")
            }
            2 => {
                let server = self.world.servers.get(&site.address(&name)).cloned();
                site.move_backend(&name);
                let server = server.unwrap_or(Server::Refusing);
                self.world.servers.insert(site.address(&name), server);
                format!("{name} is another server")
            }
            3 => {
                let new = format!("pg{}", self.next_name);
                self.next_name += 1;
                site.rename_backend(&name, &new);
                self.backends.retain(|known| *known != name);
                self.backends.push(new.clone());
                format!("{name} is called {new}")
            }
            4 if self.services.len() < 4 => {
                let new = format!("s{}", self.next_name);
                self.next_name += 1;
                let role = ["primary", "replica", "any"][self.random.below(3)];
                site.set_service(&new, role, &[]);
                self.services.push(new.clone());
                format!("{new} is added for {role}")
            }
            5 if self.services.len() > 1 => {
                site.remove_service(&service);
                self.services.retain(|known| *known != service);
                format!("{service} is removed")
            }
            6 => {
                site.move_service(&service);
                format!("{service} has another VIP")
            }
            7 => {
                let weight = format!("weight={}", [0, 50, 100][self.random.below(3)]);
                site.set_backend(&name, &[&weight]);
                format!("{name} has {weight}")
            }
            8 => {
                let key = [
                    "fall=1",
                    "fall=3",
                    "interval=3s",
                    "interval=500ms",
                    "max_lag=512kB",
                ][self.random.below(5)];
                site.set_health(&[key]);
                format!("health has {key}")
            }
            9 => {
                let role = ["primary", "replica", "any"][self.random.below(3)];
                site.set_service(&service, role, &[]);
                format!("{service} is for {role}")
            }
            10 => {
                let key = [
                    "on_down=keep",
                    "on_down=reset",
                    "no_backend=hold",
                    "no_backend=reject",
                    "fallback=none",
                    "fallback=primary",
                    "algorithm=round-robin",
                    "algorithm=least-connections",
                ][self.random.below(8)];
                site.set_keys(&service, &[key]);
                format!("{service} has {key}")
            }
            _ => "nothing".to_owned(),
        }
    }

    fn backend(&mut self) -> String {
        self.backends[self.random.below(self.backends.len())].clone()
    }

    fn service(&mut self) -> String {
        self.services[self.random.below(self.services.len())].clone()
    }
}

/// Numbers that look random and follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((number ^ (number >> 31)) % end as u64).unwrap()
    }

    fn small(&mut self, end: u16) -> u16 {
        u16::try_from(self.below(end.into())).unwrap()
    }

    fn is_one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}
