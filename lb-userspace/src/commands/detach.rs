//! `pglb detach`: takes everything that pglb has put on this host off again.

use std::process::ExitCode;

use anyhow::Context;

use super::output;
use crate::cli::HostArgs;
use crate::config;
use crate::shell::{bpf, host, network::Network, pinning, privileges};

/// Detaches, and says what was taken off.
pub fn run(args: &HostArgs) -> anyhow::Result<ExitCode> {
    let gateway = config::load(&args.config)?.gateway;
    privileges::require("detach")?;
    if std::os::unix::net::UnixStream::connect(&gateway.control_socket).is_ok() {
        anyhow::bail!(
            "a controller answers on {}: stop it first, or it would go on without its tables",
            gateway.control_socket.display()
        );
    }
    let interfaces = bpf::detach(&gateway.pin_dir)?;
    pinning::release(&gateway.pin_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let vips = runtime.block_on(async {
        let network = Network::open()?;
        host::drop_vips(&network, &gateway).await
    })?;
    host::restore_settings(&gateway)?;
    let mut text = String::new();
    for interface in &interfaces {
        text.push_str(&format!("XDP is off {interface}\n"));
    }
    for (interface, vip) in &vips {
        text.push_str(&format!("{vip} is off {interface}\n"));
    }
    if text.is_empty() {
        text.push_str("nothing of pglb was on this host\n");
    }
    output::show(&text)?;
    Ok(ExitCode::SUCCESS)
}
