//! `cargo xtask lab`: the demo's network, to play with. The demo starts from it as well.

use std::{
    io::{self, BufRead as _},
    process::Command,
};

use anyhow::Result;
use pglb_tests::{
    gateway::{Config, Gateway},
    postgres::{self, Cluster, Options},
    site::{RO_ADDRESS, RW_ADDRESS, Site},
    topology::Network,
};

use crate::{
    interrupt, setup,
    stage::{self, Step},
};

/// Brings the network up, says how to use it, and waits for Ctrl-C or the end of standard input.
pub(crate) fn run() -> Result<()> {
    interrupt::prepare("lab")?;
    setup::run()?;
    build()?;
    let lab = start()?;
    explain(&lab)?;
    for line in io::stdin().lock().lines() {
        if line?.trim() == "status" {
            println!("{}", lab.gateway.table()?);
        }
    }
    println!("cleaning up");
    Ok(())
}

/// Builds `pglb` in the profile that the demo and the tests run.
pub(crate) fn build() -> Result<()> {
    stage::run_visibly(Command::new("cargo").args([
        "build",
        "--package",
        "lb-userspace",
        "--bin",
        "pglb",
    ]))
}

/// Starts the demo's site, and says how long each part took.
pub(crate) fn start() -> Result<Site> {
    let step = Step::begin("network: namespaces client, gateway, db1, db2, db3");
    let network = Network::build(3)?;
    step.end();
    let step = Step::begin("PostgreSQL: primary on db1, streaming replicas on db2 and db3");
    let cluster = Cluster::start(&network, Options::default())?;
    step.end();
    let step = Step::begin("pglb: run -c config/demo.toml, until all three backends are up");
    let gateway = Gateway::start(&network, &Config::demo())?;
    let site = Site {
        gateway,
        cluster,
        network,
    };
    site.await_all_up()?;
    step.end();
    Ok(site)
}

fn explain(lab: &Site) -> Result<()> {
    let psql = postgres::find_binaries()?.join("psql");
    let client = lab.network.client().name();
    let gateway = lab.network.gateway().name();
    let pglb = pglb_tests::gateway::find_binary()?;
    let (psql, pglb, socket) = (
        psql.display(),
        pglb.display(),
        lab.gateway.socket().display(),
    );
    println!(
        "
A psql on the client, through pglb:
  primary    nsenter --net=/run/netns/{client} {psql} -h {rw} -p {rw_port} -U postgres
  replicas   nsenter --net=/run/netns/{client} {psql} -h {ro} -p {ro_port} -U postgres
pglb on the gateway:
  status     {pglb} status --socket {socket}
  drain      {pglb} drain db2 --socket {socket}
  log        tail -f {log}
  a shell    nsenter --net=/run/netns/{gateway} bash
Shells on the hosts: nsenter --net=/run/netns/{name}-db1 bash, and so on.

Type `status` and Enter for the table; Ctrl-C or Ctrl-D ends the lab and removes it.",
        rw = RW_ADDRESS.ip(),
        rw_port = RW_ADDRESS.port(),
        ro = RO_ADDRESS.ip(),
        ro_port = RO_ADDRESS.port(),
        log = lab.gateway.log_file().display(),
        name = lab.network.name(),
    );
    Ok(())
}
