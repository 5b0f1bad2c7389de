//! `pglb run`: the controller, in the foreground.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::RunArgs;
use crate::{config, shell};

/// Runs the controller until it is told to stop.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.host.config)?;
    start_log(args.debug_datapath);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(shell::run::run(
        &args.host.config,
        config,
        args.debug_datapath,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Logs to stderr, where systemd's journal takes it; `RUST_LOG` sets another level.
fn start_log(is_debugging: bool) {
    let level = if is_debugging { "debug" } else { "info" };
    let default = format!("warn,lb_userspace={level},pglb_xdp={level}");
    let environment = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(environment)
        .format_target(false)
        .init();
}
