//! `pglb kill`: connections are reset now.

use std::process::ExitCode;

use anyhow::bail;

use super::controller::order;
use crate::cli::{KillArgs, KillTargetArgs};
use crate::protocol::{KillTarget, Request};

/// Resets the connections of one backend, service or client.
pub(super) fn run(args: &KillArgs) -> anyhow::Result<ExitCode> {
    let KillTargetArgs {
        backend,
        service,
        client,
    } = args.target.clone();
    let target = match (backend, service, client) {
        (Some(backend), None, None) => KillTarget::Backend(backend),
        (None, Some(service), None) => KillTarget::Service(service),
        (None, None, Some(client)) => KillTarget::Client(client),
        (_, _, _) => bail!("exactly one of --backend, --service and --client is needed"),
    };
    order(&args.controller.socket, &Request::Kill { target })
}
