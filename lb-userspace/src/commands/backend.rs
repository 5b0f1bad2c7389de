//! `pglb maint`, `pglb ready` and `pglb weight`: one order about one backend.

use std::process::ExitCode;

use super::controller::order;
use crate::cli::{BackendArgs, WeightArgs};
use crate::protocol::Request;

/// Takes a backend out of service.
pub(super) fn maint(args: &BackendArgs) -> anyhow::Result<ExitCode> {
    let backend = args.backend.clone();
    order(&args.controller.socket, &Request::Maint { backend })
}

/// Puts a backend back into service.
pub(super) fn ready(args: &BackendArgs) -> anyhow::Result<ExitCode> {
    let backend = args.backend.clone();
    order(&args.controller.socket, &Request::Ready { backend })
}

/// Gives a backend another weight.
pub(super) fn weight(args: &WeightArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Weight {
        backend: args.backend.clone(),
        weight: args.weight,
    };
    order(&args.controller.socket, &request)
}
