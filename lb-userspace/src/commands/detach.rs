//! `pglb detach`

/// Not built yet.
pub fn run(_: &crate::cli::HostArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not built yet")
}
