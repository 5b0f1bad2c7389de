//! The one loop: something happens, the engine decides, the shell does it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::member::BackendId;
use log::{error, info, warn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{interval, sleep_until};

use super::bpf::{self, Datapath};
use super::bpf_tables::Tables;
use super::network::Network;
use super::network::changes::watch_changes;
use super::probe::Target;
use super::prober::{self, Question};
use super::surroundings::{check_ports, look_round};
use super::walker::{self, Job};
use super::{clock, control, host, metrics_http, privileges, restore};
use crate::config::{self, Config};
use crate::engine::effect::{Effect, Weight, Write};
use crate::engine::event::{Asker, Event};
use crate::engine::{Engine, Moment};
use crate::metrics;
use crate::protocol::{Request, Response};
use crate::report::{InterfaceReport, StatusReport};

/// The page of metrics is made anew this often.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the probe sessions may take to say farewell.
const FAREWELL: Duration = Duration::from_millis(300);

/// Runs the controller until SIGTERM or SIGINT. The data plane goes on without it.
pub async fn run(path: &Path, config: Config, is_debugging: bool) -> Result<()> {
    let started = clock::now();
    privileges::require("run")?;
    check_ports(&config)?;
    let network = Network::open()?;
    let interfaces = host::look_at_interfaces(&network, &config.gateway).await?;
    let control = control::bind(&config.gateway.control_socket)?;
    host::let_forward(&network, &config).await?;
    let mut datapath = match bpf::start(&config.gateway, &interfaces, is_debugging) {
        Err(error) if !bpf::has_tables(&config.gateway.pin_dir) => {
            host::restore_settings(&config.gateway)?;
            return Err(error);
        }
        started => started?,
    };
    let (events, mut inbox) = mpsc::channel(1024);
    let mut controller = Controller::new(config, &datapath, events.clone(), started)?;
    controller.look_round(&network).await;
    host::take_vips(&network, controller.engine.config()).await?;

    let (suspects, mut suspected) = mpsc::channel(256);
    datapath.watch_suspects(suspects)?;
    let (changes, mut changed) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = watch_changes(changes).await {
            error!("routes and neighbours are no longer watched: {error:#}");
        }
    });
    let (questions, mut asked) = mpsc::channel(64);
    tokio::spawn(control.serve(questions));
    controller.serve_metrics().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut neighbours_due = interval(host::BETWEEN_QUESTIONS);
    info!("pglb {} is running", env!("CARGO_PKG_VERSION"));
    loop {
        let deadline = started + controller.engine.next_deadline();
        let event = tokio::select! {
            Some(event) = inbox.recv() => event,
            Some(slot) = suspected.recv() => Event::Suspected(slot),
            Some(()) = changed.recv() => {
                controller.look_round(&network).await;
                host::keep_vips(&network, controller.engine.config()).await;
                continue;
            }
            Some((request, reply)) = asked.recv() => {
                controller.take_request(request, reply);
                continue;
            }
            () = sleep_until(deadline.min(controller.metrics_due).into()) => Event::Tick,
            _ = neighbours_due.tick() => {
                host::ask_for_neighbours(&network, controller.engine.config()).await;
                continue;
            }
            _ = hang_up.recv() => {
                controller.reload(path, &network).await;
                continue;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        controller.step(event);
        controller.publish_metrics();
    }
    info!("pglb stops; packets are forwarded as before, `pglb detach` ends that");
    controller.probers.clear();
    tokio::time::sleep(FAREWELL).await;
    Ok(())
}

/// The engine and its hands.
struct Controller {
    engine: Engine,
    tables: Tables,
    jobs: std::sync::mpsc::Sender<Job>,
    events: mpsc::Sender<Event>,
    probers: HashMap<BackendId, (Target, mpsc::Sender<Question>)>,
    waiting: BTreeMap<Asker, oneshot::Sender<Response>>,
    next_asker: u64,
    interfaces: Vec<InterfaceReport>,
    page: Option<watch::Sender<String>>,
    metrics_due: Instant,
    started: Instant,
}

impl Controller {
    fn new(
        config: Config,
        datapath: &Datapath,
        events: mpsc::Sender<Event>,
        started: Instant,
    ) -> Result<Self> {
        let pin_dir = config.gateway.pin_dir.clone();
        let tables = Tables::open(&pin_dir)?;
        let found = restore::read(&tables)?;
        if datapath.is_restored {
            let place = pin_dir.display();
            info!("found the tables of an earlier run in {place}");
        }
        let report = |(name, xdp_mode): &(String, _)| InterfaceReport {
            name: name.clone(),
            xdp_mode: *xdp_mode,
        };
        Ok(Self {
            engine: Engine::new(config, found, Moment::ZERO),
            tables,
            jobs: walker::start(&pin_dir, events.clone())?,
            events,
            probers: HashMap::new(),
            waiting: BTreeMap::new(),
            next_asker: 0,
            interfaces: datapath.interfaces.iter().map(report).collect(),
            page: None,
            metrics_due: started + METRICS_INTERVAL,
            started,
        })
    }

    fn now(&self) -> Moment {
        clock::now().saturating_duration_since(self.started)
    }

    /// Lets the engine take an event in, with fresh tallies, and does what it asks for.
    fn step(&mut self, event: Event) {
        let (slots, backends) = self.engine.counted();
        let now = self.now();
        match restore::count(&self.tables, &slots, &backends) {
            Ok(tallies) => {
                let effects = self.engine.step(Event::Counted(tallies), now);
                self.perform(effects);
            }
            Err(error) => warn!("cannot read the tallies: {error:#}"),
        }
        let effects = self.engine.step(event, now);
        self.perform(effects);
    }

    async fn look_round(&mut self, network: &Network) {
        let surroundings = look_round(network, self.engine.config()).await;
        self.step(Event::NextHopsChanged(surroundings));
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut is_written = true;
        for effect in effects {
            match effect {
                Effect::Write(write) => is_written &= self.write(write),
                Effect::Probe(backend) => self.ask(backend, Question::Round),
                Effect::Watch(backend) => self.ask(backend, Question::Watch),
                Effect::Answer(asker, response) => {
                    if let Some(reply) = self.waiting.remove(&asker) {
                        // Whoever asked may have given up.
                        let _ = reply.send(response);
                    }
                }
                Effect::Tell(Weight::Info, text) => info!("{text}"),
                Effect::Tell(Weight::Warning, text) => warn!("{text}"),
                Effect::Reset { .. }
                | Effect::ResetClients { .. }
                | Effect::ResetFlows(_)
                | Effect::Walk
                | Effect::Remove { .. } => self.walk(effect),
            }
        }
        if !is_written {
            let events = self.events.clone();
            // Not at once: a table that cannot be written now may be in a moment.
            tokio::spawn(async move {
                tokio::time::sleep(METRICS_INTERVAL).await;
                let _ = events.send(Event::WriteFailed).await;
            });
        }
    }

    fn walk(&mut self, effect: Effect) {
        let job = walker::job(effect, self.engine.counted().0);
        if job.is_some_and(|job| self.jobs.send(job).is_err()) {
            error!("the walker of the connection tables has ended");
        }
    }

    fn write(&mut self, write: Write) -> bool {
        let tables = &mut self.tables;
        let result = match write {
            Write::Gateway(gateway) => tables.set_gateway(gateway),
            Write::Member(slot, member) => tables.set_member(slot, member),
            Write::Backend(id, backend) => tables.set_backend(id, backend),
            Write::Ring(id, ring) => tables.set_ring(id, &ring),
            Write::Filter(word, bits) => tables.set_filter(word, bits),
            Write::Trunk(interface, trunk) => tables.set_trunk(interface, trunk),
            Write::RemoveTrunk(interface) => tables.remove_trunk(interface),
            Write::Vip(vip) => tables.set_vip(vip),
            Write::RemoveVip(vip) => tables.remove_vip(vip),
            Write::Access(id, network, prefix, access) => {
                tables.set_access(id, network, prefix, access)
            }
            Write::RemoveAccess(id, network, prefix) => tables.remove_access(id, network, prefix),
            Write::Service(key, service) => tables.set_service(key, service),
            Write::RemoveService(key) => tables.remove_service(key),
        };
        if let Err(error) = &result {
            error!("cannot write to the kernel's tables: {error:#}");
        }
        result.is_ok()
    }

    fn ask(&mut self, id: BackendId, question: Question) {
        let Some(backend) = self.engine.backend(id) else {
            return;
        };
        let target = match prober::target(&backend.config, &backend.rules) {
            Ok(target) => target,
            Err(error) => {
                // The engine waits for an answer, and room for one is always there.
                let _ = self.events.try_send(prober::unable(id, question, &error));
                return;
            }
        };
        let is_current =
            |(known, sender): &(Target, mpsc::Sender<_>)| *known == target && !sender.is_closed();
        if !self.probers.get(&id).is_some_and(is_current) {
            let sender = prober::start(id, target.clone(), self.events.clone());
            self.probers.insert(id, (target, sender));
        }
        if let Some((_, sender)) = self.probers.get(&id) {
            // The engine asks one question at a time, so there is always room.
            let _ = sender.try_send(question);
        }
    }

    fn take_request(&mut self, request: Request, reply: oneshot::Sender<Response>) {
        match request {
            Request::Status => {
                self.step(Event::Tick);
                let _ = reply.send(Response::Status(self.report()));
            }
            Request::Explain { service, client } => {
                self.step(Event::Tick);
                let _ = reply.send(self.explain(&service, client));
            }
            Request::Connections { service, backend } => {
                let no_service = service.as_ref().filter(|it| !self.engine.has_service(it));
                let no_backend = backend.as_ref().filter(|it| !self.engine.has_backend(it));
                let message = match (no_service, no_backend) {
                    (Some(name), _) => format!("there is no service {name}"),
                    (None, Some(name)) => format!("there is no backend {name}"),
                    (None, None) => return self.report_connections(service, backend, reply),
                };
                let _ = reply.send(Response::Refused { message });
            }
            Request::Drain { .. }
            | Request::Maint { .. }
            | Request::Ready { .. }
            | Request::Weight { .. }
            | Request::Kill { .. } => {
                let asker = Asker(self.next_asker);
                self.next_asker += 1;
                self.waiting.insert(asker, reply);
                self.step(Event::Asked(request, asker));
            }
        }
    }

    fn report(&self) -> StatusReport {
        let interfaces = self.interfaces.clone();
        self.engine
            .status(interfaces, std::process::id(), self.now())
    }

    fn report_connections(
        &mut self,
        service: Option<String>,
        backend: Option<crate::protocol::BackendRef>,
        reply: oneshot::Sender<Response>,
    ) {
        let flows = Tables::established(&self.tables)
            .and_then(|established| Ok((established, self.tables.transient()?)));
        let response = match flows {
            Ok((established, transient)) => Response::Connections(self.engine.connections(
                &established,
                &transient,
                clock::kernel_tick(),
                service.as_deref(),
                backend.as_ref(),
            )),
            Err(error) => Response::Refused {
                message: format!("{error:#}"),
            },
        };
        let _ = reply.send(response);
    }

    fn explain(&self, service: &str, client: std::net::SocketAddr) -> Response {
        let row = self.engine.service_row(service);
        let turn = row.and_then(|row| self.tables.turn(row).ok()).unwrap_or(0);
        match self.engine.explain(service, client, turn) {
            Some(report) => Response::Explained(report),
            None => Response::Refused {
                message: format!("there is no service {service}"),
            },
        }
    }

    /// Reads the configuration again; one that cannot be used changes nothing.
    async fn reload(&mut self, path: &Path, network: &Network) {
        let config = match config::load(path) {
            Ok(config) => config,
            Err(error) => return error!("the configuration stays as it was: {error}"),
        };
        if config.gateway != self.engine.config().gateway {
            error!(
                "the configuration stays as it was: [gateway] has changed, which takes a restart \
                 (no connection is lost by one)"
            );
            return;
        }
        let prepare = async || {
            check_ports(&config)?;
            host::let_forward(network, &config).await?;
            host::take_vips(network, &config).await
        };
        if let Err(error) = prepare().await {
            error!("the configuration stays as it was: {error:#}");
            return;
        }
        let surroundings = look_round(network, &config).await;
        self.step(Event::NextHopsChanged(surroundings));
        self.step(Event::Configured(Box::new(config)));
    }

    async fn serve_metrics(&mut self) -> Result<()> {
        let Some(address) = self.engine.config().gateway.metrics else {
            return Ok(());
        };
        let listener = metrics_http::bind(address).await?;
        let (sender, page) = watch::channel(String::new());
        tokio::spawn(metrics_http::serve(listener, page));
        self.page = Some(sender);
        self.metrics_due = self.started;
        self.publish_metrics();
        Ok(())
    }

    fn publish_metrics(&mut self) {
        if clock::now() < self.metrics_due {
            return;
        }
        self.metrics_due = clock::now() + METRICS_INTERVAL;
        let Some(page) = &self.page else { return };
        let report = self.report();
        match self.tables.reasons() {
            Ok(reasons) => {
                let reasons: Vec<_> = reasons
                    .into_iter()
                    .map(|(reason, count)| (reason.label(), count))
                    .collect();
                page.send_replace(metrics::metrics(&report, &reasons));
            }
            Err(error) => warn!("cannot read the counters: {error:#}"),
        }
    }
}
