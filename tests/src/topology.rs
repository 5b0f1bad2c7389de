//! The test network: a client, the gateway, and database hosts behind it, each in a namespace of its own.
//!
//! ```text
//!  client  eth0 10.71.0.10/24 ---- client 10.71.0.1/24   gateway   dbN 10.72.0.1/32 ---- eth0 10.72.0.1N/32  dbN
//!          default via 10.71.0.1                                                        default via 10.72.0.1
//! ```
//!
//! The hosts hang on routed links, not on a bridge: XDP cannot redirect to a bridge. Senders compute their TCP
//! checksums and receivers verify them, as on a wire: with offloads on, a wrong checksum would go unnoticed.
//! A [`Plan`] says what else a network can look like.

mod host;
mod link;
mod plan;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

pub use self::{
    host::Host,
    plan::{Plan, Returns, Shape},
};
use self::{link::Link, plan::NARROW};
use crate::{family::Family, namespace, namespace::Namespace, postgres};

/// The address the client has from the start.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 10);
/// The gateway's address on the client's side, and the client's default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
/// Where clients of the services connect to; nobody has it until pglb adds it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 100);
/// The gateway's address towards the database hosts, and their default route.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
/// The router's address, where one is between the client and the gateway.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
/// Where PostgreSQL listens.
pub const PORT: u16 = 5432;

/// The namespaces and their links; dropping it removes all of them and the directory.
#[derive(Debug)]
pub struct Network {
    plan: Plan,
    client: Namespace,
    gateway: Namespace,
    hosts: Vec<Host>,
    /// The bridge of [`Shape::Segment`], or the router of [`Shape::RouterToClient`].
    _middle: Option<Namespace>,
    directory: Directory,
    name: String,
    _turn: Turn,
}

impl Network {
    /// Builds the usual network with `hosts` database hosts, `db1` and on.
    pub fn build(hosts: u8) -> Result<Arc<Self>> {
        Self::of_plan(Plan::with_hosts(hosts))
    }

    /// Builds a network. A process has one at a time, and waits for its turn: tests measure times, and would disturb
    /// each other.
    pub fn of_plan(plan: Plan) -> Result<Arc<Self>> {
        let turn = Turn::take();
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            BUILT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = Directory::create(&name)?;
        let client = Namespace::create(format!("{name}-client"))?;
        let gateway = Namespace::create(format!("{name}-gateway"))?;
        gateway.run(FORWARD)?;
        let middle = match plan.shape {
            Shape::Routed | Shape::RouterToHosts => {
                connect_client(plan.family, &client, &gateway)?;
                None
            }
            Shape::RouterToClient => {
                let router = Namespace::create(format!("{name}-router"))?;
                connect_client_by_router(plan.family, &client, &router, &gateway)?;
                Some(router)
            }
            Shape::Segment => {
                let segment = Namespace::create(format!("{name}-segment"))?;
                segment.run("ip link add bridge type bridge")?;
                segment.run("ip link set bridge up")?;
                connect_client_by_bridge(plan.family, &client, &segment, &gateway)?;
                Some(segment)
            }
        };
        if plan.has_spare_links {
            Link::between((&client, "eth1"), (&gateway, "spare"))?;
        }
        let hosts = (1..=plan.hosts)
            .map(|number| Host::build(&name, number, plan, &gateway, &client, middle.as_ref()))
            .collect::<Result<_>>()?;
        Ok(Arc::new(Self {
            plan,
            client,
            gateway,
            hosts,
            _middle: middle,
            directory,
            name,
            _turn: turn,
        }))
    }

    /// What it was built after.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The address family that everybody speaks.
    pub fn family(&self) -> Family {
        self.plan.family
    }

    /// An address, given as that of IPv4, as it is in this network.
    pub fn address(&self, ipv4: Ipv4Addr) -> IpAddr {
        self.plan.family.address(ipv4)
    }

    /// Where the clients are.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where pglb runs.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The database hosts, in the order of their numbers.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The gateway's interfaces: the client's, then the hosts', then the spare ones.
    pub fn interfaces(&self) -> Vec<String> {
        let mut names = vec!["client".to_owned()];
        if self.plan.shape != Shape::Segment {
            names.extend(self.hosts.iter().map(|host| host.name().to_owned()));
        }
        if self.plan.has_spare_links {
            names.push("spare".to_owned());
            names.extend(self.hosts.iter().map(Host::spare));
        }
        names
    }

    /// A directory that lives as long as the network; the `postgres` account may read it.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// What tells this network from others on the machine, such as `pglb-4711-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the client one more address, for tests with clients that must differ.
    pub fn add_client_address(&self, address: Ipv4Addr) -> Result<IpAddr> {
        let (address, bits) = (self.address(address), self.plan.family.subnet_bits());
        self.client
            .run(&format!("ip address add {address}/{bits} dev eth0"))?;
        Ok(address)
    }
}

