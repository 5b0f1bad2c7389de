//! `pglb explain`: which backend a new connection would get, and why.

use std::process::ExitCode;

use super::controller::{ask, unexpected};
use super::output::{colour, show};
use crate::cli::ExplainArgs;
use crate::protocol::{Request, Response};
use crate::render;

/// Asks for the choice and shows every candidate.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Explain {
        service: args.service.clone(),
        client: args.client,
    };
    let Response::Explained(report) = ask(&args.controller.socket, &request)? else {
        return Err(unexpected(&request));
    };
    show(&render::explain(&report, colour()))?;
    Ok(ExitCode::SUCCESS)
}
