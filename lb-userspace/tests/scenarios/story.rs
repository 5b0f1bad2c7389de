//! Scenarios as text: what happens when, and what must be so then.
//!
//! ```text
//! service ro fallback=none        # the configuration, changed from that of three servers
//! at 0s pg1 primary timeline 1    # pg1 primary, pg2 and pg3 replicas unless told otherwise
//! at 3s expect rw -> pg1
//!       pg1 refuses
//! at 7s expect rw -> nobody
//!       expect reset rw/pg1
//! ```
//!
//! Time passes at `at` alone; every line after it happens at that moment. Each reset of a member
//! must be expected, or the scenario fails at its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use lb_userspace::config::units::{parse_duration, parse_size};
use lb_userspace::engine::event::Event;
use lb_userspace::protocol::{KillTarget, Request, Response};

use super::server::Server;
use super::site::Site;
use super::world::World;

/// Plays a scenario; panics at the first line that does not hold.
#[track_caller]
pub(crate) fn check(text: &str) {
    let mut story = Story {
        site: Site::of_three(),
        world: None,
        early: BTreeMap::new(),
    };
    for (number, line) in (1..).zip(text.lines()) {
        let played = catch_unwind(AssertUnwindSafe(|| story.play(line)));
        let reason = match played {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => reason,
            Err(panic) => match panic.downcast::<String>() {
                Ok(reason) => *reason,
                Err(panic) => resume_unwind(panic),
            },
        };
        panic!(
            "line {number}, `{}`: {reason}\n{}",
            line.trim(),
            story.history()
        );
    }
    let resets = story.world.map(|world| world.resets).unwrap_or_default();
    assert!(
        resets.is_empty(),
        "nobody expected the reset of {}",
        resets.join(" ")
    );
}

struct Story {
    site: Site,
    /// Nothing before the first `at`.
    world: Option<World>,
    /// What servers are before that, if not what they are by default.
    early: BTreeMap<SocketAddr, Server>,
}

type Played = Result<(), String>;

