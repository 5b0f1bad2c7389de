//! Loading, attaching and detaching the XDP program. Everything outlives the controller: tables
//! and links are pinned, and a restart replaces the program in one step.

pub mod places;
pub mod trial;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use aya::maps::RingBuf;
use aya::maps::ring_buf::RingBufItem;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode as AttachMode};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use lb_common::flow_table::buckets;
use lb_common::gateway::LAYOUT;
use lb_common::member::{BackendId, Slot};
use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::Sender;

use self::places::Places;
use super::bpf_tables::Tables;
use super::host::Interfaces;
use super::pinning;
use crate::config::{self, XdpMode};
use crate::report::AttachedMode;

/// The XDP program as an ELF object.
pub const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pglb-xdp"));
/// The program's name in [`OBJECT`].
pub const PROGRAM: &str = "pglb";
/// The tables of established flows, which get their size from the configuration.
const ESTABLISHED: [&str; 2] = ["ESTABLISHED_V4", "ESTABLISHED_V6"];
/// What the file of a pinned link starts with; the interface's name follows.
const LINK_PREFIX: &str = "link-";
/// Room for flows that were ended and not yet removed.
const SPARE_FLOWS: u32 = 1024;

/// The loaded program and its tables.
pub struct Datapath {
    /// The tables.
    pub tables: Tables,
    /// How the program is attached to each interface.
    pub interfaces: Vec<(String, AttachedMode)>,
    /// Whether the tables were there before this controller.
    pub is_restored: bool,
    ebpf: Ebpf,
}

/// Loads the program over the pinned tables, making those that are missing, and attaches it. A
/// start that fails leaves nothing behind that was not there before.
pub fn start(
    gateway: &config::Gateway,
    found: &Interfaces,
    is_debugging: bool,
) -> Result<Datapath> {
    let pin_dir = gateway.pin_dir.as_path();
    pinning::prepare(pin_dir)?;
    let is_restored = check_layout(pin_dir, gateway.max_connections)?;
    let constants = Constants {
        is_debugging,
        has_veth: found.has_veth,
    };
    let started = load_and_attach(gateway, found, constants, is_restored);
    if started.is_err() && !is_restored {
        detach(pin_dir)?;
        pinning::release(pin_dir)?;
    }
    started
}

fn load_and_attach(
    gateway: &config::Gateway,
    found: &Interfaces,
    constants: Constants,
    is_restored: bool,
) -> Result<Datapath> {
    let pin_dir = gateway.pin_dir.as_path();
    let places = Places::new(pin_dir, buckets(flows(gateway.max_connections)))?;
    let mut ebpf = places
        .loader(pin_dir)
        .override_global("DEBUG_DATAPATH", &u32::from(constants.is_debugging), true)
        .override_global("REDIRECT_BACK", &u32::from(constants.has_veth), true)
        .load(OBJECT)
        .with_context(|| format!("cannot make the tables in {}", pin_dir.display()))?;
    places.settle(&mut ebpf, pin_dir)?;
    let program = program(&mut ebpf, PROGRAM)?;
    program.load().map_err(explain_rejection)?;
    remove_other_links(pin_dir, &gateway.interfaces)?;
    let mut interfaces = Vec::new();
    for name in &gateway.interfaces {
        let before = found.attached.get(name).copied();
        let mode = attach(program, pin_dir, name, gateway.xdp_mode, before)
            .with_context(|| format!("cannot attach the XDP program to {name}"))?;
        info!("XDP is attached to {name} in {mode} mode");
        interfaces.push((name.clone(), mode));
    }
    let tables = Tables::open(pin_dir)?;
    if constants.is_debugging {
        log_events(&mut ebpf)?;
    }
    Ok(Datapath {
        tables,
        interfaces,
        is_restored,
        ebpf,
    })
}

/// Takes the program off its interfaces and removes every pin. What was not there is no error.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>> {
    let mut detached = Vec::new();
    for (path, name) in pins(pin_dir)? {
        // Closing the last reference to a link detaches its program; links go first, so that
        // no packet ever meets a program whose tables are gone.
        if let Some(interface) = name.strip_prefix(LINK_PREFIX) {
            remove(&path)?;
            detached.push(interface.to_owned());
        }
    }
    for (path, _) in pins(pin_dir)? {
        remove(&path)?;
    }
    Ok(detached)
}

impl Datapath {
    /// Starts to pass on the slots that have just become suspect; ends with the receiver.
    pub fn watch_suspects(&mut self, sender: Sender<Slot>) -> Result<()> {
        let map = self
            .ebpf
            .take_map("SUSPECTS")
            .context("the program has no queue of suspects")?;
        let mut queue = RingBuf::try_from(map)?;
        on_input("suspects", move |wait| {
            while wait(queue.as_fd()) && !sender.is_closed() {
                while let Some(item) = queue.next() {
                    if let Some(slot) = read_slot(&item)
                        && sender.blocking_send(slot).is_err()
                    {
                        return;
                    }
                }
            }
        })
    }
}

/// Runs `work` on a thread of its own, with a function that waits until there is input, or a
/// second has passed, and tells whether to go on. (A reactor cannot take such a file safely: it
/// does not own it.)
fn on_input(
    name: &str,
    work: impl FnOnce(&dyn Fn(BorrowedFd<'_>) -> bool) + Send + 'static,
) -> Result<()> {
    let wait = |fd: BorrowedFd<'_>| {
        let mut files = [PollFd::new(fd, PollFlags::POLLIN)];
        matches!(
            poll(&mut files, PollTimeout::from(1000_u16)),
            Ok(_) | Err(Errno::EINTR)
        )
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&wait))?;
    Ok(())
}

