//! `pglb dump`: the kernel's own tables, read from their pins; works when the controller is dead.

use std::process::ExitCode;

use lb_common::backend::Backend;
use lb_common::flow::Tick;
use lb_common::limits::MAX_BACKENDS;
use lb_common::member::{BackendId, Slot};
use lb_common::service::Forwarding;
use lb_common::tally::Load;
use serde_json::{Value, json};

use super::output;
use crate::cli::{DumpArgs, DumpTable};
use crate::config;
use crate::engine::kernel::{backend_address, socket_address};
use crate::engine::recount::client_side;
use crate::render::table::{Align, Cell, Column, headings, line, widths};
use crate::shell::bpf_tables::Tables;
use crate::shell::{bpf, clock, privileges};

/// Prints one table, as text or as JSON.
pub fn run(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let gateway = config::load(&args.host.config)?.gateway;
    privileges::require("dump")?;
    anyhow::ensure!(
        bpf::has_tables(&gateway.pin_dir),
        "there are no tables in {}: pglb does not run here, or was detached",
        gateway.pin_dir.display()
    );
    let tables = Tables::open(&gateway.pin_dir)?;
    let rows = match args.table {
        DumpTable::Services => services(&tables)?,
        DumpTable::Backends => backends(&tables)?,
        DumpTable::Connections => connections(&tables)?,
        DumpTable::Counters => counters(&tables)?,
    };
    if args.json {
        output::show_json(&rows)?;
    } else {
        output::show(&render(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every member of every service.
fn services(tables: &Tables) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for (key, service) in tables.services()? {
        for slot in (0..service.members).map(|index| Slot::of(service.id, index)) {
            let member = tables.member(slot)?;
            let tally = tables.slot_tally(slot)?;
            let traffic = tables.traffic(slot)?;
            let load = Load::of(&tally, member.half_reaped, member.reaped);
            let backend = tables.backend(member.backend)?;
            rows.push(json!({
                "vip": socket_address(key.vip()),
                "backend": backend_address(backend.endpoint()),
                "slot": slot.0,
                "generation": member.generation,
                "eligible": member.is_eligible(),
                "weight": member.weight(),
                "half_open": load.half_open,
                "established": load.established,
                "suspect": !lb_common::choose::is_forgiven(tally.suspicions, member.forgiven),
                "packets_to_backend": traffic.packets_to_backend,
                "bytes_to_backend": traffic.bytes_to_backend,
                "packets_to_client": traffic.packets_to_client,
                "bytes_to_client": traffic.bytes_to_client,
            }));
        }
    }
    Ok(rows)
}

fn backends(tables: &Tables) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for id in (0..MAX_BACKENDS).map(BackendId) {
        let backend = tables.backend(id)?;
        if backend == Backend::default() {
            continue;
        }
        let load = Load::of(
            &tables.backend_tally(id)?,
            backend.half_reaped,
            backend.reaped,
        );
        let address = match id {
            BackendId::GATEWAY => json!("gateway"),
            _ => json!(backend_address(backend.endpoint())),
        };
        rows.push(json!({
            "id": id.0,
            "address": address,
            "max_connections": backend.max_connections,
            "half_open": load.half_open,
            "established": load.established,
            "given": load.given,
        }));
    }
    Ok(rows)
}

fn connections(tables: &Tables) -> anyhow::Result<Vec<Value>> {
    let now = clock::kernel_tick();
    let (established, transient) = (tables.established()?, tables.transient()?);
    let mut rows = Vec::new();
    for (key, flow) in client_side(&established).chain(client_side(&transient)) {
        let client = socket_address(key.sender());
        let mut row = json!({
            "client": client,
            "vip": socket_address(key.receiver()),
            "backend": socket_address(flow.leaving.receiver()),
            "phase": format!("{:?}", flow.phase()),
            "slot": flow.slot.0,
            "generation": flow.generation,
            "idle_ms": Tick::milliseconds(now.since(flow.last_seen)),
        });
        match flow.forwarding() {
            Forwarding::Nat => {}
            Forwarding::FullNat => row["gateway"] = json!(socket_address(flow.leaving.sender())),
            // Its packets leave as they came.
            Forwarding::Dsr => {
                let member = tables.member(flow.slot)?;
                let backend = tables.backend(member.backend)?;
                row["backend"] = json!(backend_address(backend.endpoint()));
            }
        }
        rows.push((client, row));
    }
    rows.sort_by_key(|(client, _)| *client);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn counters(tables: &Tables) -> anyhow::Result<Vec<Value>> {
    let reasons = tables.reasons()?.into_iter();
    Ok(reasons
        .map(|(reason, packets)| json!({ "reason": reason.label(), "packets": packets }))
        .collect())
}

/// Rows as a table, its columns named by their keys.
fn render(rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else {
        return "none\n".to_owned();
    };
    let names: Vec<String> = first.keys().cloned().collect();
    let columns: Vec<Column<'_>> = names
        .iter()
        .zip(first.values())
        .map(|(name, value)| {
            let align = if value.is_number() {
                Align::Right
            } else {
                Align::Left
            };
            (name.as_str(), align)
        })
        .collect();
    let cell = |value: &Value| match value.as_str() {
        Some(text) => Cell::plain(text),
        None => Cell::plain(value),
    };
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .filter_map(Value::as_object)
        .map(|row| row.values().map(cell).collect())
        .collect();
    let widths = widths(&columns, cells.iter());
    let heading = headings(&columns, clap::builder::styling::Style::new());
    let lines = [&heading].into_iter().chain(&cells);
    lines
        .map(|row| line(&columns, &widths, row) + "\n")
        .collect()
}