impl Story {
    fn play(&mut self, line: &str) -> Played {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => Ok(()),
            ["at", time, rest @ ..] => {
                let moment = parse_duration(time)?;
                self.start().run_until(moment);
                self.happen(rest)
            }
            words => self.happen(words),
        }
    }

    fn happen(&mut self, words: &[&str]) -> Played {
        match words {
            [] => Ok(()),
            [
                "health" | "service" | "backend" | "remove" | "rename" | "move",
                ..,
            ] => self.configure(words),
            ["reload"] => {
                let config = self.site.config();
                self.world().reload(config);
                Ok(())
            }
            ["restart"] => {
                let config = self.site.config();
                self.world().restart(config);
                Ok(())
            }
            ["expect", rest @ ..] => self.expect(rest),
            ["operator", rest @ ..] => {
                self.world().ask(request(rest)?);
                Ok(())
            }
            ["suspect", member] => {
                let world = self.world();
                let slot = world.slot(member);
                world.traffic.suspect(slot);
                world.step(Event::Suspected(slot));
                Ok(())
            }
            [name, "loses", "its", "session"] => {
                let address = self.site.address(name);
                let world = self.world();
                let rows = world.kernel.backends.iter();
                let mut ids = rows.filter(|(_, row)| {
                    lb_userspace::engine::kernel::backend_address(row.endpoint()) == address
                });
                let id = *ids.next().ok_or("no such row")?.0;
                world.step(Event::SessionLost(id));
                Ok(())
            }
            [count, "connections", "to", service] => {
                let (count, world) = (number(count)?, self.world());
                for _ in 0..count {
                    world.open(service).ok_or("there is no eligible member")?;
                }
                Ok(())
            }
            [count, "connections", "of", member, "close"] => {
                let (count, world) = (number(count)?, self.world());
                let slot = world.slot(member);
                let closed = world.traffic.close(&world.kernel, slot, count);
                same("connections closed", closed, count)
            }
            _ => self.change_servers(words),
        }
    }

    /// `pg2 pg3 replica lag 3MB`: names, and what they are from now on.
    fn change_servers(&mut self, words: &[&str]) -> Played {
        const STATES: [&str; 7] = [
            "primary",
            "replica",
            "refuses",
            "silent",
            "starting",
            "full",
            "misconfigured",
        ];
        let at = words
            .iter()
            .position(|word| STATES.contains(word))
            .ok_or("not understood")?;
        for name in &words[..at] {
            let address = self.site.address(name);
            let servers = match &mut self.world {
                Some(world) => &mut world.servers,
                None => &mut self.early,
            };
            let before = servers.get(&address).cloned();
            servers.insert(address, server(&words[at..], before)?);
        }
        Ok(())
    }

    fn configure(&mut self, words: &[&str]) -> Played {
        let site = &mut self.site;
        match words {
            ["health", keys @ ..] => site.set_health(keys),
            ["backend", name, keys @ ..] => site.set_backend(name, keys),
            ["service", name, role, keys @ ..] if !role.contains('=') => {
                site.set_service(name, role, keys);
            }
            ["remove", "backend", name] => site.remove_backend(name),
            ["remove", "service", name] => site.remove_service(name),
            ["rename", "backend", name, new] => site.rename_backend(name, new),
            ["rename", "service", name, new] => site.rename_service(name, new),
            ["move", "backend", name] => site.move_backend(name),
            ["move", "service", name] => site.move_service(name),
            ["move", "service", name, "to", cluster] => site.set_cluster(name, cluster),
            _ => return Err("not understood".to_owned()),
        }
        Ok(())
    }

    fn expect(&mut self, words: &[&str]) -> Played {
        let world = self.world();
        match words {
            [service, "->", "nobody"] => same("eligible", world.eligible(service), Vec::new()),
            [service, "->", names @ ..] => {
                let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
                let mut eligible = world.eligible(service);
                names.sort();
                eligible.sort();
                same("eligible", eligible, names)
            }
            ["reset", "nobody"] => same("reset", std::mem::take(&mut world.resets), Vec::new()),
            ["reset", names @ ..] => {
                let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
                let mut resets = std::mem::take(&mut world.resets);
                names.sort();
                resets.sort();
                same("reset", resets, names)
            }
            [member, "says", text @ ..] => contains(&world.member(member).reason, &text.join(" ")),
            [member, "checks", text @ ..] => contains(&world.member(member).check, &text.join(" ")),
            [member, "is", word] => {
                let report = world.member(member);
                let known = [report.health.as_str(), report.admin.as_str()];
                let role = report.role.map_or("of no role", |role| role.as_str());
                if known.contains(word) || role == *word {
                    Ok(())
                } else {
                    Err(format!("it is {known:?} and {role}"))
                }
            }
            [member, "weighs", weight] => same(
                "weight",
                usize::from(world.member(member).weight),
                number(weight)?,
            ),
            [member, "is", "not", "suspect"] | [member, "is", "still", "suspect"] => {
                let is_suspect = world.traffic.is_suspect(&world.kernel, world.slot(member));
                same("suspect", is_suspect, words.contains(&"still"))
            }
            [service, "is", "in", "state", state] => {
                same("state", world.service(service).state.as_str(), state)
            }
            [service, what @ ("holds" | "rejects")] => {
                let vip = lb_userspace::engine::kernel::endpoint(world.service(service).vip);
                let row = world.kernel.services[&lb_common::service::ServiceKey::new(vip)];
                same("holding", row.is_holding(), *what == "holds")
            }
            [count, "connections", "on", member] => {
                world.step(Event::Tick);
                let connections = world.member(member).connections;
                same("connections", connections, number(count)? as u64)
            }
            [count, "alive", "on", member] => {
                let alive = world.traffic.alive(&world.kernel, world.slot(member));
                same("alive", alive, number(count)? as u64)
            }
            ["no", "answer"] => same("answers", world.answers.len(), 0),
            [what @ ("done" | "refused"), text @ ..] => {
                let (_, answer) = world.answers.pop().ok_or("there is no answer")?;
                let said = match &answer {
                    Response::Done { message } => ("done", message.as_str()),
                    Response::Refused { message } => ("refused", message.as_str()),
                    Response::Status(_) | Response::Connections(_) | Response::Explained(_) => {
                        return Err(format!("the answer is {answer:?}"));
                    }
                };
                same("answer", said.0, what)?;
                contains(said.1, &text.join(" "))
            }
            ["told", text @ ..] => {
                contains(&std::mem::take(&mut world.told).join("\n"), &text.join(" "))
            }
            ["no", "writes"] => same("writes", std::mem::take(&mut world.writes), Vec::new()),
            ["writes"] => match std::mem::take(&mut world.writes).as_slice() {
                [] => Err("nothing was written".to_owned()),
                _ => Ok(()),
            },
            _ => Err("not understood".to_owned()),
        }
    }

    fn start(&mut self) -> &mut World {
        let site = &self.site;
        self.world.get_or_insert_with(|| {
            let config = site.config();
            let mut servers = BTreeMap::new();
            for cluster in &config.clusters {
                for (place, backend) in cluster.backends.iter().enumerate() {
                    let server = match place {
                        0 => Server::primary(1),
                        _ => Server::replica(1, 0, true),
                    };
                    servers.insert(backend.address, server);
                }
            }
            servers.append(&mut self.early);
            World::new(config, servers)
        })
    }

    fn world(&mut self) -> &mut World {
        self.start()
    }

    fn history(&self) -> String {
        let Some(world) = &self.world else {
            return String::new();
        };
        let last = world.told.len().saturating_sub(20);
        format!(
            "at {:?}, after:\n{}",
            world.now,
            world.told[last..].join("\n")
        )
    }
}

