//! `pglb connections`: what is open right now.

use std::process::ExitCode;

use super::controller::{ask, unexpected};
use super::output::{colour, show, show_json};
use crate::cli::ConnectionsArgs;
use crate::protocol::{Request, Response};
use crate::render;

/// Lists open connections.
pub(super) fn run(args: &ConnectionsArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Connections {
        service: args.service.clone(),
        backend: args.backend.clone(),
    };
    let Response::Connections(connections) = ask(&args.controller.socket, &request)? else {
        return Err(unexpected(&request));
    };
    if args.json {
        show_json(&connections)?;
    } else {
        show(&render::connections(&connections, colour()))?;
    }
    Ok(ExitCode::SUCCESS)
}