fn read_slot(item: &RingBufItem<'_>) -> Option<Slot> {
    let number = u32::from_ne_bytes((**item).try_into().ok()?);
    u16::try_from(number).ok().map(Slot)
}

/// Whether tables are pinned here.
pub fn has_tables(pin_dir: &Path) -> bool {
    pin_dir.join(ESTABLISHED[0]).exists()
}

/// Whether pglb's program is pinned as attached to this interface.
pub fn has_link(pin_dir: &Path, interface: &str) -> bool {
    pin_dir.join(format!("{LINK_PREFIX}{interface}")).exists()
}

/// Refuses tables of another layout or size before anything is touched; tells whether there are
/// any.
fn check_layout(pin_dir: &Path, max_connections: u32) -> Result<bool> {
    if !has_tables(pin_dir) {
        return Ok(false);
    }
    let advice = "drain the gateway, run `pglb detach`, and start again";
    let tables = match Tables::open(pin_dir) {
        Ok(tables) => tables,
        Err(error) => bail!(
            "the tables in {} are those of another pglb ({error:#}): {advice}",
            pin_dir.display()
        ),
    };
    let layout = tables.gateway()?.layout;
    // A controller that was killed before its first write leaves 0.
    if layout != LAYOUT && layout != 0 {
        bail!(
            "the tables in {} have layout {layout} and this pglb needs {LAYOUT}: {advice}",
            pin_dir.display()
        );
    }
    if tables.established_buckets() != buckets(flows(max_connections)) {
        bail!(
            "gateway.max_connections is {max_connections} and the connection table in {} was made \
             for {}: put the old value back, or drain the gateway, run `pglb detach`, and start \
             again",
            pin_dir.display(),
            tables.backend(BackendId::GATEWAY)?.max_connections
        );
    }
    Ok(true)
}

fn flows(max_connections: u32) -> u32 {
    max_connections * 2 + SPARE_FLOWS
}

/// What the program is told before it is loaded.
#[derive(Clone, Copy)]
struct Constants {
    is_debugging: bool,
    has_veth: bool,
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no XDP program {name}"))?;
    Ok(program.try_into()?)
}

/// The kernel's verdict, without the verifier's log of thousands of lines.
fn explain_rejection(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow::Error::new(error).context("cannot load the XDP program");
    };
    let log = verifier_log.to_string();
    let is_verdict = |line: &&str| !line.starts_with("processed") && !line.trim().is_empty();
    let verdict = log.lines().rev().find(is_verdict);
    anyhow::anyhow!(
        "the kernel does not accept the XDP program ({io_error}{}); pglb needs Linux 5.15 or newer \
         and the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        verdict.map(|line| format!("; {line}")).unwrap_or_default()
    )
}

/// Attaches the program to one interface, or replaces the one that an earlier controller left.
fn attach(
    program: &mut Xdp,
    pin_dir: &Path,
    interface: &str,
    wanted: XdpMode,
    before: Option<AttachedMode>,
) -> Result<AttachedMode> {
    let pin = pin_dir.join(format!("{LINK_PREFIX}{interface}"));
    if pin.exists() {
        let link = FdLink::from(PinnedLink::from_pin(&pin)?);
        match XdpLink::try_from(link).map(|link| program.attach_to_link(link)) {
            Ok(Ok(_)) => return Ok(before.unwrap_or(AttachedMode::Native)),
            Ok(Err(_)) | Err(_) => {
                // The interface was made anew since: its old link is an empty shell.
                remove(&pin)?;
            }
        }
    }
    if before.is_some() {
        bail!("another XDP program is there already; `ip link set {interface} xdp off` removes it");
    }
    let (link, mode) = match wanted {
        XdpMode::Native => (
            program.attach(interface, AttachMode::Driver)?,
            AttachedMode::Native,
        ),
        XdpMode::Generic => (
            program.attach(interface, AttachMode::Skb)?,
            AttachedMode::Generic,
        ),
        XdpMode::Auto => match program.attach(interface, AttachMode::Driver) {
            Ok(link) => (link, AttachedMode::Native),
            Err(native) => {
                let link = program.attach(interface, AttachMode::Skb)?;
                warn!(
                    "{interface} has no native XDP ({native}): pglb runs in generic mode there, \
                     which is several times slower; set xdp_mode = \"generic\" to accept that"
                );
                (link, AttachedMode::Generic)
            }
        },
    };
    let link = FdLink::try_from(program.take_link(link)?)
        .context("the kernel is older than XDP links (Linux 5.9)")?;
    link.pin(&pin)?;
    Ok(mode)
}

/// Takes the program off interfaces that the configuration no longer names.
fn remove_other_links(pin_dir: &Path, interfaces: &[String]) -> Result<()> {
    for (path, name) in pins(pin_dir)? {
        if let Some(interface) = name.strip_prefix(LINK_PREFIX)
            && !interfaces.iter().any(|wanted| wanted == interface)
        {
            info!("XDP is taken off {interface}, which the configuration does not name");
            remove(&path)?;
        }
    }
    Ok(())
}

fn pins(pin_dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", pin_dir.display()));
        }
    };
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Passes the program's log records on to this process's log.
fn log_events(ebpf: &mut Ebpf) -> Result<()> {
    let mut logger = aya_log::EbpfLogger::init(ebpf)?;
    on_input("datapath-log", move |wait| {
        loop {
            if !wait(logger.as_fd()) {
                return;
            }
            logger.flush();
        }
    })
}