/// `primary timeline 2 system 8`, `replica timeline 2 lag 1MB detached`, `refuses`, ...
fn server(words: &[&str], before: Option<Server>) -> Result<Server, String> {
    let after = |word: &str| {
        let at = words.iter().position(|it| *it == word)?;
        words.get(at + 1).copied()
    };
    let timeline = after("timeline").map_or(Ok(1), number)?;
    let timeline = u32::try_from(timeline).unwrap();
    let lag = after("lag").map_or(Ok(0), parse_size)?;
    let is_streaming = !words.contains(&"detached");
    let server = match words.first().copied() {
        Some("primary") => Server::primary(timeline),
        Some("replica") => Server::replica(timeline, lag, is_streaming),
        Some("refuses") => Server::Refusing,
        Some("silent") => Server::Silent,
        Some("starting") => Server::Starting,
        Some("full") => before.unwrap_or(Server::Refusing).filled(),
        Some("misconfigured") => Server::Misconfigured,
        _ => return Err("not understood".to_owned()),
    };
    match after("system") {
        Some(system) => Ok(server.of_system(number(system)? as u64)),
        None => Ok(server),
    }
}

fn request(words: &[&str]) -> Result<Request, String> {
    Ok(match words {
        ["drain", backend] => Request::Drain {
            backend: backend.parse()?,
        },
        ["maint", backend] => Request::Maint {
            backend: backend.parse()?,
        },
        ["ready", backend] => Request::Ready {
            backend: backend.parse()?,
        },
        ["weight", backend, weight] => {
            let weight = weight.parse().map_err(|_| "no weight")?;
            Request::Weight {
                backend: backend.parse()?,
                weight,
            }
        }
        ["kill", "backend", backend] => Request::Kill {
            target: KillTarget::Backend(backend.parse()?),
        },
        ["kill", "service", service] => Request::Kill {
            target: KillTarget::Service((*service).to_owned()),
        },
        ["kill", "client", client] => Request::Kill {
            target: KillTarget::Client(client.parse()?),
        },
        ["status"] => Request::Status,
        _ => return Err("not understood".to_owned()),
    })
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Played {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}"))
    }
}

fn contains(text: &str, part: &str) -> Played {
    if text.contains(part) {
        Ok(())
    } else {
        Err(format!("it is: {text}"))
    }
}