/// ```text
/// client  eth0 10.71.0.10/24 ---- client 10.71.0.1/24  gateway
/// ```
fn connect_client(family: Family, client: &Namespace, gateway: &Namespace) -> Result<()> {
    Link::between((client, "eth0"), (gateway, "client"))?;
    let bits = family.subnet_bits();
    let (own, via) = (family.address(CLIENT), family.address(GATEWAY));
    gateway.run(&format!("ip address add {via}/{bits} dev client"))?;
    client.run(&format!("ip address add {own}/{bits} dev eth0"))?;
    client
        .run(&format!("ip route add default via {via}"))
        .map(drop)
}

/// ```text
/// client  eth0 10.71.0.10/32 -- 1,400 -- far  router  eth0 10.71.0.2/24 -- 1,500 -- client 10.71.0.1/24  gateway
/// ```
fn connect_client_by_router(
    family: Family,
    client: &Namespace,
    router: &Namespace,
    gateway: &Namespace,
) -> Result<()> {
    Link::between((router, "eth0"), (gateway, "client"))?;
    Link::between((client, "eth0"), (router, "far"))?.narrow()?;
    router.run(FORWARD)?;
    let (one, bits) = (family.address_bits(), family.subnet_bits());
    let [own, via, middle] = [CLIENT, GATEWAY, ROUTER].map(|it| family.address(it));
    gateway.run(&format!("ip address add {via}/{bits} dev client"))?;
    gateway.run(&format!("ip route add {own}/{one} via {middle}"))?;
    router.run(&format!("ip address add {middle}/{bits} dev eth0"))?;
    router.run(&format!("ip address add {middle}/{one} dev far"))?;
    router.run(&format!("ip route add {own}/{one} dev far"))?;
    router.run(&format!("ip route add default via {via}"))?;
    client.run(&format!("ip address add {own}/{one} dev eth0"))?;
    client.run(&format!("ip route add {middle}/{one} dev eth0"))?;
    client
        .run(&format!(
            "ip route add default via {middle} {}",
            full_segments(family)
        ))
        .map(drop)
}

/// Client and gateway on one bridge, which has room for the hosts.
fn connect_client_by_bridge(
    family: Family,
    client: &Namespace,
    segment: &Namespace,
    gateway: &Namespace,
) -> Result<()> {
    let bits = family.subnet_bits();
    for (host, interface, address) in [(client, "eth0", CLIENT), (gateway, "client", GATEWAY)] {
        let port = if interface == "eth0" {
            "to-client"
        } else {
            "to-gateway"
        };
        Link::between((host, interface), (segment, port))?;
        segment.run(&format!("ip link set {port} master bridge"))?;
        if interface == "client" {
            // A link's far end is the gateway's otherwise: this one has to poll, for XDP to send back out of its
            // interface.
            segment.run(&format!("ethtool -K {port} gro on"))?;
        }
        let address = family.address(address);
        host.run(&format!("ip address add {address}/{bits} dev {interface}"))?;
    }
    Ok(())
}

/// The option of a route for which a host with a narrow link asks for whole segments nevertheless, as one does whose
/// narrow link is further away: senders must learn of it from the router in between.
fn full_segments(family: Family) -> String {
    format!("advmss {}", 1500 - family.headers())
}

/// Has a namespace forward packets.
const FORWARD: &str = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";

/// Removes what owners that no longer run have left behind: a killed test leaves its network.
pub fn sweep() {
    sweep_owners(|owner| !Path::new(&format!("/proc/{owner}")).exists());
}

/// Removes everything of this process, when it must end without dropping what it owns.
pub fn abandon() {
    sweep_owners(|owner| owner == std::process::id());
}

/// What all names begin with; the owner's process id follows.
pub(crate) const PREFIX: &str = "pglb-";
/// Where the tests' pins are, one directory a gateway.
pub(crate) const PINS: &str = "/sys/fs/bpf";

#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The right to have a network.
#[derive(Debug)]
struct Turn;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        // A panic elsewhere leaves the flag as true as it was.
        let is_taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = GIVEN_BACK.wait_while(is_taken, |is_taken| *is_taken);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        GIVEN_BACK.notify_one();
    }
}

fn sweep_owners(is_swept: impl Fn(u32) -> bool) {
    let swept = |name: &str, prefix: &str| -> bool {
        let owner = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        owner.is_some_and(&is_swept)
    };
    for name in names_in(Path::new("/run/netns")).filter(|name| swept(name, PREFIX)) {
        namespace::remove(&name);
    }
    for name in names_in(Path::new(PINS)).filter(|name| swept(name, "pglb-test-")) {
        let _ = fs::remove_dir_all(Path::new(PINS).join(name));
    }
    for name in names_in(&env::temp_dir()).filter(|name| swept(name, PREFIX)) {
        let directory = env::temp_dir().join(name);
        names_in(&directory).for_each(|host| postgres::remove_shared_memory(&directory.join(host)));
        let _ = fs::remove_dir_all(directory);
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
